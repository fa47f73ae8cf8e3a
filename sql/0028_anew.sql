-- Who asks for a test of a target whose job waits for a further visit gets a new trial, if relay was
-- proven in that job's: such a visit asks nothing more, and the request came to nothing with it.

CREATE FUNCTION relaytest.unproven(p_trial bigint, p_address inet, p_port integer) RETURNS bigint
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT p_trial WHERE NOT EXISTS (
        SELECT FROM relaytest.verdict AS v
         WHERE v.address = p_address AND v.port = p_port AND v.trial = p_trial AND v.verdict = 'open')
$$;
COMMENT ON FUNCTION relaytest.unproven IS 'The trial, if a further visit of it may still ask something; else NULL';

CREATE OR REPLACE FUNCTION relaytest.retest_insert() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c_open CONSTANT integer := 1000;            -- jobs of one IPv6 /48, which one owner fills at will
    v_name text := relaytest.host_name(NEW.target);
    v_address inet;
    v_at timestamptz;
    v_reason relaytest.reason := relaytest.parse_reason(NEW.reason);
BEGIN
    IF v_name IS NULL THEN
        v_address := relaytest.parse_target(NEW.target);
    END IF;
    NEW.target    := coalesce(v_name, host(v_address));
    NEW.reason    := v_reason;
    NEW.port      := coalesce(NEW.port, 25);
    NEW.priority  := coalesce(NEW.priority,
                              CASE v_reason WHEN 'removal-request' THEN 0 WHEN 'recheck' THEN 2 ELSE 1 END);
    NEW.run_at    := coalesce(NEW.run_at, now());
    NEW.requester := coalesce(NEW.requester, session_user);
    IF NEW.port NOT BETWEEN 1 AND 65535 OR NEW.priority NOT BETWEEN 0 AND 2 THEN
        RAISE EXCEPTION 'port % or priority % is out of range', NEW.port, NEW.priority USING ERRCODE = '22023',
            HINT = 'port is 1 to 65535, priority 0 (first) to 2 (last); leave both out for 25 and the reason''s own.';
    END IF;
    IF NEW.vantage !~ '^[a-z0-9-]{1,40}$' THEN
        RAISE EXCEPTION 'vantage "%" is no name of a place', left(NEW.vantage, 80) USING ERRCODE = '22023',
            HINT = 'Lower-case letters, digits and hyphens, as identity.vantage of the workers there; leave it out for any.';
    END IF;
    IF v_name IS NOT NULL THEN
        NEW.id := NULL;                         -- no job yet
        PERFORM relaytest.request_name(v_name, NEW.port, v_reason, NEW.priority::smallint, NEW.run_at,
                                       NEW.requester, NEW.note, NEW.vantage);
        RETURN NEW;
    END IF;
    IF v_reason = 'recheck' AND NEW.requester <> 'scheduler' THEN      -- which keeps count by itself
        SELECT max(t.started_at) + interval '24 hours' INTO v_at FROM relaytest.trial AS t
         WHERE t.address = v_address AND t.port = NEW.port AND t.started_at > now() - interval '24 hours';
        NEW.run_at := greatest(NEW.run_at, v_at);
    ELSIF v_reason = 'removal-request' THEN
        v_at := relaytest.next_request_at(v_address, NEW.port);
        IF v_at > now() THEN
            RAISE EXCEPTION 'a removal of % was requested and tested a short while ago', host(v_address)
                USING ERRCODE = 'RT001',
                DETAIL = format('The next request is taken from %s on.', to_char(v_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS UTC')),
                HINT = 'Mend the server first: each test that it does not pass makes the time to the next one longer.';
        END IF;
    END IF;
    IF NEW.vantage IS NULL THEN     -- who found it open must also find it closed
        SELECT t.vantage INTO NEW.vantage
          FROM relaytest.listing AS l JOIN relaytest.trial AS t ON t.id = l.trial
         WHERE l.address = v_address AND l.port = NEW.port AND l.state <> 'unlisted'
           AND relaytest.vantage_lives(t.vantage);
    END IF;
    IF family(v_address) = 6
       AND NOT EXISTS (SELECT FROM relaytest.job AS o WHERE o.address = v_address AND o.port = NEW.port)
       AND c_open <= (SELECT count(*) FROM (
               SELECT FROM relaytest.job AS o
                WHERE o.network = network(set_masklen(v_address, 48)) AND family(o.address) = 6 LIMIT c_open) AS many)
    THEN
        RAISE EXCEPTION '% open jobs in % already', c_open, network(set_masklen(v_address, 48)) USING ERRCODE = '54000',
            HINT = 'Come back when some are done: select count(*) from relaytest.retest where target::inet << the network.';
    END IF;
    INSERT INTO relaytest.job AS j (address, port, reason, priority, run_at, requester, note, vantage)
    VALUES (v_address, NEW.port, v_reason, NEW.priority, NEW.run_at, NEW.requester, NEW.note,
            coalesce(NEW.vantage, ''))
    ON CONFLICT ON CONSTRAINT job_target DO UPDATE SET
        reason   = CASE WHEN excluded.priority < j.priority THEN excluded.reason ELSE j.reason END,
        note     = CASE WHEN excluded.priority < j.priority THEN coalesce(excluded.note, j.note) ELSE j.note END,
        priority = least(j.priority, excluded.priority),
        requests = j.requests + 1,
        again    = j.again OR j.leased AND excluded.vantage IN ('', j.vantage),
        vantage  = CASE WHEN j.vantage = '' THEN excluded.vantage ELSE j.vantage END,
        further  = CASE WHEN j.vantage <> '' AND excluded.vantage NOT IN ('', j.vantage)
                             AND excluded.vantage <> ALL (j.further) AND cardinality(j.further) < 8
                        THEN j.further || excluded.vantage ELSE j.further END,
        trial    = CASE WHEN j.leased THEN j.trial ELSE relaytest.unproven(j.trial, j.address, j.port) END,
        -- a more urgent request pulls a waiting job forward; an equal one never pushes it back
        run_at   = CASE WHEN j.leased THEN j.run_at
                        WHEN excluded.priority < j.priority THEN excluded.run_at
                        ELSE least(j.run_at, excluded.run_at) END
    RETURNING j.id, j.requests, j.leased, j.attempt, j.created_at, nullif(j.vantage, '')
         INTO NEW.id, NEW.requests, NEW.leased, NEW.attempt, NEW.created_at, NEW.vantage;
    -- Any NOTIFY makes a commit several times dearer, so only urgent and due work rings the bell;
    -- equal payloads of one transaction are one message.
    IF NEW.priority < 2 AND NEW.run_at <= now() THEN
        PERFORM pg_notify('relaytest_job', '');
    END IF;
    RETURN NEW;
END $$;
