-- Who is listed, and every change of it.

CREATE TABLE relaytest.listing (
    address    inet        NOT NULL,
    port       integer     NOT NULL,
    state      text        NOT NULL CHECK (state IN ('listed', 'unlisted')),
    code       smallint    NOT NULL DEFAULT 2 CHECK (code BETWEEN 2 AND 254),   -- last octet of 127.0.0.x
    trial      bigint      NOT NULL REFERENCES relaytest.trial,                 -- the evidence for the state
    changed_at timestamptz NOT NULL DEFAULT now(),
    listed_at  timestamptz,                     -- NULL unless listed
    expires_at timestamptz,                     -- RFC 6471 section 2.2.1: listings are temporary
    recheck_at timestamptz,                     -- next automatic retest
    PRIMARY KEY (address, port),
    CONSTRAINT listing_is_a_host CHECK (masklen(address) = CASE family(address) WHEN 4 THEN 32 ELSE 128 END),
    CONSTRAINT listed_has_times CHECK ((state = 'listed') = (listed_at IS NOT NULL) AND (state = 'listed') = (expires_at IS NOT NULL)),
    -- RFC 5782 section 5: test entries belong to the zone itself, and 127.0.0.1 is never listed
    CONSTRAINT listing_is_no_test_entry CHECK (NOT address <<= '127.0.0.0/30' AND NOT address <<= '::ffff:0:0/96')
);
CREATE INDEX listing_recheck ON relaytest.listing (recheck_at) WHERE state = 'listed';
CREATE INDEX listing_expires ON relaytest.listing (expires_at) WHERE state = 'listed';

CREATE TABLE relaytest.listing_change (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    address inet        NOT NULL,
    port    integer     NOT NULL,
    event   text        NOT NULL,               -- core.listing.Event
    old     text        NOT NULL,
    new     text        NOT NULL,
    trial   bigint REFERENCES relaytest.trial,
    why     text        NOT NULL,
    at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX listing_change_address ON relaytest.listing_change (address, id DESC);

CREATE VIEW relaytest.listing_current AS
    SELECT address, port, code, listed_at, expires_at, recheck_at, trial
      FROM relaytest.listing WHERE state = 'listed' AND expires_at > now();
COMMENT ON VIEW relaytest.listing_current IS 'What is published';

CREATE VIEW relaytest.listing_history AS
    SELECT id, address, port, at, event, old, new, why, trial FROM relaytest.listing_change;
COMMENT ON VIEW relaytest.listing_history IS 'Every change of every listing, with its cause';
