-- The queue: which addresses may be tested, and the open jobs. The public contract is the view
-- relaytest.retest; everything else in this file may change behind it.

CREATE TYPE relaytest.reason AS ENUM (
    'removal-request',  -- the owner asks to be taken off the list
    'operator',         -- the operator of this list asks
    'nominated',        -- somebody showed spam that came through the server
    'spamtrap',         -- a trap of ours got spam from it
    'complaint',        -- a user complained about mail from it
    'recheck'           -- automatic, because it is listed (RFC 6471 section 3.6)
);

-- Filled from the program (core/target.py) and the configuration at every start of a daemon:
-- 'special' = special-purpose space, 'allow' = scope.allow, 'deny' = scope.deny.
CREATE TABLE relaytest.scope_network (
    network cidr NOT NULL,
    rule    text NOT NULL CHECK (rule IN ('special', 'allow', 'deny')),
    why     text NOT NULL,
    PRIMARY KEY (network, rule)
);

CREATE FUNCTION relaytest.embedded_ipv4(p_address inet) RETURNS inet
LANGUAGE sql IMMUTABLE STRICT SET search_path = pg_catalog AS $$
    SELECT CASE
        WHEN p_address << '::ffff:0:0/96' OR p_address << '64:ff9b::/96' THEN
            format('%s.%s.%s.%s', get_byte(o, 16), get_byte(o, 17), get_byte(o, 18), get_byte(o, 19))::inet
        WHEN p_address << '2002::/16' THEN
            format('%s.%s.%s.%s', get_byte(o, 6), get_byte(o, 7), get_byte(o, 8), get_byte(o, 9))::inet
        END
    FROM (SELECT inet_send(p_address) AS o) AS octets    -- four octets of header, then the address
$$;
COMMENT ON FUNCTION relaytest.embedded_ipv4 IS
    'The IPv4 address inside a v4-mapped, NAT64 (RFC 6052) or 6to4 (RFC 3056) address, or NULL';

CREATE FUNCTION relaytest.scope_refusal(p_address inet) RETURNS text
LANGUAGE sql STABLE STRICT SET search_path = pg_catalog AS $$
    SELECT s.why
      FROM relaytest.scope_network AS s
     WHERE s.rule = 'deny'
           AND (s.network >>= p_address OR s.network >>= relaytest.embedded_ipv4(p_address))
        OR s.rule = 'special'
           AND s.network >>= coalesce(relaytest.embedded_ipv4(p_address), p_address)
           AND NOT EXISTS (SELECT FROM relaytest.scope_network AS a
                            WHERE a.rule = 'allow'
                              AND a.network >>= coalesce(relaytest.embedded_ipv4(p_address), p_address))
     ORDER BY s.rule, masklen(s.network) DESC
     LIMIT 1
$$;
COMMENT ON FUNCTION relaytest.scope_refusal IS
    'Why an address may not be tested, or NULL. The worker asks core.target once more before it connects';

CREATE SEQUENCE relaytest.trial_id;

-- One row is one OPEN retest of one target: finished jobs leave the table, so that it and its
-- indexes stay small whatever the history is.
CREATE TABLE relaytest.job (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    address     inet        NOT NULL,
    port        integer     NOT NULL DEFAULT 25,
    network     cidr        GENERATED ALWAYS AS (network(set_masklen(address, CASE family(address) WHEN 4 THEN 24 ELSE 48 END))) STORED,
    reason      relaytest.reason NOT NULL,
    priority    smallint    NOT NULL,                   -- 0 removal request, 1 new evidence, 2 periodic
    run_at      timestamptz NOT NULL DEFAULT now(),     -- not before; also the order inside a priority
    requester   text        NOT NULL DEFAULT session_user,
    note        text,
    requests    integer     NOT NULL DEFAULT 1,         -- how many asked
    created_at  timestamptz NOT NULL DEFAULT now(),
    trial       bigint,                                 -- the trial it goes on with; NULL: a new one
    attempt     integer     NOT NULL DEFAULT 0,         -- claims so far; only grows: the fencing token of the lease
    leased      boolean     NOT NULL DEFAULT false,
    worker      bigint,
    lease_until timestamptz,
    again       boolean     NOT NULL DEFAULT false,     -- asked for while leased: run once more

    CONSTRAINT job_target            UNIQUE (address, port),
    CONSTRAINT address_is_a_host     CHECK (masklen(address) = CASE family(address) WHEN 4 THEN 32 ELSE 128 END),
    CONSTRAINT port_in_range         CHECK (port BETWEEN 1 AND 65535),
    CONSTRAINT priority_in_range     CHECK (priority BETWEEN 0 AND 2),
    CONSTRAINT note_is_short         CHECK (length(note) <= 2000),
    CONSTRAINT requester_is_short    CHECK (length(requester) BETWEEN 1 AND 200),
    CONSTRAINT leased_has_an_owner   CHECK (leased = (worker IS NOT NULL) AND leased = (lease_until IS NOT NULL)),
    CONSTRAINT again_only_leased     CHECK (leased OR NOT again)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000,
        autovacuum_analyze_scale_factor = 0.0, autovacuum_analyze_threshold = 20000);

CREATE INDEX job_ready ON relaytest.job (priority, run_at, id) WHERE NOT leased;   -- what a claim walks
CREATE INDEX job_leased ON relaytest.job (network) WHERE leased;                    -- in flight, and the rescue's scan

CREATE TABLE relaytest.worker (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    host       text        NOT NULL,
    pid        integer     NOT NULL,
    vantage    text        NOT NULL,
    version    text        NOT NULL,
    slots      integer     NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    beat_at    timestamptz NOT NULL DEFAULT now()
);

