-- Exits of multi-hop relays: the server that handed our message to us, if not the target itself.
-- An exit stands in relaytest.listing under port 0 with code 3: it was never tested, others were.

ALTER TABLE relaytest.listing
    ADD COLUMN exit_address inet,       -- code 2: who handed on what this server took
    ADD CONSTRAINT outputs_have_no_port CHECK ((code = 3) = (port = 0)),
    ADD CONSTRAINT outputs_are_not_tested CHECK (code <> 3 OR recheck_at IS NULL),
    ADD CONSTRAINT exit_is_another CHECK (exit_address <> address);
CREATE INDEX listing_exit ON relaytest.listing (exit_address) WHERE state = 'listed' AND exit_address IS NOT NULL;

CREATE OR REPLACE VIEW relaytest.listing_current AS
    SELECT address, port, code, listed_at, expires_at, recheck_at, trial, exit_address
      FROM relaytest.listing WHERE state = 'listed' AND expires_at > now();
COMMENT ON VIEW relaytest.listing_current IS
    'What is published; code 2: an open relay; code 3, port 0: the exit of one';
