-- Reports of listings to the abuse contacts of networks, a stop link in every notice, and one
-- confirmation a day for the outcomes of all requests.

ALTER TABLE relaytest.mail
    DROP CONSTRAINT mail_kind_check,
    ADD CONSTRAINT mail_kind CHECK (kind IN ('confirm', 'outcome', 'notice', 'report')),
    DROP CONSTRAINT notice_once,
    ADD CONSTRAINT told_once UNIQUE (kind, change),
    ADD COLUMN code text UNIQUE CHECK (length(code) >= 22);     -- of a notice or report, once it has a mailbox
DROP INDEX relaytest.mail_address;
CREATE INDEX mail_address ON relaytest.mail (address, kind, created_at) WHERE change IS NOT NULL;

-- Who confirms a mailbox confirms it for all that it is asked about that day.
CREATE INDEX subscription_mailbox ON relaytest.subscription (lower(mailbox), created_at);

-- What DNS said of the network of an address; '': there is no contact.
CREATE TABLE relaytest.abuse_contact (
    address inet        PRIMARY KEY CHECK (masklen(address) = CASE family(address) WHEN 4 THEN 32 ELSE 128 END),
    mailbox text        NOT NULL CHECK (length(mailbox) <= 254),
    until   timestamptz NOT NULL
);
CREATE INDEX abuse_contact_until ON relaytest.abuse_contact (until);

ALTER FUNCTION relaytest.grant_roles() RENAME TO grant_service_roles;
CREATE FUNCTION relaytest.grant_roles() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    PERFORM relaytest.grant_service_roles();
    GRANT SELECT, INSERT, UPDATE, DELETE ON relaytest.abuse_contact TO relaytest_notifier;
    GRANT SELECT, INSERT, UPDATE ON relaytest.allowance TO relaytest_notifier;
    GRANT SELECT ON relaytest.receipt TO relaytest_notifier;
    GRANT SELECT (mailbox, code) ON relaytest.mail TO relaytest_web;
END $$;
COMMENT ON FUNCTION relaytest.grant_roles IS
    'Makes the roles relaytest_* and grants them what they need; needs CREATEROLE. May be run again';
REVOKE EXECUTE ON FUNCTION relaytest.grant_roles(), relaytest.grant_service_roles() FROM PUBLIC;

DO $$
BEGIN
    PERFORM relaytest.grant_roles();
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'no roles made: %; let a superuser run SELECT relaytest.grant_roles()', SQLERRM;
END $$;
