-- No visits for a while, at one place or at all of them, by the operator's word.

CREATE TABLE relaytest.pause (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    vantage  text        NOT NULL DEFAULT '' CHECK (vantage ~ '^[a-z0-9-]{0,40}$'),   -- '': all places
    why      text        NOT NULL CHECK (length(btrim(why)) BETWEEN 1 AND 2000),
    actor    text        NOT NULL DEFAULT session_user,
    since    timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz,
    ended_by text,
    CONSTRAINT ended_by_somebody CHECK ((ended_at IS NULL) = (ended_by IS NULL))
);
CREATE UNIQUE INDEX pause_once ON relaytest.pause (vantage) WHERE ended_at IS NULL;

ALTER FUNCTION relaytest.grant_roles() RENAME TO grant_mail_roles;
CREATE FUNCTION relaytest.grant_roles() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    PERFORM relaytest.grant_mail_roles();
    GRANT SELECT ON relaytest.pause TO relaytest_worker, relaytest_read, relaytest_web;
END $$;
COMMENT ON FUNCTION relaytest.grant_roles IS
    'Makes the roles relaytest_* and grants them what they need; needs CREATEROLE. May be run again';
REVOKE EXECUTE ON FUNCTION relaytest.grant_roles(), relaytest.grant_mail_roles() FROM PUBLIC;

DO $$
BEGIN
    PERFORM relaytest.grant_roles();
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'no roles made: %; let a superuser run SELECT relaytest.grant_roles()', SQLERRM;
END $$;
