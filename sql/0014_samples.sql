-- Samples of spam that come by mail, by HTTP or by SQL: they wait here until the scheduler has
-- read their way, for only it may list.

CREATE TABLE relaytest.submission (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sample      bytea       CHECK (octet_length(sample) BETWEEN 1 AND 262144),
    truncated   boolean     NOT NULL DEFAULT false,     -- the message was longer
    address     inet,                                   -- who is nominated; NULL: see the Received lines
    port        integer     NOT NULL DEFAULT 25 CHECK (port BETWEEN 1 AND 65535),
    tool        text        NOT NULL DEFAULT session_user CHECK (length(tool) BETWEEN 1 AND 200),
    received_at timestamptz NOT NULL DEFAULT now(),
    done_at     timestamptz,
    outcome     text        NOT NULL DEFAULT '',        -- who was nominated, or why nobody
    CONSTRAINT submitted_is_a_host CHECK (masklen(address) = CASE family(address) WHEN 4 THEN 32 ELSE 128 END),
    CONSTRAINT sample_until_done CHECK ((sample IS NULL) = (done_at IS NOT NULL))   -- then it is a nomination
);
CREATE INDEX submission_open ON relaytest.submission (id) WHERE done_at IS NULL;
CREATE INDEX submission_done ON relaytest.submission (done_at) WHERE done_at IS NOT NULL;
COMMENT ON TABLE relaytest.submission IS
    'INSERT INTO relaytest.submission (sample) VALUES (message): nominates who sent it to us from outside. See README';

CREATE FUNCTION relaytest.submission_insert() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    c_most CONSTANT integer := 10000;
BEGIN
    IF c_most <= (SELECT count(*) FROM (SELECT FROM relaytest.submission WHERE done_at IS NULL LIMIT c_most) AS many) THEN
        RAISE EXCEPTION '% samples wait to be read already', c_most USING ERRCODE = '54000',
            HINT = 'Come back later.';
    END IF;
    PERFORM pg_notify('relaytest_sample', '');
    RETURN NEW;
END $$;
CREATE TRIGGER submission_insert BEFORE INSERT ON relaytest.submission
    FOR EACH ROW EXECUTE FUNCTION relaytest.submission_insert();

-- Masks the addresses of others in what is shown of a sample (RFC 6590): the same one always alike.
CREATE TABLE relaytest.mask_key (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),     -- one row
    key    bytea   NOT NULL CHECK (length(key) >= 32)
);
INSERT INTO relaytest.mask_key (key) VALUES (sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())));

ALTER FUNCTION relaytest.grant_roles() RENAME TO grant_public_roles;
CREATE FUNCTION relaytest.grant_roles() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    v_role text;
BEGIN
    PERFORM relaytest.grant_public_roles();
    FOREACH v_role IN ARRAY ARRAY['submit', 'sink', 'web'] LOOP
        EXECUTE format('GRANT INSERT (sample, truncated, address, port, tool), '
                       'SELECT (id, received_at, done_at, outcome) ON relaytest.submission TO %I', 'relaytest_' || v_role);
    END LOOP;
    GRANT SELECT, UPDATE, DELETE ON relaytest.submission TO relaytest_scheduler;
    GRANT INSERT ON relaytest.nomination TO relaytest_scheduler;
    GRANT SELECT ON relaytest.mask_key TO relaytest_web;
END $$;
COMMENT ON FUNCTION relaytest.grant_roles IS
    'Makes the roles relaytest_* and grants them what they need; needs CREATEROLE. May be run again';
REVOKE EXECUTE ON FUNCTION relaytest.grant_roles(), relaytest.grant_public_roles() FROM PUBLIC;

DO $$
BEGIN
    PERFORM relaytest.grant_roles();
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'no roles made: %; let a superuser run SELECT relaytest.grant_roles()', SQLERRM;
END $$;
