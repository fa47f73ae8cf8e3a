-- What grows is kept by the month, so that what is old goes with its files: no row by row delete,
-- nothing for vacuum to do. Sessions, outcomes, receipts and verdicts are partitioned by their
-- trial, by which nearly everybody asks for them. Each month the sequence of trials jumps to the
-- next multiple of 2^30, so a partition is a month, and tokens (40 bits) last for 85 years.

CREATE TABLE relaytest.trial_partition (
    number   integer     PRIMARY KEY CHECK (number BETWEEN 0 AND 1023),   -- of trials number * 2^30 and on
    begun_at timestamptz,                       -- of its first trial; NULL: made ahead
    ended_at timestamptz,                       -- when the next began
    CONSTRAINT ended_has_begun CHECK (ended_at IS NULL OR begun_at IS NOT NULL)
);

-- What stays of a message when it is deleted.
CREATE TABLE relaytest.receipt_digest (
    trial       bigint      NOT NULL,
    form        integer     NOT NULL,
    mailbox     text        NOT NULL,
    peer        inet        NOT NULL,
    received_at timestamptz NOT NULL,
    size        bigint      NOT NULL,
    sha256      bytea       NOT NULL CHECK (length(sha256) = 32),
    PRIMARY KEY (trial, form, mailbox, peer)
) PARTITION BY RANGE (trial);
COMMENT ON TABLE relaytest.receipt_digest IS 'Receipts whose message was deleted after retention.evidence';

-- All that there is becomes the first partition. Foreign keys end here: a partition must go without
-- a look at all the others. What they held together is written in one transaction each (save_visit,
-- save_verdict), and a trial is deleted after everything else of it.
ALTER TABLE relaytest.outcome DROP CONSTRAINT outcome_session_fkey, DROP CONSTRAINT outcome_trial_fkey;
ALTER TABLE relaytest.session DROP CONSTRAINT session_trial_fkey, DROP CONSTRAINT session_pkey;
ALTER TABLE relaytest.verdict DROP CONSTRAINT verdict_trial_fkey, DROP CONSTRAINT verdict_pkey;
ALTER TABLE relaytest.receipt DROP CONSTRAINT receipt_pkey, DROP CONSTRAINT receipt_once;
DROP INDEX relaytest.session_trial, relaytest.outcome_trial, relaytest.verdict_target, relaytest.verdict_trial;
ALTER TABLE relaytest.receipt ADD COLUMN sha256 bytea GENERATED ALWAYS AS (sha256(message)) STORED;

DO $$
DECLARE
    v_table text;
    v_next bigint;
BEGIN
    FOREACH v_table IN ARRAY ARRAY['session', 'outcome', 'receipt', 'verdict'] LOOP
        IF v_table <> 'outcome' THEN
            EXECUTE format('SELECT nextval(pg_get_serial_sequence(%L, ''id''))', 'relaytest.' || v_table) INTO v_next;
            EXECUTE format('ALTER TABLE relaytest.%I ALTER id DROP IDENTITY', v_table);
        END IF;
        EXECUTE format('ALTER TABLE relaytest.%I RENAME TO %I', v_table, v_table || '_p0');
        EXECUTE format('CREATE TABLE relaytest.%I (LIKE relaytest.%I INCLUDING DEFAULTS INCLUDING GENERATED'
                       ' INCLUDING CONSTRAINTS INCLUDING STORAGE) PARTITION BY RANGE (trial)', v_table, v_table || '_p0');
        IF v_table <> 'outcome' THEN
            EXECUTE format('ALTER TABLE relaytest.%I ALTER id ADD GENERATED ALWAYS AS IDENTITY (START %s)', v_table, v_next);
        END IF;
    END LOOP;
END $$;

