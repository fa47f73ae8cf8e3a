-- What the operator of a service sees and does: which daemons there are, and pauses of a network.

-- A daemon that runs somewhere; workers, which hold leases, are in relaytest.worker.
CREATE TABLE relaytest.daemon (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text        NOT NULL CHECK (name ~ '^[a-z]{1,20}$'),
    host       text        NOT NULL,
    pid        integer     NOT NULL,
    version    text        NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    beat_at    timestamptz NOT NULL DEFAULT now()
);

-- The last thing that the publisher of each host did.
CREATE TABLE relaytest.publication (
    zone    text,
    host    text,
    at      timestamptz NOT NULL DEFAULT now(),
    result  text        NOT NULL CHECK (result IN ('done', 'failed', 'refused', 'rolled-back')),
    entries bigint      NOT NULL,
    PRIMARY KEY (zone, host)
);

-- A pause is of all, of a place, or of a network.
ALTER TABLE relaytest.pause
    ADD COLUMN network cidr,                        -- NULL: of whatever network
    ADD CONSTRAINT place_or_network CHECK (network IS NULL OR vantage = ''),
    ADD CONSTRAINT paused_in_one_spelling CHECK (NOT network <<= '::ffff:0:0/96');
DROP INDEX relaytest.pause_once;
CREATE UNIQUE INDEX pause_once ON relaytest.pause (vantage, coalesce(network::text, '')) WHERE ended_at IS NULL;

ALTER TABLE relaytest.job ADD COLUMN held_by bigint;    -- the pause for whose end it waits
CREATE INDEX job_held ON relaytest.job (held_by) WHERE held_by IS NOT NULL;

-- Infinite times cannot be subtracted: one of a request would have stopped every worker.
UPDATE relaytest.job SET run_at = now() WHERE NOT run_at BETWEEN '1970-01-01 UTC' AND '9000-01-01 UTC';
UPDATE relaytest.name_request SET run_at = now() WHERE NOT run_at BETWEEN '1970-01-01 UTC' AND '9000-01-01 UTC';
ALTER TABLE relaytest.job
    ADD CONSTRAINT run_at_is_a_time CHECK (run_at BETWEEN '1970-01-01 UTC' AND '9000-01-01 UTC');
ALTER TABLE relaytest.name_request
    ADD CONSTRAINT run_at_is_a_time CHECK (run_at BETWEEN '1970-01-01 UTC' AND '9000-01-01 UTC');

ALTER FUNCTION relaytest.grant_roles() RENAME TO grant_partition_roles;
CREATE FUNCTION relaytest.grant_roles() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    PERFORM relaytest.grant_partition_roles();
    GRANT SELECT, INSERT, DELETE, UPDATE (beat_at) ON relaytest.daemon TO relaytest_worker, relaytest_sink,
        relaytest_scheduler, relaytest_publisher, relaytest_web, relaytest_notifier;
    GRANT SELECT, INSERT, UPDATE ON relaytest.publication TO relaytest_publisher;
    GRANT SELECT (id, send_at) ON relaytest.mail TO relaytest_scheduler;
    GRANT SELECT (probed_at) ON relaytest.trial TO relaytest_sink;
    GRANT SELECT ON relaytest.pause TO relaytest_scheduler;
END $$;
COMMENT ON FUNCTION relaytest.grant_roles IS
    'Makes the roles relaytest_* and grants them what they need; needs CREATEROLE. May be run again';
REVOKE EXECUTE ON FUNCTION relaytest.grant_roles(), relaytest.grant_partition_roles() FROM PUBLIC;

DO $$
BEGIN
    PERFORM relaytest.grant_roles();
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'no roles made: %; let a superuser run SELECT relaytest.grant_roles()', SQLERRM;
END $$;
