-- The pages tell from when on a removal may be requested again.

ALTER FUNCTION relaytest.grant_roles() RENAME TO grant_report_roles;
CREATE FUNCTION relaytest.grant_roles() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    PERFORM relaytest.grant_report_roles();
    GRANT SELECT ON relaytest.pace TO relaytest_web;
END $$;
COMMENT ON FUNCTION relaytest.grant_roles IS
    'Makes the roles relaytest_* and grants them what they need; needs CREATEROLE. May be run again';
REVOKE EXECUTE ON FUNCTION relaytest.grant_roles(), relaytest.grant_report_roles() FROM PUBLIC;

DO $$
BEGIN
    PERFORM relaytest.grant_roles();
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'no roles made: %; let a superuser run SELECT relaytest.grant_roles()', SQLERRM;
END $$;