ALTER TABLE relaytest.session ADD PRIMARY KEY (trial, id);
ALTER TABLE relaytest.receipt ADD CONSTRAINT receipt_once UNIQUE (trial, form, mailbox, peer);
ALTER TABLE relaytest.verdict ADD PRIMARY KEY (trial, id);
CREATE INDEX outcome_trial ON relaytest.outcome (trial);
CREATE INDEX verdict_target ON relaytest.verdict (address, port, trial DESC, id DESC);
CREATE INDEX verdict_id ON relaytest.verdict (id);                                 -- the API's pages
CREATE INDEX verdict_decided ON relaytest.verdict USING brin (decided_at);         -- counts by the day

-- Bodies are compressed by PostgreSQL; with lz4, where the server has it, at a fraction of the time.
DO $$
BEGIN
    ALTER TABLE relaytest.receipt ALTER message SET COMPRESSION lz4;
    ALTER TABLE relaytest.session ALTER octets SET COMPRESSION lz4;
    ALTER TABLE relaytest.receipt_p0 ALTER message SET COMPRESSION lz4;
    ALTER TABLE relaytest.session_p0 ALTER octets SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported OR invalid_parameter_value THEN
    NULL;
END $$;

CREATE FUNCTION relaytest.partitioned() RETURNS text[]
LANGUAGE sql IMMUTABLE AS $$ SELECT '{session,outcome,receipt,verdict,receipt_digest}'::text[] $$;
COMMENT ON FUNCTION relaytest.partitioned IS 'The tables that are partitioned by their trial';

CREATE FUNCTION relaytest.make_partition(p_number integer) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_table text;
BEGIN
    FOREACH v_table IN ARRAY relaytest.partitioned() LOOP
        -- Attaching locks nobody out, as CREATE ... PARTITION OF would.
        EXECUTE format('CREATE TABLE IF NOT EXISTS relaytest.%I (LIKE relaytest.%I INCLUDING ALL EXCLUDING IDENTITY)',
                       v_table || '_p' || p_number, v_table);
        EXECUTE format('ALTER TABLE relaytest.%I ATTACH PARTITION relaytest.%I FOR VALUES FROM (%s) TO (%s)',
                       v_table, v_table || '_p' || p_number,
                       CASE p_number WHEN 0 THEN 'MINVALUE' ELSE (p_number::bigint << 30)::text END,
                       (p_number + 1)::bigint << 30);
    END LOOP;
    INSERT INTO relaytest.trial_partition (number) VALUES (p_number);
END $$;
COMMENT ON FUNCTION relaytest.make_partition IS 'Makes the tables for one month of trials';

CREATE FUNCTION relaytest.make_partitions() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    v_current integer;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('relaytest partitions'));
    SELECT (s.last_value >> 30)::integer INTO v_current FROM relaytest.trial_id AS s;
    IF EXISTS (SELECT FROM relaytest.trial_partition AS p
                WHERE p.number = v_current AND p.begun_at < date_trunc('month', now()))
       AND EXISTS (SELECT FROM relaytest.trial_partition AS p WHERE p.number = v_current + 1) THEN
        v_current := v_current + 1;
        PERFORM setval('relaytest.trial_id', v_current::bigint << 30, false);
    END IF;
    -- Said of each by the sequence alone, which no rollback takes back.
    UPDATE relaytest.trial_partition SET begun_at = now() WHERE number <= v_current AND begun_at IS NULL;
    UPDATE relaytest.trial_partition SET ended_at = now() WHERE number < v_current AND ended_at IS NULL;
    IF EXISTS (SELECT FROM relaytest.trial_partition AS p WHERE p.number = v_current + 1) THEN
        RETURN 0;
    END IF;
    PERFORM relaytest.make_partition(v_current + 1);
    RETURN 1;
END $$;
COMMENT ON FUNCTION relaytest.make_partitions IS
    'Begins a partition with each month, and makes the next one ahead; how many were made';

