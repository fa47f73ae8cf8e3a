-- Roles without a login: what other tools and each daemon may do, and nothing else. Give a login
-- one of them: CREATE ROLE trap LOGIN IN ROLE relaytest_submit.

CREATE FUNCTION relaytest.grant_roles() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog AS $function$
DECLARE
    v_role text;
BEGIN
    FOREACH v_role IN ARRAY ARRAY['submit', 'read', 'worker', 'sink', 'scheduler', 'publisher', 'web'] LOOP
        v_role := 'relaytest_' || v_role;
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = v_role) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', v_role);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;                           -- roles are the whole cluster's: another database was quicker
            END;
        END IF;
        EXECUTE format('GRANT USAGE ON SCHEMA relaytest TO %I', v_role);
    END LOOP;

    -- Other tools
    GRANT INSERT, SELECT ON relaytest.retest TO relaytest_submit;
    GRANT SELECT ON relaytest.verdict_latest, relaytest.verdict_by_vantage, relaytest.listing_current,
        relaytest.listing_history, relaytest.queue_status, relaytest.exclusion_current TO relaytest_read;
    -- relaytest.next_request_at
    GRANT SELECT (id, address, port, reason, started_at) ON relaytest.trial TO relaytest_submit;
    GRANT SELECT (trial, address, port, verdict) ON relaytest.verdict TO relaytest_submit;
    GRANT SELECT ON relaytest.pace TO relaytest_submit;

    -- Each daemon looks whether the schema is the one that it knows.
    GRANT SELECT ON relaytest.schema_version TO relaytest_worker, relaytest_sink, relaytest_scheduler,
        relaytest_publisher, relaytest_web;

    -- What judging needs to see
    GRANT SELECT ON relaytest.trial, relaytest.session, relaytest.outcome, relaytest.receipt,
        relaytest.verdict, relaytest.sink_check TO relaytest_worker, relaytest_scheduler;

    GRANT SELECT, UPDATE, DELETE ON relaytest.job TO relaytest_worker;
    GRANT SELECT, INSERT, UPDATE ON relaytest.network, relaytest.trial TO relaytest_worker;
    GRANT SELECT ON relaytest.network_limit, relaytest.token_key, relaytest.exclusion_current TO relaytest_worker;
    GRANT SELECT, INSERT, UPDATE, DELETE ON relaytest.worker TO relaytest_worker;
    GRANT INSERT ON relaytest.session, relaytest.outcome, relaytest.verdict TO relaytest_worker;
    GRANT USAGE ON SEQUENCE relaytest.trial_id, relaytest.session_id_seq TO relaytest_worker;

    GRANT SELECT ON relaytest.token_key TO relaytest_sink;
    GRANT SELECT, INSERT, UPDATE ON relaytest.receipt TO relaytest_sink;
    GRANT SELECT, INSERT, UPDATE, DELETE ON relaytest.sink_check TO relaytest_sink;
    GRANT SELECT (id), UPDATE (settle_at) ON relaytest.trial TO relaytest_sink;

    GRANT SELECT, UPDATE ON relaytest.job, relaytest.trial TO relaytest_scheduler;
    GRANT INSERT, SELECT ON relaytest.retest TO relaytest_scheduler;
    GRANT SELECT, DELETE ON relaytest.worker TO relaytest_scheduler;
    GRANT SELECT (id, created_at), DELETE ON relaytest.token_key TO relaytest_scheduler;   -- never the key
    GRANT SELECT, INSERT, UPDATE ON relaytest.vantage, relaytest.listing TO relaytest_scheduler;
    GRANT SELECT, INSERT ON relaytest.listing_change TO relaytest_scheduler;
    GRANT INSERT ON relaytest.verdict TO relaytest_scheduler;
    GRANT SELECT ON relaytest.nomination, relaytest.exclusion_current TO relaytest_scheduler;
    GRANT SELECT, INSERT, UPDATE, DELETE ON relaytest.scope_network TO relaytest_scheduler;
    GRANT SELECT, INSERT, UPDATE, DELETE ON relaytest.network_limit TO relaytest_scheduler;
    GRANT SELECT, UPDATE ON relaytest.pace TO relaytest_scheduler;
    GRANT SELECT, UPDATE, DELETE ON relaytest.name_request TO relaytest_scheduler;

    GRANT SELECT ON relaytest.listing_current TO relaytest_publisher;

    GRANT SELECT ON relaytest.verdict_latest, relaytest.verdict_by_vantage, relaytest.listing_current,
        relaytest.listing_history, relaytest.queue_status, relaytest.exclusion_current, relaytest.listing,
        relaytest.nomination, relaytest.job, relaytest.trial, relaytest.session, relaytest.receipt,
        relaytest.sink_check, relaytest.worker, relaytest.vantage, relaytest.exclusion TO relaytest_web;
    GRANT INSERT, SELECT ON relaytest.retest TO relaytest_web;
END $function$;
COMMENT ON FUNCTION relaytest.grant_roles IS
    'Makes the roles relaytest_* and grants them what they need; needs CREATEROLE. May be run again';

DO $$
BEGIN
    PERFORM relaytest.grant_roles();
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'no roles made: %; let a superuser run SELECT relaytest.grant_roles()', SQLERRM;
END $$;

-- Functions are for everybody by default, and whoever calls these acts with his own rights.
REVOKE EXECUTE ON FUNCTION relaytest.grant_roles() FROM PUBLIC;