CREATE VIEW relaytest.retest AS
    SELECT id, host(address) AS target, port, reason::text AS reason, priority, run_at, requester, note,
           requests, leased, attempt, created_at
      FROM relaytest.job;
COMMENT ON VIEW relaytest.retest IS
    'INSERT INTO relaytest.retest (target, reason) VALUES (address, reason): asks for a retest. '
    'One open job per target and port: repeats join it. See README';

CREATE FUNCTION relaytest.parse_target(p_target text) RETURNS inet
LANGUAGE plpgsql STABLE SET search_path = pg_catalog AS $$
DECLARE
    v_address inet;
    v_why text;
BEGIN
    IF coalesce(btrim(p_target), '') = '' THEN
        RAISE EXCEPTION 'no target given' USING ERRCODE = '23502',
            HINT = 'Give an IPv4 or IPv6 address, such as 192.0.2.1 or 2001:db8::1.';
    END IF;
    BEGIN
        v_address := btrim(p_target)::inet;
    EXCEPTION WHEN OTHERS THEN
        RAISE EXCEPTION 'target "%" is not an IP address', left(p_target, 80) USING ERRCODE = '22P02',
            HINT = 'Give an IPv4 or IPv6 address, such as 192.0.2.1 or 2001:db8::1, without brackets and port.';
    END;
    IF masklen(v_address) < (CASE family(v_address) WHEN 4 THEN 32 ELSE 128 END) THEN
        RAISE EXCEPTION 'target "%" is a network', left(p_target, 80) USING ERRCODE = '22023',
            HINT = 'Insert one row for each address that there is a reason to test (RFC 6471 section 3.6).';
    END IF;
    IF v_address << '::ffff:0:0/96' THEN                    -- one server, one spelling
        v_address := relaytest.embedded_ipv4(v_address);
    END IF;
    v_why := relaytest.scope_refusal(v_address);
    IF v_why IS NOT NULL THEN
        RAISE EXCEPTION 'target % is out of scope: %', host(v_address), v_why USING ERRCODE = '22023',
            HINT = 'Only global unicast addresses are tested; in a lab, name the network in scope.allow.';
    END IF;
    RETURN v_address;
END $$;

CREATE FUNCTION relaytest.parse_reason(p_reason text) RETURNS relaytest.reason
LANGUAGE plpgsql STABLE SET search_path = pg_catalog AS $$
BEGIN
    IF p_reason IS NULL THEN
        RAISE EXCEPTION 'no reason given' USING ERRCODE = '23502',
            DETAIL = 'A server is tested only for a recorded reason (RFC 6471 section 3.6.1).',
            HINT = 'One of: ' || array_to_string(enum_range(NULL::relaytest.reason), ', ');
    END IF;
    RETURN replace(lower(btrim(p_reason)), '_', '-')::relaytest.reason;
EXCEPTION WHEN invalid_text_representation THEN
    RAISE EXCEPTION 'unknown reason "%"', left(p_reason, 80) USING ERRCODE = '22P02',
        HINT = 'One of: ' || array_to_string(enum_range(NULL::relaytest.reason), ', ');
END $$;

CREATE FUNCTION relaytest.retest_insert() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_address inet := relaytest.parse_target(NEW.target);
    v_reason relaytest.reason := relaytest.parse_reason(NEW.reason);
BEGIN
    NEW.target    := host(v_address);
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
    INSERT INTO relaytest.job AS j (address, port, reason, priority, run_at, requester, note)
    VALUES (v_address, NEW.port, v_reason, NEW.priority, NEW.run_at, NEW.requester, NEW.note)
    ON CONFLICT ON CONSTRAINT job_target DO UPDATE SET
        reason   = CASE WHEN excluded.priority < j.priority THEN excluded.reason ELSE j.reason END,
        note     = CASE WHEN excluded.priority < j.priority THEN coalesce(excluded.note, j.note) ELSE j.note END,
        priority = least(j.priority, excluded.priority),
        requests = j.requests + 1,
        again    = j.again OR j.leased,
        -- a more urgent request pulls a waiting job forward; an equal one never pushes it back
        run_at   = CASE WHEN j.leased THEN j.run_at
                        WHEN excluded.priority < j.priority THEN excluded.run_at
                        ELSE least(j.run_at, excluded.run_at) END
    RETURNING j.id, j.requests, j.leased, j.attempt, j.created_at
         INTO NEW.id, NEW.requests, NEW.leased, NEW.attempt, NEW.created_at;
    -- Any NOTIFY makes a commit several times dearer, so only urgent and due work rings the bell;
    -- equal payloads of one transaction are one message.
    IF NEW.priority < 2 AND NEW.run_at <= now() THEN
        PERFORM pg_notify('relaytest_job', '');
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER retest_insert INSTEAD OF INSERT ON relaytest.retest
    FOR EACH ROW EXECUTE FUNCTION relaytest.retest_insert();

CREATE VIEW relaytest.queue_status AS
    SELECT priority,
           count(*) FILTER (WHERE NOT leased AND run_at <= now()) AS due,
           count(*) FILTER (WHERE NOT leased AND run_at > now())  AS later,
           count(*) FILTER (WHERE leased)                         AS leased,
           min(run_at) FILTER (WHERE NOT leased AND run_at <= now()) AS oldest_due
      FROM relaytest.job GROUP BY priority;
COMMENT ON VIEW relaytest.queue_status IS 'Open jobs by priority';
