-- Mail that we send, if the operator wants it: the outcome of a request to whoever asked for it
-- and has confirmed his mailbox, and one notice for each listing.

-- Who wants to hear what comes of a request.
CREATE TABLE relaytest.subscription (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job          bigint      NOT NULL,
    mailbox      text        NOT NULL CHECK (length(mailbox) BETWEEN 3 AND 254),
    code         text        NOT NULL UNIQUE CHECK (length(code) >= 22),     -- in the links; nobody guesses it
    created_at   timestamptz NOT NULL DEFAULT now(),
    confirmed_at timestamptz,
    told_at      timestamptz,                   -- the outcome is in relaytest.mail
    CONSTRAINT told_if_confirmed CHECK (told_at IS NULL OR confirmed_at IS NOT NULL),
    CONSTRAINT subscribed_once UNIQUE (job, mailbox)
);
CREATE INDEX subscription_open ON relaytest.subscription (job) WHERE confirmed_at IS NOT NULL AND told_at IS NULL;
CREATE INDEX subscription_created ON relaytest.subscription (created_at);

-- Who wants no mail from us any more.
CREATE TABLE relaytest.unwanted (
    mailbox text        PRIMARY KEY,
    since   timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE relaytest.mail (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind         text        NOT NULL CHECK (kind IN ('confirm', 'outcome', 'notice')),
    mailbox      text        NOT NULL,
    subscription bigint      REFERENCES relaytest.subscription ON DELETE CASCADE,
    change       bigint,                        -- of the listing that a notice tells of
    address      inet        NOT NULL,
    port         integer     NOT NULL,
    trial        bigint,
    created_at   timestamptz NOT NULL DEFAULT now(),
    send_at      timestamptz DEFAULT now(),     -- next try; NULL: sent, or given up
    tries        integer     NOT NULL DEFAULT 0,
    sent_at      timestamptz,
    fault        text        NOT NULL DEFAULT '',
    CONSTRAINT mail_once UNIQUE (kind, subscription),
    CONSTRAINT notice_once UNIQUE (change),
    CONSTRAINT sent_is_done CHECK (sent_at IS NULL OR send_at IS NULL)
);
CREATE INDEX mail_due ON relaytest.mail (send_at) WHERE send_at IS NOT NULL;
CREATE INDEX mail_address ON relaytest.mail (address, created_at) WHERE kind = 'notice';
CREATE INDEX mail_created ON relaytest.mail (created_at);

ALTER FUNCTION relaytest.grant_roles() RENAME TO grant_api_roles;
CREATE FUNCTION relaytest.grant_roles() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    PERFORM relaytest.grant_api_roles();
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'relaytest_notifier') THEN
        BEGIN
            CREATE ROLE relaytest_notifier NOLOGIN;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;                               -- another database of the cluster was quicker
        END;
    END IF;
    GRANT USAGE ON SCHEMA relaytest TO relaytest_notifier;
    GRANT SELECT ON relaytest.schema_version, relaytest.listing_history, relaytest.listing_current, relaytest.job,
        relaytest.trial, relaytest.verdict TO relaytest_notifier;
    GRANT SELECT, INSERT, UPDATE, DELETE ON relaytest.mail TO relaytest_notifier;
    GRANT SELECT, UPDATE (told_at), DELETE ON relaytest.subscription TO relaytest_notifier;
    GRANT SELECT ON relaytest.unwanted TO relaytest_notifier;
    GRANT SELECT, INSERT, UPDATE (confirmed_at) ON relaytest.subscription TO relaytest_web;
    GRANT SELECT, INSERT ON relaytest.unwanted TO relaytest_web;
    GRANT INSERT ON relaytest.mail TO relaytest_web;
END $$;
COMMENT ON FUNCTION relaytest.grant_roles IS
    'Makes the roles relaytest_* and grants them what they need; needs CREATEROLE. May be run again';
REVOKE EXECUTE ON FUNCTION relaytest.grant_roles(), relaytest.grant_api_roles() FROM PUBLIC;

DO $$
BEGIN
    PERFORM relaytest.grant_roles();
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'no roles made: %; let a superuser run SELECT relaytest.grant_roles()', SQLERRM;
END $$;
