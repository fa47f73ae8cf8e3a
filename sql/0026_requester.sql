-- The scheduler keeps count of its own rechecks; nobody else passes for it.

CREATE FUNCTION relaytest.refuse_impostor() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles AS r
                    WHERE (r.rolname = 'relaytest_scheduler'
                           OR r.oid = (SELECT c.relowner FROM pg_class AS c WHERE c.oid = TG_RELID))
                      AND pg_has_role(session_user, r.oid, 'MEMBER')) THEN
        RAISE EXCEPTION 'requester "%" is the scheduler''s own name', NEW.requester USING ERRCODE = '42501',
            HINT = 'Leave requester out, or name who asks.';
    END IF;
    RETURN NEW;
END $$;
COMMENT ON FUNCTION relaytest.refuse_impostor IS 'A recheck of the scheduler waits for nothing, so it must be one';
REVOKE EXECUTE ON FUNCTION relaytest.refuse_impostor() FROM PUBLIC;

CREATE TRIGGER refuse_impostor BEFORE INSERT ON relaytest.job
    FOR EACH ROW WHEN (NEW.requester = 'scheduler') EXECUTE FUNCTION relaytest.refuse_impostor();
