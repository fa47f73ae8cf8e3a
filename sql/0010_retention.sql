-- Evidence is kept as long as it is needed and no longer: whole while the target is listed or
-- suspected, else for retention.evidence; then verdict and history stay for retention.verdicts.

ALTER TABLE relaytest.trial ADD COLUMN bare boolean NOT NULL DEFAULT false;    -- its evidence is deleted
CREATE INDEX trial_whole ON relaytest.trial (started_at) WHERE NOT bare;
CREATE INDEX trial_started ON relaytest.trial (started_at);
CREATE INDEX listing_trial ON relaytest.listing (trial);
CREATE INDEX listing_change_trial ON relaytest.listing_change (trial);
CREATE INDEX nomination_received ON relaytest.nomination (received_at);

CREATE FUNCTION relaytest.forget_evidence(p_older interval, p_most integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_trials bigint[];
BEGIN
    SELECT array_agg(old.id) INTO v_trials
      FROM (SELECT t.id FROM relaytest.trial AS t
             WHERE NOT t.bare AND t.started_at < now() - p_older AND t.settle_at IS NULL
               AND NOT EXISTS (SELECT FROM relaytest.job AS j WHERE j.trial = t.id)
               AND NOT EXISTS (SELECT FROM relaytest.listing AS l WHERE l.trial = t.id AND l.state <> 'unlisted')
             ORDER BY t.started_at LIMIT p_most FOR UPDATE SKIP LOCKED) AS old;
    DELETE FROM relaytest.outcome WHERE trial = ANY (v_trials);
    DELETE FROM relaytest.session WHERE trial = ANY (v_trials);
    DELETE FROM relaytest.receipt WHERE trial = ANY (v_trials);
    UPDATE relaytest.trial SET bare = true WHERE id = ANY (v_trials);
    RETURN coalesce(cardinality(v_trials), 0);
END $$;
COMMENT ON FUNCTION relaytest.forget_evidence IS
    'Deletes transcripts and messages of old trials whose target is not listed; how many trials';

CREATE FUNCTION relaytest.forget_trials(p_older interval, p_most integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_trials bigint[];
BEGIN
    SELECT array_agg(old.id) INTO v_trials
      FROM (SELECT t.id FROM relaytest.trial AS t
             WHERE t.bare AND t.started_at < now() - p_older
               AND NOT EXISTS (SELECT FROM relaytest.listing AS l WHERE l.trial = t.id AND l.state <> 'unlisted')
             ORDER BY t.started_at LIMIT p_most FOR UPDATE SKIP LOCKED) AS old;
    UPDATE relaytest.listing_change SET trial = NULL WHERE trial = ANY (v_trials);
    DELETE FROM relaytest.listing WHERE trial = ANY (v_trials) AND state = 'unlisted';
    DELETE FROM relaytest.verdict WHERE trial = ANY (v_trials);
    DELETE FROM relaytest.trial WHERE id = ANY (v_trials);
    DELETE FROM relaytest.nomination AS n
     WHERE n.id IN (SELECT id FROM relaytest.nomination
                     WHERE received_at < now() - p_older ORDER BY received_at LIMIT p_most)
       AND NOT EXISTS (SELECT FROM relaytest.listing AS l WHERE l.address = n.address AND l.state <> 'unlisted');
    RETURN coalesce(cardinality(v_trials), 0);
END $$;
COMMENT ON FUNCTION relaytest.forget_trials IS
    'Deletes old trials with their verdicts, and old samples of spam; the history of listings stays';

-- Not for everybody: these act with the owner's rights.
REVOKE EXECUTE ON FUNCTION relaytest.forget_evidence(interval, integer),
    relaytest.forget_trials(interval, integer) FROM PUBLIC;
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'relaytest_scheduler') THEN
        GRANT EXECUTE ON FUNCTION relaytest.forget_evidence(interval, integer),
            relaytest.forget_trials(interval, integer) TO relaytest_scheduler;
    END IF;
END $$;
