-- Who may ask for tests and nominate by HTTP.

CREATE TABLE relaytest.api_token (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text        NOT NULL CHECK (name ~ '^[ -~]{1,100}$'),
    hash       bytea       NOT NULL UNIQUE CHECK (octet_length(hash) = 32),     -- SHA-256; the token itself is nowhere
    may        text[]      NOT NULL CHECK (may <@ '{request,nominate}' AND cardinality(may) > 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    ended_at   timestamptz
);
CREATE UNIQUE INDEX api_token_name ON relaytest.api_token (name) WHERE ended_at IS NULL;

ALTER FUNCTION relaytest.grant_roles() RENAME TO grant_sample_roles;
CREATE FUNCTION relaytest.grant_roles() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    PERFORM relaytest.grant_sample_roles();
    GRANT SELECT ON relaytest.api_token TO relaytest_web;
END $$;
COMMENT ON FUNCTION relaytest.grant_roles IS
    'Makes the roles relaytest_* and grants them what they need; needs CREATEROLE. May be run again';
REVOKE EXECUTE ON FUNCTION relaytest.grant_roles(), relaytest.grant_sample_roles() FROM PUBLIC;

DO $$
BEGIN
    PERFORM relaytest.grant_roles();
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'no roles made: %; let a superuser run SELECT relaytest.grant_roles()', SQLERRM;
END $$;
