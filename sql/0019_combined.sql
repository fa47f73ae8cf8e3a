-- Zones of several codes: all.ZONE.

ALTER TABLE relaytest.dns_zone
    ADD COLUMN listed  smallint[] NOT NULL DEFAULT '{}',    -- codes of its entries
    ADD COLUMN entries text[]     NOT NULL DEFAULT '{}',    -- TXT of each, before the address
    ADD CONSTRAINT each_code_has_its_text CHECK (cardinality(listed) = cardinality(entries));
UPDATE relaytest.dns_zone SET listed = ARRAY[code], entries = ARRAY[entry] WHERE code <> 0;
ALTER TABLE relaytest.dns_zone DROP COLUMN code, DROP COLUMN entry;

-- As before, but for the codes: an address is there once, under the least of them.
CREATE OR REPLACE FUNCTION relaytest.dns_records(p_name text)
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
    ELSIF family(v_address) = ANY (v_zone.versions) THEN
        SELECT ARRAY['127.0.0.' || l.code,
                     '"' || v_zone.entries[array_position(v_zone.listed, l.code)] || host(v_address) || '"'] INTO v_values
          FROM relaytest.listing_current AS l
         WHERE l.address = v_address AND l.code = ANY (v_zone.listed) ORDER BY l.code LIMIT 1;
    END IF;
    IF v_values IS NOT NULL THEN
        type := 'A'; content := v_values[1]; RETURN NEXT;
        type := 'TXT'; content := v_values[2]; RETURN NEXT;
    ELSIF v_labels ~ '^[0-9a-f](\.[0-9a-f]){0,30}$'     -- also 1.0.0.2, the way to all of 2001::/16
       OR v_labels ~ '^(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(\.(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)){0,2}$' THEN
        type := NULL; content := NULL; ttl := NULL; prio := NULL; RETURN NEXT;
    END IF;
END $$;
