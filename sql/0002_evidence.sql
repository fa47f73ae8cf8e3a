-- What was asked, what was answered, what came back, and what was made of it.

-- A trial is one question, "does this server relay?", from the first visit to the verdict. A
-- job may visit the server several times for one trial (greylisting, connection limits).
CREATE TABLE relaytest.trial (
    id         bigint      PRIMARY KEY,             -- from relaytest.trial_id; also inside tokens
    job        bigint      NOT NULL,                -- no foreign key: finished jobs leave their table
    address    inet        NOT NULL,
    port       integer     NOT NULL,
    reason     relaytest.reason NOT NULL,
    requester  text        NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    forms      integer[]   NOT NULL DEFAULT '{}',   -- what is asked; empty until the first visit ended
    visits     integer     NOT NULL DEFAULT 0,
    probed_at  timestamptz,                         -- end of the last visit
    ended      boolean     NOT NULL DEFAULT false,  -- no further visit will come
    settle_at  timestamptz,                         -- judge at this time; NULL: nothing new
    CONSTRAINT visited_has_a_time CHECK ((visits > 0) = (probed_at IS NOT NULL))
);
ALTER SEQUENCE relaytest.trial_id OWNED BY relaytest.trial.id;
CREATE INDEX trial_settle ON relaytest.trial (settle_at) WHERE settle_at IS NOT NULL;
CREATE INDEX trial_target ON relaytest.trial (address, port, id DESC);

-- One TCP connection to a target. The transcript is three arrays of equal length.
CREATE TABLE relaytest.session (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    trial      bigint      NOT NULL REFERENCES relaytest.trial,
    visit      integer     NOT NULL,
    purpose    text        NOT NULL CHECK (purpose IN ('scout', 'ask', 'alone', 'confirm')),
    started_at timestamptz NOT NULL,
    seconds    real        NOT NULL,
    source     inet,                        -- our address on this connection; NULL: never connected
    ended      text        NOT NULL,        -- 'complete', 'hung-up', 'rejected', or how it broke (core.dialogue.Break)
    detail     text        NOT NULL DEFAULT '',
    greeting   text,
    hello      text,
    at         real[]      NOT NULL DEFAULT '{}',       -- seconds since the connection was begun
    ours       boolean[]   NOT NULL DEFAULT '{}',       -- true: we said it
    octets     bytea[]     NOT NULL DEFAULT '{}',
    CONSTRAINT transcript_is_whole CHECK (cardinality(at) = cardinality(ours) AND cardinality(at) = cardinality(octets))
);
CREATE INDEX session_trial ON relaytest.session (trial);

CREATE TABLE relaytest.outcome (
    session bigint   NOT NULL REFERENCES relaytest.session,
    trial   bigint   NOT NULL REFERENCES relaytest.trial,
    visit   integer  NOT NULL,
    form    integer  NOT NULL,          -- core/battery.toml; 0 is the control recipient postmaster
    step    text     NOT NULL CHECK (step IN ('mail', 'rcpt', 'data', 'end-of-data')),
    code    smallint CHECK (code BETWEEN 200 AND 599),      -- NULL: no answer to the final dot
    reply   text     NOT NULL DEFAULT '',
    CONSTRAINT only_the_dot_may_go_unanswered CHECK (code IS NOT NULL OR step = 'end-of-data')
);
CREATE INDEX outcome_trial ON relaytest.outcome (trial);

-- A message that reached our sink for one of our token mailboxes. It may come before the worker
-- has stored anything of the visit, and counts whenever it comes; so it names the trial without
-- a foreign key.
CREATE TABLE relaytest.receipt (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    trial        bigint      NOT NULL,
    form         integer     NOT NULL,
    mailbox      text        NOT NULL CHECK (mailbox IN ('forward', 'reverse')),
    peer         inet        NOT NULL,
    helo         bytea       NOT NULL,
    reverse_path bytea       NOT NULL,
    forward_path bytea       NOT NULL,
    message      bytea       NOT NULL,
    size         bigint      NOT NULL,              -- octets that came; more than length(message) if truncated
    received_at  timestamptz NOT NULL DEFAULT now(),
    copies       integer     NOT NULL DEFAULT 1,
    last_at      timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT receipt_once UNIQUE (trial, form, mailbox, peer)
);

CREATE TABLE relaytest.verdict (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    trial        bigint      NOT NULL REFERENCES relaytest.trial,
    address      inet        NOT NULL,
    port         integer     NOT NULL,
    verdict      text        NOT NULL CHECK (verdict IN ('open', 'closed', 'unknown')),
    reason       text        NOT NULL,              -- core.verdict.Reason
    condition    text,                              -- open only: what it takes
    exit_address inet,                              -- open only: who handed the copy to us, if not the target
    confidence   text        NOT NULL CHECK (confidence IN ('high', 'medium', 'low')),
    explanation  text        NOT NULL,
    forms        text[]      NOT NULL,              -- the forms that decided it
    decided_at   timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX verdict_target ON relaytest.verdict (address, port, trial DESC, id DESC);
CREATE INDEX verdict_trial ON relaytest.verdict (trial, id DESC);

CREATE VIEW relaytest.verdict_latest AS
    SELECT DISTINCT ON (address, port)
           address, port, verdict, reason, condition, exit_address, decided_at, confidence, explanation, forms, trial
      FROM relaytest.verdict ORDER BY address, port, trial DESC, id DESC;
COMMENT ON VIEW relaytest.verdict_latest IS 'The last verdict on each target';

-- The keys that sign tokens; the newest signs, all verify.
CREATE TABLE relaytest.token_key (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key        bytea       NOT NULL CHECK (length(key) >= 32),
    created_at timestamptz NOT NULL DEFAULT now()
);
-- Two random UUIDs carry 244 random bits from the server's strong generator.
INSERT INTO relaytest.token_key (key) VALUES (sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())));

-- Messages that we send to our own sink: a target's silence counts only while these come back.
CREATE TABLE relaytest.sink_check (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sent_at     timestamptz NOT NULL DEFAULT now(),
    received_at timestamptz
);
CREATE INDEX sink_check_sent ON relaytest.sink_check (sent_at);
