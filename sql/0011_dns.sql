-- The list for PowerDNS, straight from the listings: each answer is what is true at that moment.
-- A function, not a view: it knows the names between an entry and its zone, which exist though
-- nothing is there (RFC 8020), the test entries (RFC 5782 section 5), and what is never listed.

-- What each zone says of itself; the publisher keeps it as the configuration has it.
CREATE TABLE relaytest.dns_zone (
    id          integer GENERATED ALWAYS AS IDENTITY UNIQUE,
    zone        text     PRIMARY KEY CHECK (zone = lower(zone) AND zone NOT LIKE '%.'),
    nameservers text[]   NOT NULL CHECK (cardinality(nameservers) > 0),
    hostmaster  text     NOT NULL,
    ttl         integer  NOT NULL CHECK (ttl > 0),
    about       text     NOT NULL,              -- TXT of the zone's own name
    entry       text     NOT NULL,              -- TXT of an entry, before its address
    code        smallint NOT NULL,              -- last octet of its entries' A records
    codes       smallint[] NOT NULL             -- those with a test entry
);

CREATE FUNCTION relaytest.dns_zones() RETURNS TABLE (id integer, zone text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT z.id, z.zone FROM relaytest.dns_zone AS z
$$;
COMMENT ON FUNCTION relaytest.dns_zones IS 'The zones, for PowerDNS';

CREATE FUNCTION relaytest.dns_address(p_labels text) RETURNS inet
LANGUAGE plpgsql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_labels text[] := string_to_array(p_labels, '.');
    v_address inet;
BEGIN
    IF p_labels ~ '^(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(\.(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)){3}$' THEN
        RETURN (v_labels[4] || '.' || v_labels[3] || '.' || v_labels[2] || '.' || v_labels[1])::inet;
    ELSIF p_labels ~ '^[0-9a-f](\.[0-9a-f]){31}$' THEN
        v_address := regexp_replace(reverse(replace(p_labels, '.', '')), '(....)(?!$)', '\1:', 'g')::inet;
        IF v_address << '::ffff:0:0/96' THEN
            v_address := '0.0.0.0'::inet + (v_address - '::ffff:0:0'::inet);
        END IF;
        RETURN v_address;
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION relaytest.dns_address IS
    'The address that is asked for by these labels (RFC 5782 sections 2.1 and 2.4), or NULL';

-- As core.zone.answer has it; a row without a type is a name at which nothing is (NODATA).
CREATE FUNCTION relaytest.dns_records(p_name text)
RETURNS TABLE (content text, ttl integer, prio integer, type text, domain_id integer,
               disabled integer, name text, auth integer)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
    v_zone relaytest.dns_zone;
    v_labels text;
    v_address inet;
    v_values text[];
BEGIN
    SELECT z.* INTO v_zone FROM relaytest.dns_zone AS z
     WHERE p_name = z.zone OR right(p_name, length(z.zone) + 1) = '.' || z.zone
     ORDER BY length(z.zone) DESC LIMIT 1;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    domain_id := v_zone.id; ttl := v_zone.ttl; prio := 0; disabled := 0; name := p_name; auth := 1;
    IF p_name = v_zone.zone THEN
        type := 'SOA';
        content := format('%s %s %s 3600 900 1209600 %s', v_zone.nameservers[1], v_zone.hostmaster,
            (SELECT coalesce(max(c.id), 0) + 1 FROM relaytest.listing_change AS c) % 4294967296, v_zone.ttl);
        RETURN NEXT;
        type := 'TXT'; content := '"' || v_zone.about || '"'; RETURN NEXT;
        type := 'NS'; ttl := 86400;
        FOREACH content IN ARRAY v_zone.nameservers LOOP
            RETURN NEXT;
        END LOOP;
        RETURN;
    END IF;
    v_labels := left(p_name, length(p_name) - length(v_zone.zone) - 1);
    v_address := relaytest.dns_address(v_labels);
    IF v_address << '127.0.0.0/24' AND (v_address - '127.0.0.0'::inet) = ANY (v_zone.codes) THEN
        v_values := ARRAY[host(v_address), '"Test entry (RFC 5782), no real listing"'];
    ELSIF v_address <<= '127.0.0.0/8' THEN
        RETURN;                                 -- 127.0.0.1 must never be listed
    ELSIF v_address IS NOT NULL THEN
        SELECT ARRAY['127.0.0.' || v_zone.code, '"' || v_zone.entry || host(v_address) || '"'] INTO v_values
          FROM relaytest.listing_current AS l WHERE l.address = v_address AND l.code = v_zone.code LIMIT 1;
    END IF;
    IF v_values IS NOT NULL THEN
        type := 'A'; content := v_values[1]; RETURN NEXT;
        type := 'TXT'; content := v_values[2]; RETURN NEXT;
    ELSIF v_labels ~ '^[0-9a-f](\.[0-9a-f]){0,30}$'     -- also 1.0.0.2, the way to all of 2001::/16
       OR v_labels ~ '^(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(\.(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)){0,2}$' THEN
        type := NULL; content := NULL; ttl := NULL; prio := NULL; RETURN NEXT;
    END IF;
END $$;
COMMENT ON FUNCTION relaytest.dns_records IS 'All records of one name, for PowerDNS (systemd/pdns.conf)';

REVOKE EXECUTE ON FUNCTION relaytest.dns_zones(), relaytest.dns_records(text) FROM PUBLIC;

-- What a person orders of the publisher, with his reason: to publish though it looks like an
-- accident, to end the list (RFC 6471 section 3.4), or to begin it again.
CREATE TABLE relaytest.publication_order (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    zone    text        NOT NULL,
    kind    text        NOT NULL CHECK (kind IN ('force', 'shut', 'reopen')),
    why     text        NOT NULL CHECK (length(btrim(why)) BETWEEN 1 AND 2000),
    actor   text        NOT NULL DEFAULT session_user,
    at      timestamptz NOT NULL DEFAULT now(),
    done_at timestamptz                         -- published so
);
CREATE INDEX publication_order_zone ON relaytest.publication_order (zone, id DESC);

-- The rights of later migrations belong to what a superuser may run again, too.
ALTER FUNCTION relaytest.grant_roles() RENAME TO grant_first_roles;
CREATE FUNCTION relaytest.grant_roles() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    PERFORM relaytest.grant_first_roles();
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'relaytest_dns') THEN
        BEGIN
            CREATE ROLE relaytest_dns NOLOGIN;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;                               -- another database of the cluster was quicker
        END;
    END IF;
    GRANT USAGE ON SCHEMA relaytest TO relaytest_dns;
    GRANT EXECUTE ON FUNCTION relaytest.dns_zones(), relaytest.dns_records(text) TO relaytest_dns;
    GRANT EXECUTE ON FUNCTION relaytest.forget_evidence(interval, integer),
        relaytest.forget_trials(interval, integer) TO relaytest_scheduler;
    GRANT SELECT, INSERT, UPDATE, DELETE ON relaytest.dns_zone TO relaytest_publisher;
    GRANT SELECT, UPDATE (done_at) ON relaytest.publication_order TO relaytest_publisher;
    GRANT SELECT ON relaytest.scope_network TO relaytest_publisher;
    GRANT SELECT ON relaytest.publication_order TO relaytest_read;
END $$;
COMMENT ON FUNCTION relaytest.grant_roles IS
    'Makes the roles relaytest_* and grants them what they need; needs CREATEROLE. May be run again';
REVOKE EXECUTE ON FUNCTION relaytest.grant_roles(), relaytest.grant_first_roles() FROM PUBLIC;

DO $$
BEGIN
    PERFORM relaytest.grant_roles();
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'no roles made: %; let a superuser run SELECT relaytest.grant_roles()', SQLERRM;
END $$;
