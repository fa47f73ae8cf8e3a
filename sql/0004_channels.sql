-- What a session was encrypted with. A server may relay only inside TLS, so answers in clear and
-- answers inside TLS are kept apart.

ALTER TABLE relaytest.session
    ADD COLUMN tls         text,        -- version and cipher; NULL: in clear
    ADD COLUMN certificate bytea,       -- the server's, DER; not checked
    ADD CONSTRAINT certificate_of_tls CHECK (certificate IS NULL OR tls IS NOT NULL);

-- Some forms are a name in EHLO: the refusal of that name answers them.
ALTER TABLE relaytest.outcome
    DROP CONSTRAINT outcome_step_check,
    ADD CONSTRAINT outcome_step_check CHECK (step IN ('hello', 'mail', 'rcpt', 'data', 'end-of-data'));
