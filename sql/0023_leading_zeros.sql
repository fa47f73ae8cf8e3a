-- An address with leading zeros means one host to who reads them as octal (inet_aton) and another
-- to who does not (PostgreSQL). What may mean a stranger is not tested.

ALTER FUNCTION relaytest.parse_target(text) RENAME TO parse_unpadded_target;
CREATE FUNCTION relaytest.parse_target(p_target text) RETURNS inet
LANGUAGE plpgsql STABLE SET search_path = pg_catalog AS $$
BEGIN
    IF p_target ~ '(^|[.:[:space:]])0[0-9]+\.|\.0[0-9]+($|[/[:space:]])' THEN
        RAISE EXCEPTION 'target "%" is not an IP address', left(p_target, 80) USING ERRCODE = '22P02',
            HINT = 'Leading zeros are octal to some and decimal to others: leave them out.';
    END IF;
    RETURN relaytest.parse_unpadded_target(p_target);
END $$;