CREATE FUNCTION relaytest.needed_trials(p_before bigint) RETURNS bigint[]
LANGUAGE sql STABLE SET search_path = pg_catalog AS $$
    SELECT coalesce(array_agg(DISTINCT needed.trial), '{}')
      FROM (SELECT l.trial FROM relaytest.listing AS l WHERE l.trial < p_before AND l.state <> 'unlisted'
            UNION ALL
            SELECT j.trial FROM relaytest.job AS j WHERE j.trial < p_before
            UNION ALL
            SELECT t.id FROM relaytest.trial AS t WHERE t.id < p_before AND t.settle_at IS NOT NULL) AS needed
$$;
COMMENT ON FUNCTION relaytest.needed_trials IS 'Old trials of what is listed, or still tested or judged';

CREATE OR REPLACE FUNCTION relaytest.forget_evidence(p_older interval, p_most integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    v_before bigint := (SELECT (max(p.number) + 1)::bigint << 30 FROM relaytest.trial_partition AS p
                         WHERE p.ended_at < now() - p_older);
    v_needed bigint[] := relaytest.needed_trials(v_before);
    v_months integer := 0;
    v_number integer;
    v_table text;
    v_full boolean;
BEGIN
    FOR v_number IN SELECT p.number FROM relaytest.trial_partition AS p
                     WHERE p.ended_at < now() - p_older ORDER BY p.number LOOP
        EXECUTE format('SELECT EXISTS (SELECT FROM relaytest.session_p%1$s WHERE trial <> ALL ($1))'
                       ' OR EXISTS (SELECT FROM relaytest.receipt_p%1$s WHERE trial <> ALL ($1))', v_number)
           INTO v_full USING v_needed;
        CONTINUE WHEN NOT v_full;
        -- From here on nobody adds to it: late mail for it waits, or comes back.
        EXECUTE format('LOCK TABLE relaytest.session_p%1$s, relaytest.outcome_p%1$s, relaytest.receipt_p%1$s'
                       ' IN ACCESS EXCLUSIVE MODE', v_number);
        v_needed := relaytest.needed_trials(v_before);
        EXECUTE format('INSERT INTO relaytest.receipt_digest (trial, form, mailbox, peer, received_at, size, sha256)'
                       ' SELECT trial, form, mailbox, peer, received_at, size, sha256 FROM relaytest.receipt_p%s'
                       ' WHERE trial <> ALL ($1) ON CONFLICT DO NOTHING', v_number) USING v_needed;
        FOREACH v_table IN ARRAY ARRAY['session_p', 'outcome_p', 'receipt_p'] LOOP
            v_table := v_table || v_number;
            EXECUTE format('CREATE TEMP TABLE needed ON COMMIT DROP AS'
                           ' SELECT * FROM relaytest.%I WHERE trial = ANY ($1)', v_table) USING v_needed;
            EXECUTE format('TRUNCATE relaytest.%I', v_table);
            PERFORM relaytest.put_back(v_table);
            DROP TABLE pg_temp.needed;
        END LOOP;
        v_months := v_months + 1;
        EXIT WHEN v_months = p_most;
    END LOOP;
    RETURN v_months;
EXCEPTION WHEN lock_not_available THEN      -- a dump reads it, say
    RETURN NULL;
END $$;
COMMENT ON FUNCTION relaytest.forget_evidence IS
    'Deletes transcripts and messages of up to p_most months that are older, but for what is listed; how many months, or NULL: somebody reads there';

CREATE FUNCTION relaytest.put_back(p_table text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_columns text;
BEGIN
    SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) INTO v_columns FROM pg_attribute AS a
     WHERE a.attrelid = format('relaytest.%I', p_table)::regclass
       AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '';
    EXECUTE format('INSERT INTO relaytest.%I (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM pg_temp.needed',
                   p_table, v_columns, v_columns);
END $$;
COMMENT ON FUNCTION relaytest.put_back IS 'Inserts what forget_evidence put aside';

CREATE OR REPLACE FUNCTION relaytest.forget_trials(p_older interval, p_most integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    v_number integer;
    v_trials bigint[];
    v_table text;
BEGIN
    SELECT p.number INTO v_number FROM relaytest.trial_partition AS p
     WHERE p.ended_at < now() - p_older ORDER BY p.number LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF relaytest.needed_trials((v_number + 1)::bigint << 30) = '{}' AND v_number IS NOT NULL THEN
        FOREACH v_table IN ARRAY relaytest.partitioned() LOOP
            EXECUTE format('DROP TABLE relaytest.%I', v_table || '_p' || v_number);
        END LOOP;
        DELETE FROM relaytest.trial_partition WHERE number = v_number;
    END IF;
    SELECT array_agg(old.id) INTO v_trials          -- of which nothing else is left
      FROM (SELECT t.id FROM relaytest.trial AS t
             WHERE t.id < (SELECT min(p.number)::bigint << 30 FROM relaytest.trial_partition AS p)
             ORDER BY t.id LIMIT p_most FOR UPDATE SKIP LOCKED) AS old;
    UPDATE relaytest.listing_change SET trial = NULL WHERE trial = ANY (v_trials);
    DELETE FROM relaytest.listing WHERE trial = ANY (v_trials) AND state = 'unlisted';
    DELETE FROM relaytest.trial WHERE id = ANY (v_trials);
    DELETE FROM relaytest.nomination AS n
     WHERE n.id IN (SELECT id FROM relaytest.nomination
                     WHERE received_at < now() - p_older ORDER BY received_at LIMIT p_most)
       AND NOT EXISTS (SELECT FROM relaytest.listing AS l WHERE l.address = n.address AND l.state <> 'unlisted');
    RETURN coalesce(cardinality(v_trials), 0);
EXCEPTION WHEN lock_not_available THEN
    RETURN NULL;
END $$;
COMMENT ON FUNCTION relaytest.forget_trials IS
    'Drops the oldest month that is older with its verdicts, if nothing of it is needed, deletes its trials step by step, and old samples of spam; how many trials. NULL: somebody reads there. The history of listings stays';

-- They show what is behind the new names.
CREATE OR REPLACE VIEW relaytest.verdict_latest AS
    SELECT DISTINCT ON (address, port)
           address, port, verdict, reason, condition, exit_address, decided_at, confidence, explanation, forms, trial
      FROM relaytest.verdict ORDER BY address, port, trial DESC, id DESC;
CREATE OR REPLACE VIEW relaytest.verdict_by_vantage AS
    SELECT DISTINCT ON (v.address, v.port, t.vantage)
           v.address, v.port, t.vantage, v.verdict, v.reason, v.decided_at, v.explanation, v.trial
      FROM relaytest.verdict AS v JOIN relaytest.trial AS t ON t.id = v.trial
     ORDER BY v.address, v.port, t.vantage, v.trial DESC, v.id DESC;

ALTER TABLE relaytest.trial DROP COLUMN bare;           -- with trial_whole
DROP INDEX relaytest.trial_started;

SELECT relaytest.make_partition(0);
UPDATE relaytest.trial_partition
   SET begun_at = coalesce((SELECT t.started_at FROM relaytest.trial AS t ORDER BY t.id LIMIT 1), now());
SELECT relaytest.make_partitions();

ALTER FUNCTION relaytest.grant_roles() RENAME TO grant_pause_roles;
CREATE FUNCTION relaytest.grant_roles() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    PERFORM relaytest.grant_pause_roles();
    GRANT EXECUTE ON FUNCTION relaytest.make_partitions() TO relaytest_scheduler;
END $$;
COMMENT ON FUNCTION relaytest.grant_roles IS
    'Makes the roles relaytest_* and grants them what they need; needs CREATEROLE. May be run again';
-- These act with the owner's rights, or help such ones.
REVOKE EXECUTE ON FUNCTION relaytest.grant_roles(), relaytest.grant_pause_roles(), relaytest.make_partition(integer),
    relaytest.make_partitions(), relaytest.needed_trials(bigint),
    relaytest.put_back(text) FROM PUBLIC;

DO $$
BEGIN
    PERFORM relaytest.grant_roles();
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'no roles made: %; let a superuser run SELECT relaytest.grant_roles()', SQLERRM;
END $$;
