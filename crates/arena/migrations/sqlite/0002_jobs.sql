-- A claim has a number: whoever completes, keeps or gives back one says which, so a claim that was lost meanwhile changes
-- nothing. Times are milliseconds since 1970; charged_to names the
-- worker behind each attempt.
CREATE TABLE jobs (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    take_ms       INTEGER NOT NULL CHECK (take_ms >= 0),
    state         TEXT    NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'claimed', 'done', 'failed')),
    claim         INTEGER NOT NULL DEFAULT 0,
    attempts      INTEGER NOT NULL DEFAULT 0,
    worker        TEXT,
    charged_to    TEXT NOT NULL DEFAULT '',
    claimed_ms    INTEGER,
    claim_ends_ms INTEGER,
    given_back_ms INTEGER,
    pickup_ms     INTEGER
) STRICT;

CREATE INDEX jobs_open ON jobs (id) WHERE state IN ('waiting', 'claimed');

-- What a job does. No key on the job, on purpose: an effect that happened twice must show, not be refused.
CREATE TABLE job_effects (
    job    INTEGER NOT NULL,
    amount INTEGER NOT NULL,
    worker TEXT    NOT NULL
) STRICT;
