-- Several places to test from, networks that are not crowded, and turns for every requester.

-- A vantage is a place to test from. Known once a worker there has been seen; `rescue` keeps it.
CREATE TABLE relaytest.vantage (
    name    text        PRIMARY KEY CHECK (name ~ '^[a-z0-9-]{1,40}$'),
    seen_at timestamptz NOT NULL,
    sources inet[]      NOT NULL DEFAULT '{}'       -- addresses it was seen to probe from
);

CREATE FUNCTION relaytest.vantage_lives(p_name text) RETURNS boolean
LANGUAGE sql STABLE STRICT SET search_path = pg_catalog AS $$
    SELECT EXISTS (SELECT FROM relaytest.vantage AS v
                    WHERE v.name = p_name AND v.seen_at > now() - interval '1 day')
$$;
COMMENT ON FUNCTION relaytest.vantage_lives IS
    'A worker was there within a day, so that it is worth waiting for';

ALTER TABLE relaytest.trial
    ADD COLUMN vantage text NOT NULL DEFAULT 'default',
    ADD COLUMN key     bigint;      -- signs its tokens (token_key); NULL in older rows: the first one
CREATE INDEX trial_vantage ON relaytest.trial (vantage, id DESC);

ALTER TABLE relaytest.job
    -- Where it runs; '': anywhere. A trial stays where it began, since greylisting knows addresses.
    ADD COLUMN vantage text   NOT NULL DEFAULT '' CHECK (vantage ~ '^[a-z0-9-]{0,40}$'),
    -- Where it runs after that, one place after the other, so that no target has two visitors.
    ADD COLUMN further text[] NOT NULL DEFAULT '{}' CHECK (cardinality(further) <= 8),
    -- Who asks for much waits in a lane of its own: lanes take turns (stochastic fair queueing).
    ADD COLUMN lane    smallint GENERATED ALWAYS AS ((hashtext(requester) & 15)::smallint) STORED;
DROP INDEX relaytest.job_ready;
CREATE INDEX job_ready ON relaytest.job (vantage, priority, lane, run_at, id) WHERE NOT leased;
CREATE INDEX job_network6 ON relaytest.job (network) WHERE family(address) = 6;

-- How many targets of one /24 or /48 are visited at once. The longest prefix counts. The program
-- writes the rows 'politeness' and 'scope.allow' (labs, without a limit) from its configuration;
-- others are the operator's own.
CREATE TABLE relaytest.network_limit (
    network cidr     PRIMARY KEY,
    at_once integer  CHECK (at_once > 0),               -- NULL: as many as there are
    gap     interval NOT NULL DEFAULT '0' CHECK (gap >= '0'),   -- between two starts
    why     text     NOT NULL
);
INSERT INTO relaytest.network_limit (network, at_once, why) VALUES
    ('0.0.0.0/0', 4, 'politeness'), ('::/0', 4, 'politeness'),
    ('127.0.0.0/8', NULL, 'this machine'), ('::1/128', NULL, 'this machine');

-- Politeness so far: one row for each /24 or /48 that ever had a job.
CREATE TABLE relaytest.network (
    network cidr        PRIMARY KEY,
    next_at timestamptz NOT NULL DEFAULT '-infinity',   -- earliest next start
    tail_at timestamptz NOT NULL DEFAULT '-infinity'    -- last start promised to a job put off
) WITH (fillfactor = 50);

-- Claim up to p_most jobs: by priority, lanes in turn, and no network above its limit however many
-- workers claim at once. What would be above it gets a later start of its own, once, so that the
-- head of the queue stays clear.
CREATE FUNCTION relaytest.claim(p_worker bigint, p_most integer, p_lease interval,
                                p_from_below boolean DEFAULT false) RETURNS SETOF relaytest.job
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off SET enable_seqscan = off
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    c_step CONSTANT interval := '250 ms';       -- between promised starts, where there is no gap
    c_rounds CONSTANT integer := 4;             -- a round finds less than wanted if networks are full
    v_vantage text;
    v_ids bigint[];
    v_networks cidr[];
    v_held cidr[];
    v_got integer := 0;
    v_found integer;
    v_priority integer;
