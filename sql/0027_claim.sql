-- A claim finds the rows that it locks by their primary key, whatever the statistics say. As long as
-- nobody had analyzed a queue that began empty, each candidate cost a walk over all that was due.
-- And each round of it that found full networks looks at four times as many rows: a sweep of a few
-- networks kept workers idle for seconds that had other work behind it.

-- Claim up to p_most jobs: by priority, lanes in turn, and no network above its limit however many
-- workers claim at once. What would be above it gets a later start of its own, once, so that the
-- head of the queue stays clear.
CREATE OR REPLACE FUNCTION relaytest.claim(p_worker bigint, p_most integer, p_lease interval,
                                p_from_below boolean DEFAULT false) RETURNS SETOF relaytest.job
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off SET enable_seqscan = off
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    c_step CONSTANT interval := '250 ms';       -- between promised starts, where there is no gap
    c_rounds CONSTANT integer := 4;             -- a round finds less than wanted if networks are full
    c_most CONSTANT integer := 1000;            -- rows to look at in a round, unless more are wanted
    v_vantage text;
    v_ids bigint[];
    v_networks cidr[];
    v_held cidr[];
    v_got integer := 0;
    v_found integer;
    v_look integer;
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
            v_look := (p_most - v_got) * 5 / 4 + 2;
            v_look := greatest(v_look, least(v_look * 4 ^ (v_round - 1), c_most));
            -- Candidates, locked. One range of the index for each vantage and lane: neither jobs of
            -- the future nor those for other places are walked. What is locked is looked up by its id:
            -- "leased::integer = 0" is "NOT leased" to everybody but the planner, who with the
            -- statistics of an empty table would walk all of job_ready for each.
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
                                   ORDER BY r.run_at, r.id LIMIT v_look) AS x
                             ORDER BY rank, x.run_at LIMIT v_look) AS top
                      CROSS JOIN LATERAL (
                          SELECT l.id, l.network FROM relaytest.job AS l
                           WHERE l.id = top.id AND l.leased::integer = 0 AND l.run_at <= now()
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
                       CASE WHEN lim.at_once IS NULL THEN cardinality(v_ids)
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
