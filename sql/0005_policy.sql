-- The listing policy and the administrator's hand: suspicion, samples of spam, exclusions, and an
-- audit row for every change, whoever makes it.

-- Suspected: found open, but the policy asks for more before it is published.
ALTER TABLE relaytest.listing
    DROP CONSTRAINT listing_state_check,
    ADD CONSTRAINT listing_state_check CHECK (state IN ('listed', 'suspected', 'unlisted')),
    DROP CONSTRAINT listed_has_times,
    ADD CONSTRAINT listed_has_times CHECK ((state = 'listed') = (listed_at IS NOT NULL) AND (state <> 'unlisted') = (expires_at IS NOT NULL));
DROP INDEX relaytest.listing_recheck, relaytest.listing_expires;
CREATE INDEX listing_recheck ON relaytest.listing (recheck_at) WHERE state <> 'unlisted';
CREATE INDEX listing_expires ON relaytest.listing (expires_at) WHERE state <> 'unlisted';

-- --- Networks that are not tested, by the administrator's word

CREATE TABLE relaytest.exclusion (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    network   cidr        NOT NULL,
    why       text        NOT NULL CHECK (length(btrim(why)) BETWEEN 1 AND 2000),
    actor     text        NOT NULL DEFAULT session_user,
    since     timestamptz NOT NULL DEFAULT now(),
    until     timestamptz,                          -- NULL: until it is ended
    ended_at  timestamptz,                          -- rows are ended, never deleted: they are the history
    ended_by  text,
    ended_why text,
    CONSTRAINT until_is_later CHECK (until > since),
    CONSTRAINT ended_by_somebody CHECK ((ended_at IS NULL) = (ended_by IS NULL) AND (ended_at IS NULL) = (ended_why IS NULL)),
    CONSTRAINT excluded_in_one_spelling CHECK (NOT network <<= '::ffff:0:0/96')
);
CREATE UNIQUE INDEX exclusion_once ON relaytest.exclusion (network) WHERE ended_at IS NULL;
CREATE INDEX exclusion_network ON relaytest.exclusion USING gist (network inet_ops) WHERE ended_at IS NULL;

CREATE VIEW relaytest.exclusion_current AS
    SELECT network, why, actor, since, until FROM relaytest.exclusion
     WHERE ended_at IS NULL AND (until IS NULL OR until > now());
COMMENT ON VIEW relaytest.exclusion_current IS 'Networks that are not tested, by the administrator''s word';

CREATE FUNCTION relaytest.exclusion_of(p_address inet) RETURNS text
LANGUAGE sql STABLE STRICT SET search_path = pg_catalog AS $$
    SELECT format('%s is excluded from testing: %s', e.network, e.why)
      FROM relaytest.exclusion_current AS e
     WHERE e.network >>= p_address OR e.network >>= relaytest.embedded_ipv4(p_address)
     ORDER BY masklen(e.network) DESC LIMIT 1
$$;
COMMENT ON FUNCTION relaytest.exclusion_of IS
    'By which exclusion an address is not tested and its listing does not move, or NULL';

CREATE OR REPLACE FUNCTION relaytest.parse_target(p_target text) RETURNS inet
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
    v_why := relaytest.exclusion_of(v_address);
    IF v_why IS NOT NULL THEN
        RAISE EXCEPTION 'target % is not tested: %', host(v_address), v_why USING ERRCODE = '22023',
            HINT = 'The operator of this list ends an exclusion with: relaytest include NETWORK --why TEXT';
    END IF;
    RETURN v_address;
END $$;

-- --- Samples of spam that came through a server

CREATE TABLE relaytest.nomination (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    address     inet        NOT NULL,
    sample      bytea       NOT NULL CHECK (octet_length(sample) BETWEEN 1 AND 262144),
    truncated   boolean     NOT NULL DEFAULT false,     -- the message was longer
    tool        text        NOT NULL DEFAULT session_user CHECK (length(tool) BETWEEN 1 AND 200),
    received_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT nominated_is_a_host CHECK (masklen(address) = CASE family(address) WHEN 4 THEN 32 ELSE 128 END)
);
CREATE INDEX nomination_address ON relaytest.nomination (address, id DESC);

-- --- Every change of a state has exactly one audit row

ALTER TABLE relaytest.listing_change
    ADD COLUMN actor text,      -- who made the change by hand; NULL: the program
    ADD COLUMN xact  xid8;      -- the transaction that made it; NULL in rows older than this column
ALTER TABLE relaytest.listing_change ALTER COLUMN xact SET DEFAULT pg_current_xact_id();

CREATE OR REPLACE VIEW relaytest.listing_history AS
    SELECT id, address, port, at, event, old, new, why, trial, actor FROM relaytest.listing_change;

-- The program writes the row itself. For who changes the table by SQL it is written here.
CREATE FUNCTION relaytest.listing_audit() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_row relaytest.listing;
    v_old text := 'unlisted';
    v_new text := 'unlisted';
    v_rows bigint;
BEGIN
    IF TG_OP <> 'INSERT' THEN v_row := OLD; v_old := OLD.state; END IF;
    IF TG_OP <> 'DELETE' THEN v_row := NEW; v_new := NEW.state; END IF;
    IF v_old = v_new THEN
        RETURN NULL;
    END IF;
    SELECT count(*) INTO v_rows FROM relaytest.listing_change AS c
     WHERE c.address = v_row.address AND c.port = v_row.port AND c.old = v_old AND c.new = v_new
       AND c.xact = pg_current_xact_id();
    IF v_rows > 1 THEN
        RAISE EXCEPTION '% audit rows for one change of % port % from % to %',
            v_rows, host(v_row.address), v_row.port, v_old, v_new USING ERRCODE = '23514',
            HINT = 'One change of relaytest.listing.state has one row in relaytest.listing_change.';
    ELSIF v_rows = 0 THEN
        INSERT INTO relaytest.listing_change (address, port, event, old, new, trial, why, actor)
        VALUES (v_row.address, v_row.port, 'changed-by-sql', v_old, v_new, v_row.trial,
                'changed in the database, no reason given', session_user);
    END IF;
    RETURN NULL;
END $$;

CREATE CONSTRAINT TRIGGER listing_audit AFTER INSERT OR DELETE OR UPDATE OF state ON relaytest.listing
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION relaytest.listing_audit();
