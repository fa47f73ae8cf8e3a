-- What every INSERT into the queue calls keeps its plan for the session: a function in SQL is
-- planned anew in each transaction, or, inside another one, at each call, which was half the price
-- of an INSERT. What they say is as before.

CREATE OR REPLACE FUNCTION relaytest.embedded_ipv4(p_address inet) RETURNS inet
LANGUAGE plpgsql IMMUTABLE STRICT SET search_path = pg_catalog AS $$
DECLARE
    v_octets bytea;                             -- four octets of header, then the address
    v_first integer;
BEGIN
    IF p_address << '::ffff:0:0/96' OR p_address << '64:ff9b::/96' THEN
        v_first := 16;
    ELSIF p_address << '2002::/16' THEN
        v_first := 6;
    ELSE
        RETURN NULL;
    END IF;
    v_octets := inet_send(p_address);
    RETURN format('%s.%s.%s.%s', get_byte(v_octets, v_first), get_byte(v_octets, v_first + 1),
                  get_byte(v_octets, v_first + 2), get_byte(v_octets, v_first + 3))::inet;
END $$;

CREATE OR REPLACE FUNCTION relaytest.scope_refusal(p_address inet) RETURNS text
LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog AS $$
DECLARE
    v_ipv4 inet := relaytest.embedded_ipv4(p_address);
BEGIN
    RETURN (
        SELECT s.why
          FROM relaytest.scope_network AS s
         WHERE s.rule = 'deny' AND (s.network >>= p_address OR s.network >>= v_ipv4)
            OR s.rule = 'special' AND s.network >>= coalesce(v_ipv4, p_address)
               AND NOT EXISTS (SELECT FROM relaytest.scope_network AS a
                                WHERE a.rule = 'allow' AND a.network >>= coalesce(v_ipv4, p_address))
         ORDER BY s.rule, masklen(s.network) DESC
         LIMIT 1);
END $$;

CREATE OR REPLACE FUNCTION relaytest.exclusion_of(p_address inet) RETURNS text
LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog AS $$
DECLARE
    v_ipv4 inet := relaytest.embedded_ipv4(p_address);
BEGIN
    RETURN (
        SELECT format('%s is excluded from testing: %s', e.network, e.why)
          FROM relaytest.exclusion_current AS e
         WHERE e.network >>= p_address OR e.network >>= v_ipv4
         ORDER BY masklen(e.network) DESC
         LIMIT 1);
END $$;

CREATE OR REPLACE FUNCTION relaytest.host_name(p_target text) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog AS $$
DECLARE
    v_name text := rtrim(lower(btrim(p_target)), '.');
BEGIN
    IF length(v_name) <= 253
       AND v_name ~ '^([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])$' THEN
        RETURN v_name;
    END IF;
    RETURN NULL;
END $$;