BEGIN
    SELECT w.vantage INTO v_vantage FROM relaytest.worker AS w WHERE w.id = p_worker;
    IF NOT FOUND THEN                           -- thought dead and buried: it joins anew first
        RETURN;
    END IF;
    FOR v_turn IN 0..2 LOOP
        v_priority := CASE WHEN p_from_below THEN 2 - v_turn ELSE v_turn END;
        FOR v_round IN 1..c_rounds LOOP
            EXIT WHEN v_got >= p_most;
            -- Candidates, locked. One range of the index for each vantage and lane: neither jobs of
            -- the future nor those for other places are walked.
            SELECT array_agg(c.id ORDER BY c.rank, c.run_at, c.id),
                   array_agg(c.network ORDER BY c.rank, c.run_at, c.id)
              INTO v_ids, v_networks
              FROM (SELECT j.id, j.network, top.rank, top.run_at
                      FROM (SELECT x.id, x.run_at,
                                   row_number() OVER (PARTITION BY x.lane ORDER BY x.run_at, x.id) AS rank
                              FROM unnest(ARRAY['', v_vantage]) AS place
                              CROSS JOIN generate_series(0, 15) AS lanes
                              CROSS JOIN LATERAL (
                                  SELECT r.id, r.run_at, r.lane FROM relaytest.job AS r
                                   WHERE NOT r.leased AND r.vantage = place AND r.priority = v_priority
                                     AND r.lane = lanes AND r.run_at <= now()
                                   ORDER BY r.run_at, r.id LIMIT (p_most - v_got) * 5 / 4 + 2) AS x
                             ORDER BY rank, x.run_at LIMIT (p_most - v_got) * 5 / 4 + 2) AS top
                      CROSS JOIN LATERAL (
                          SELECT l.id, l.network FROM relaytest.job AS l
                           WHERE l.id = top.id AND NOT l.leased AND l.run_at <= now()
                             FOR UPDATE SKIP LOCKED) AS j) AS c;
            EXIT WHEN v_ids IS NULL;
            -- A network seen for the first time: who gets the lock makes the row, the others leave
            -- the network alone, so that nobody waits here.
            WITH missing AS MATERIALIZED (
                SELECT DISTINCT m.network FROM unnest(v_networks) AS m(network)
                 WHERE NOT EXISTS (SELECT FROM relaytest.network AS n WHERE n.network = m.network))
            INSERT INTO relaytest.network (network)
            SELECT m.network FROM missing AS m
             WHERE pg_try_advisory_xact_lock(hashtext('relaytest network'), hashtext(m.network::text))
            ON CONFLICT DO NOTHING;
            -- Who holds a network's row decides for it.
            SELECT array_agg(h.network) INTO v_held
              FROM (SELECT n.network FROM relaytest.network AS n WHERE n.network = ANY (v_networks)
                       FOR UPDATE SKIP LOCKED) AS h;
            EXIT WHEN v_held IS NULL;
            -- A new statement sees what others committed, so these counts are exact for held rows.
            RETURN QUERY
            WITH candidate AS (
                SELECT * FROM unnest(v_ids, v_networks) WITH ORDINALITY AS u(id, network, place)
                 WHERE u.network = ANY (v_held)),
            held AS (
                SELECT n.network, n.next_at, n.tail_at, lim.gap,
                       CASE WHEN lim.at_once IS NULL THEN p_most
                            ELSE greatest(lim.at_once - (SELECT count(*) FROM relaytest.job AS x
                                                          WHERE x.network = n.network AND x.leased), 0)
                       END AS free
                  FROM relaytest.network AS n
                  CROSS JOIN LATERAL (
                      SELECT one.at_once, one.gap FROM relaytest.network_limit AS one
                       WHERE one.network >>= n.network OR one.why = 'scope.allow' AND one.network << n.network
                       ORDER BY masklen(one.network) DESC LIMIT 1) AS lim
                 WHERE n.network = ANY (v_held)),
            judged AS (
                SELECT c.id, c.network, c.place, h.gap, h.next_at, h.tail_at,
                       h.next_at <= now()
                       AND row_number() OVER (PARTITION BY c.network ORDER BY c.place)
                           <= CASE WHEN h.gap > '0' THEN least(h.free, 1) ELSE h.free END AS goes
                  FROM candidate AS c JOIN held AS h USING (network)),
            taken AS (SELECT id, network FROM judged WHERE goes ORDER BY place LIMIT p_most - v_got),
            late AS (
                SELECT id, network, greatest(now(), next_at, tail_at)
                       + row_number() OVER (PARTITION BY network ORDER BY place) * greatest(gap, c_step) AS start_at
                  FROM judged WHERE NOT goes),
            put_off AS (
                UPDATE relaytest.job AS j SET run_at = late.start_at FROM late WHERE j.id = late.id),
            noted AS (
                UPDATE relaytest.network AS n
                   SET next_at = CASE WHEN t.starts > 0 AND h.gap > '0' THEN now() + h.gap ELSE n.next_at END,
                       tail_at = coalesce(l.last_at, n.tail_at)
                  FROM held AS h
                  LEFT JOIN (SELECT network, count(*) AS starts FROM taken GROUP BY network) AS t USING (network)
                  LEFT JOIN (SELECT network, max(start_at) AS last_at FROM late GROUP BY network) AS l USING (network)
                 WHERE n.network = h.network AND (l.last_at IS NOT NULL OR t.starts > 0 AND h.gap > '0'))
            UPDATE relaytest.job AS j
               SET leased = true, worker = p_worker, lease_until = now() + p_lease, attempt = j.attempt + 1,
                   trial = coalesce(j.trial, nextval('relaytest.trial_id')), vantage = v_vantage
              FROM taken WHERE j.id = taken.id
            RETURNING j.*;
            GET DIAGNOSTICS v_found = ROW_COUNT;
            v_got := v_got + v_found;
        END LOOP;
    END LOOP;
END $$;

CREATE OR REPLACE VIEW relaytest.retest AS
    SELECT id, host(address) AS target, port, reason::text AS reason, priority, run_at, requester, note,
           requests, leased, attempt, created_at, nullif(vantage, '') AS vantage
      FROM relaytest.job;

CREATE OR REPLACE FUNCTION relaytest.retest_insert() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c_open CONSTANT integer := 1000;            -- jobs of one IPv6 /48, which one owner fills at will
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
    IF NEW.vantage !~ '^[a-z0-9-]{1,40}$' THEN
        RAISE EXCEPTION 'vantage "%" is no name of a place', left(NEW.vantage, 80) USING ERRCODE = '22023',
            HINT = 'Lower-case letters, digits and hyphens, as identity.vantage of the workers there; leave it out for any.';
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

CREATE VIEW relaytest.verdict_by_vantage AS
    SELECT DISTINCT ON (v.address, v.port, t.vantage)
           v.address, v.port, t.vantage, v.verdict, v.reason, v.decided_at, v.explanation, v.trial
      FROM relaytest.verdict AS v JOIN relaytest.trial AS t ON t.id = v.trial
     ORDER BY v.address, v.port, t.vantage, v.trial DESC, v.id DESC;
COMMENT ON VIEW relaytest.verdict_by_vantage IS 'The last verdict on each target from each place';
