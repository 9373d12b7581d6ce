-- A claim has a number: whoever completes, keeps or gives back one says which, so a claim that was lost meanwhile changes
-- nothing. Times are milliseconds since 1970; charged_to names the
-- worker behind each attempt.
CREATE TABLE jobs (
    id            BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    take_ms       BIGINT NOT NULL CHECK (take_ms >= 0),
    state         TEXT   NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'claimed', 'done', 'failed')),
    claim         BIGINT NOT NULL DEFAULT 0,
    attempts      BIGINT NOT NULL DEFAULT 0,
    worker        TEXT,
    charged_to    TEXT NOT NULL DEFAULT '',
    claimed_ms    BIGINT,
    claim_ends_ms BIGINT,
    given_back_ms BIGINT,
    pickup_ms     BIGINT
);

CREATE INDEX jobs_open ON jobs (id) WHERE state IN ('waiting', 'claimed');

-- What a job does. No key on the job, on purpose: an effect that happened twice must show, not be refused.
CREATE TABLE job_effects (
    job    BIGINT NOT NULL,
    amount BIGINT NOT NULL,
    worker TEXT   NOT NULL
);
