-- The public side: how often somebody may ask, and the trials of one request.

-- How much of something was used in the current window of time. Not logged: a crash of the server
-- may forget it.
CREATE UNLOGGED TABLE relaytest.allowance (
    key     text        PRIMARY KEY CHECK (length(key) BETWEEN 1 AND 200),
    used    integer     NOT NULL,
    ends_at timestamptz NOT NULL                -- of the window
);
CREATE INDEX allowance_ends ON relaytest.allowance (ends_at);

CREATE FUNCTION relaytest.use_allowance(p_key text, p_most integer, p_window interval) RETURNS timestamptz
LANGUAGE sql SET search_path = pg_catalog AS $$
    INSERT INTO relaytest.allowance AS a (key, used, ends_at) VALUES (p_key, 1, now() + p_window)
    ON CONFLICT (key) DO UPDATE SET
        used    = CASE WHEN a.ends_at <= now() THEN 1 ELSE least(a.used, p_most) + 1 END,
        ends_at = CASE WHEN a.ends_at <= now() THEN excluded.ends_at ELSE a.ends_at END
    RETURNING CASE WHEN a.used > p_most THEN a.ends_at END
$$;
COMMENT ON FUNCTION relaytest.use_allowance IS
    'Counts one use of a key; NULL if it is within the allowance, else when the next window begins';

CREATE INDEX trial_job ON relaytest.trial (job);        -- what became of a request

ALTER FUNCTION relaytest.grant_roles() RENAME TO grant_dns_roles;
CREATE FUNCTION relaytest.grant_roles() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    PERFORM relaytest.grant_dns_roles();
    GRANT SELECT, INSERT, UPDATE ON relaytest.allowance TO relaytest_web;
    GRANT SELECT (ends_at), DELETE ON relaytest.allowance TO relaytest_scheduler;
    GRANT SELECT ON relaytest.outcome, relaytest.verdict TO relaytest_web;
END $$;
COMMENT ON FUNCTION relaytest.grant_roles IS
    'Makes the roles relaytest_* and grants them what they need; needs CREATEROLE. May be run again';
REVOKE EXECUTE ON FUNCTION relaytest.grant_roles(), relaytest.grant_dns_roles() FROM PUBLIC;

DO $$
BEGIN
    PERFORM relaytest.grant_roles();
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'no roles made: %; let a superuser run SELECT relaytest.grant_roles()', SQLERRM;
END $$;
