"""The tables, indexes and triggers, as each version of the file has added them."""

_VERSION_1 = """
CREATE TABLE counters (
    -- One row, kept by the triggers below, so that no count has to scan.
    tasks INTEGER NOT NULL,
    jobs INTEGER NOT NULL,
    scheduled INTEGER NOT NULL,
    queued INTEGER NOT NULL,
    delayed INTEGER NOT NULL,
    active INTEGER NOT NULL,
    position INTEGER NOT NULL   -- the last place in any queue that was given
) STRICT;
INSERT INTO counters VALUES (0, 0, 0, 0, 0, 0, 0);

CREATE TABLE tasks (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    created_at REAL NOT NULL,
    modified_at REAL NOT NULL,
    jobs_count INTEGER NOT NULL
) STRICT;

CREATE TABLE words (
    word TEXT NOT NULL,
    task INTEGER NOT NULL,
    PRIMARY KEY (word, task)
) STRICT, WITHOUT ROWID;

CREATE TABLE jobs (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    task_id TEXT NOT NULL,
    definition TEXT NOT NULL,
    start_at REAL,
    cron TEXT,
    timezone TEXT NOT NULL,
    created_at REAL NOT NULL,
    modified_at REAL NOT NULL,
    queue_job_id TEXT NOT NULL,
    generation INTEGER NOT NULL,
    next_run_at REAL,
    stopped_at REAL,
    execution_count INTEGER NOT NULL,
    request_ip TEXT
) STRICT;
CREATE INDEX jobs_of_task ON jobs (task_id, seq);
CREATE INDEX jobs_scheduled ON jobs (next_run_at) WHERE next_run_at IS NOT NULL;

CREATE TABLE idempotency (
    task_id TEXT NOT NULL,
    key TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    job_id TEXT NOT NULL,
    queue_job_id TEXT NOT NULL,
    execution_id TEXT,
    PRIMARY KEY (task_id, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE executions (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    task_id TEXT NOT NULL,
    job_id TEXT NOT NULL,
    definition TEXT NOT NULL,
    farm TEXT NOT NULL,
    created_at REAL NOT NULL,
    queue_job_id TEXT NOT NULL,
    generation INTEGER NOT NULL,
    number INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    tick REAL,
    late_seconds REAL,
    request_ip TEXT,
    status TEXT NOT NULL,
    reason TEXT,
    error TEXT,
    exit_code INTEGER,
    started_at REAL,
    finished_at REAL,
    due_at REAL,
    waits_for TEXT,
    position INTEGER,
    owner TEXT,
    epoch INTEGER NOT NULL,
    host TEXT,
    run_id TEXT,
    stop_reason TEXT,
    stop_requested_at REAL,
    expires_at REAL             -- the definition's, for the indexes
) STRICT;
CREATE UNIQUE INDEX executions_of_job ON executions (job_id, number);
-- A retry stands for the tick of the execution that failed, so it does not count here.
CREATE UNIQUE INDEX executions_tick ON executions (job_id, tick)
    WHERE tick IS NOT NULL AND attempt = 0;
CREATE INDEX executions_enqueued ON executions (job_id) WHERE status = 'enqueued';
CREATE INDEX executions_queue ON executions (farm, position, expires_at)
    WHERE status = 'enqueued' AND position IS NOT NULL;
CREATE INDEX executions_delayed ON executions (due_at)
    WHERE status = 'enqueued' AND due_at IS NOT NULL AND waits_for IS NULL;
CREATE INDEX executions_waiting ON executions (waits_for)
    WHERE status = 'enqueued' AND waits_for IS NOT NULL;
CREATE INDEX executions_expiring ON executions (expires_at)
    WHERE status = 'enqueued' AND expires_at IS NOT NULL;
CREATE INDEX executions_active ON executions (farm, status)
    WHERE status IN ('pulling', 'running');

CREATE TABLE leases (
    instance TEXT PRIMARY KEY,
    ends_at REAL NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE logs (
    execution INTEGER PRIMARY KEY,
    last_seq INTEGER NOT NULL,
    bookmark TEXT NOT NULL,
    kept_bytes INTEGER NOT NULL,
    stdout_bytes INTEGER NOT NULL,
    stderr_bytes INTEGER NOT NULL,
    dropped_bytes INTEGER NOT NULL,
    head_seq INTEGER,           -- the last record of the head, once the head is full
    head_bytes INTEGER NOT NULL,
    dropped_at REAL             -- the time of the last record that was dropped
) STRICT;

CREATE TABLE log_chunks (
    id INTEGER PRIMARY KEY,
    execution INTEGER NOT NULL,
    first_seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    last_at REAL NOT NULL,
    bytes INTEGER NOT NULL,
    stdout_bytes INTEGER NOT NULL,
    stderr_bytes INTEGER NOT NULL,
    records BLOB NOT NULL       -- the last column, so that it is read only when it is asked for
) STRICT;
CREATE UNIQUE INDEX log_chunks_of_execution ON log_chunks (execution, last_seq);

CREATE TRIGGER task_inserted AFTER INSERT ON tasks BEGIN
    UPDATE counters SET tasks = tasks + 1;
END;
CREATE TRIGGER job_inserted AFTER INSERT ON jobs BEGIN
    UPDATE counters SET jobs = jobs + 1, scheduled = scheduled + (NEW.next_run_at IS NOT NULL);
END;
CREATE TRIGGER job_updated AFTER UPDATE OF next_run_at ON jobs
WHEN (OLD.next_run_at IS NULL) <> (NEW.next_run_at IS NULL) BEGIN
    UPDATE counters SET scheduled = scheduled + iif(NEW.next_run_at IS NULL, -1, 1);
END;
CREATE TRIGGER execution_inserted AFTER INSERT ON executions BEGIN
    UPDATE counters SET
        queued = queued + (NEW.status = 'enqueued' AND NEW.position IS NOT NULL),
        delayed = delayed + (NEW.status = 'enqueued' AND NEW.position IS NULL),
        active = active + (NEW.status IN ('pulling', 'running')),
        position = max(position, ifnull(NEW.position, 0));
END;
CREATE TRIGGER execution_updated AFTER UPDATE OF status, position ON executions BEGIN
    UPDATE counters SET
        queued = queued + (NEW.status = 'enqueued' AND NEW.position IS NOT NULL)
                        - (OLD.status = 'enqueued' AND OLD.position IS NOT NULL),
        delayed = delayed + (NEW.status = 'enqueued' AND NEW.position IS NULL)
                          - (OLD.status = 'enqueued' AND OLD.position IS NULL),
        active = active + (NEW.status IN ('pulling', 'running'))
                        - (OLD.status IN ('pulling', 'running')),
        position = max(position, ifnull(NEW.position, 0));
END;
"""

_VERSION_2 = """
ALTER TABLE counters ADD COLUMN webhooks INTEGER NOT NULL DEFAULT 0;
ALTER TABLE counters ADD COLUMN mails INTEGER NOT NULL DEFAULT 0;
ALTER TABLE counters ADD COLUMN undelivered INTEGER NOT NULL DEFAULT 0;

CREATE TABLE deliveries (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    execution_id TEXT NOT NULL,
    task_id TEXT NOT NULL,
    job_id TEXT NOT NULL,
    channel TEXT NOT NULL,
    event TEXT NOT NULL,
    place INTEGER NOT NULL,
    target TEXT NOT NULL,
    receiver TEXT NOT NULL,
    created_at REAL NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    due_at REAL,
    claim INTEGER NOT NULL,
    claimed_at REAL,
    history TEXT NOT NULL
) STRICT;
CREATE INDEX deliveries_of_execution ON deliveries (execution_id);
CREATE INDEX deliveries_of_receiver ON deliveries (receiver, due_at) WHERE state = 'pending';
CREATE INDEX deliveries_due ON deliveries (due_at) WHERE state = 'pending';
CREATE INDEX deliveries_open ON deliveries (state, seq) WHERE state IN ('pending', 'failed');

CREATE TRIGGER delivery_inserted AFTER INSERT ON deliveries BEGIN
    UPDATE counters SET
        webhooks = webhooks + (NEW.state = 'pending' AND NEW.channel = 'webhook'),
        mails = mails + (NEW.state = 'pending' AND NEW.channel = 'email'),
        undelivered = undelivered + (NEW.state = 'failed');
END;
CREATE TRIGGER delivery_updated AFTER UPDATE OF state ON deliveries WHEN NEW.state <> OLD.state
BEGIN
    UPDATE counters SET
        webhooks = webhooks + (NEW.state = 'pending' AND NEW.channel = 'webhook')
                            - (OLD.state = 'pending' AND OLD.channel = 'webhook'),
        mails = mails + (NEW.state = 'pending' AND NEW.channel = 'email')
                      - (OLD.state = 'pending' AND OLD.channel = 'email'),
        undelivered = undelivered + (NEW.state = 'failed') - (OLD.state = 'failed');
END;
"""

_VERSION_3 = """
CREATE TABLE hosts (
    host TEXT PRIMARY KEY,
    failures INTEGER NOT NULL DEFAULT 0,
    error TEXT,
    open_until REAL,
    blacklisted INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- The executions of a job that are no longer there: execution_count still counts them.
ALTER TABLE jobs ADD COLUMN removed INTEGER NOT NULL DEFAULT 0;
CREATE INDEX jobs_idle ON jobs (modified_at)
    WHERE next_run_at IS NULL AND execution_count = removed;
CREATE INDEX executions_finished ON executions (finished_at)
    WHERE status IN ('done', 'failed', 'timedout', 'expired');
CREATE INDEX idempotency_of_job ON idempotency (job_id);

CREATE TRIGGER task_deleted AFTER DELETE ON tasks BEGIN
    UPDATE counters SET tasks = tasks - 1;
END;
CREATE TRIGGER job_deleted AFTER DELETE ON jobs BEGIN
    UPDATE counters SET jobs = jobs - 1, scheduled = scheduled - (OLD.next_run_at IS NOT NULL);
END;
CREATE TRIGGER delivery_deleted AFTER DELETE ON deliveries WHEN OLD.state <> 'delivered' BEGIN
    UPDATE counters SET
        webhooks = webhooks - (OLD.state = 'pending' AND OLD.channel = 'webhook'),
        mails = mails - (OLD.state = 'pending' AND OLD.channel = 'email'),
        undelivered = undelivered - (OLD.state = 'failed');
END;
"""

_VERSION_4 = """
CREATE TABLE pending (channel TEXT PRIMARY KEY, deliveries INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO pending
    SELECT channel, count(*) FROM deliveries WHERE state = 'pending' GROUP BY channel;

DROP TRIGGER delivery_inserted;
DROP TRIGGER delivery_updated;
DROP TRIGGER delivery_deleted;
ALTER TABLE counters DROP COLUMN webhooks;
ALTER TABLE counters DROP COLUMN mails;

CREATE TRIGGER delivery_inserted AFTER INSERT ON deliveries BEGIN
    UPDATE counters SET undelivered = undelivered + 1 WHERE NEW.state = 'failed';
    INSERT OR IGNORE INTO pending (channel, deliveries) VALUES (NEW.channel, 0);
    UPDATE pending SET deliveries = deliveries + 1
        WHERE channel = NEW.channel AND NEW.state = 'pending';
END;
CREATE TRIGGER delivery_updated AFTER UPDATE OF state ON deliveries WHEN NEW.state <> OLD.state
BEGIN
    UPDATE counters SET
        undelivered = undelivered + (NEW.state = 'failed') - (OLD.state = 'failed');
    UPDATE pending SET
        deliveries = deliveries + (NEW.state = 'pending') - (OLD.state = 'pending')
        WHERE channel = NEW.channel;
END;
CREATE TRIGGER delivery_deleted AFTER DELETE ON deliveries WHEN OLD.state <> 'delivered' BEGIN
    UPDATE counters SET undelivered = undelivered - (OLD.state = 'failed');
    UPDATE pending SET deliveries = deliveries - (OLD.state = 'pending')
        WHERE channel = OLD.channel;
END;
"""

_VERSION_5 = """
ALTER TABLE executions ADD COLUMN lost_reruns INTEGER NOT NULL DEFAULT 0;
"""

_VERSION_6 = """
ALTER TABLE jobs ADD COLUMN skipped_ticks INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN last_skipped_tick REAL;

ALTER TABLE executions ADD COLUMN trigger TEXT NOT NULL DEFAULT 'submit';
ALTER TABLE executions ADD COLUMN retry_of TEXT;
-- A retry was recognised by having been created when the attempt before it ended.
UPDATE executions SET trigger = 'retry', retry_of = (
    SELECT failed.id FROM executions AS failed
    WHERE failed.job_id = executions.job_id
        AND failed.number BETWEEN executions.number - 1000 AND executions.number - 1
        AND failed.attempt = executions.attempt - 1
        AND failed.generation = executions.generation
        AND failed.finished_at = executions.created_at
    ORDER BY failed.number DESC LIMIT 1
) WHERE attempt > 0;
UPDATE executions SET trigger = 'lost' WHERE retry_of IS NOT NULL
    AND (SELECT reason FROM executions AS failed WHERE failed.id = executions.retry_of) = 'lost';
UPDATE executions SET trigger = iif(
    (SELECT cron FROM jobs WHERE jobs.id = executions.job_id) IS NULL, 'schedule', 'cron'
) WHERE attempt = 0 AND tick IS NOT NULL;

CREATE INDEX executions_retry ON executions (retry_of) WHERE retry_of IS NOT NULL;
DROP INDEX executions_active;
CREATE INDEX executions_active ON executions (farm, host) WHERE status IN ('pulling', 'running');
"""

_VERSION_7 = """
CREATE TABLE turns (
    -- The last turn of each farm: fastlane.storage.turns.Turn.
    farm TEXT PRIMARY KEY,
    task_id TEXT NOT NULL,
    start TEXT NOT NULL,
    upto INTEGER NOT NULL,
    wrapped INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX executions_turns ON executions (farm, task_id, position, expires_at)
    WHERE status = 'enqueued' AND position IS NOT NULL;
DROP INDEX executions_active;
CREATE INDEX executions_active ON executions (farm, task_id, host)
    WHERE status IN ('pulling', 'running');
"""

_VERSION_8 = """
CREATE TABLE events (
    -- The last row always stays, so that no position is given twice.
    position INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    event TEXT NOT NULL
) STRICT;
"""

# Of fastlane.storage.lists. Some have an entry only while an execution is enqueued, or final.
_VERSION_9 = """
CREATE INDEX executions_created ON executions (created_at);
CREATE INDEX executions_ended ON executions (status, reason, created_at)
    WHERE status IN ('done', 'failed', 'timedout', 'expired');
CREATE INDEX executions_ended_of_task ON executions (task_id, status, created_at)
    WHERE status IN ('done', 'failed', 'timedout', 'expired');
CREATE INDEX executions_enqueued_at ON executions (created_at) WHERE status = 'enqueued';
CREATE INDEX executions_enqueued_of_task ON executions (task_id, created_at)
    WHERE status = 'enqueued';
CREATE INDEX executions_origin ON executions (farm, trigger, created_at);
CREATE INDEX executions_host ON executions (host, created_at) WHERE host IS NOT NULL;
"""

_VERSION_10 = """
-- How far the lines of a log are counted: at its end, and where each of its chunks begins. NULL and
-- missing in a log that was begun before this version, until somebody counts them.
ALTER TABLE logs ADD COLUMN begun INTEGER;
ALTER TABLE logs ADD COLUMN stdout_line INTEGER;
ALTER TABLE logs ADD COLUMN stderr_line INTEGER;
ALTER TABLE logs ADD COLUMN latest REAL;
CREATE TABLE log_lines (
    execution INTEGER NOT NULL,
    first_seq INTEGER NOT NULL,
    begun INTEGER NOT NULL,
    stdout_line INTEGER NOT NULL,
    stderr_line INTEGER NOT NULL,
    latest REAL NOT NULL,
    PRIMARY KEY (execution, first_seq)
) STRICT, WITHOUT ROWID;
"""

_VERSION_11 = """
ALTER TABLE executions ADD COLUMN queued_at REAL;
"""

_VERSION_12 = """
ALTER TABLE jobs ADD COLUMN paused_at REAL;
ALTER TABLE jobs ADD COLUMN name TEXT;
CREATE UNIQUE INDEX jobs_named ON jobs (task_id, name) WHERE name IS NOT NULL;
DROP INDEX jobs_idle;
CREATE INDEX jobs_idle ON jobs (modified_at)
    WHERE next_run_at IS NULL AND paused_at IS NULL AND execution_count = removed;
"""

_VERSION_13 = """
CREATE TABLE stats (
    step INTEGER NOT NULL,      -- seconds
    task TEXT NOT NULL,         -- empty: all of them
    start INTEGER NOT NULL,
    enqueued INTEGER NOT NULL,
    done INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    timedout INTEGER NOT NULL,
    expired INTEGER NOT NULL,
    durations TEXT NOT NULL,
    waits TEXT NOT NULL,
    PRIMARY KEY (step, task, start)
) STRICT, WITHOUT ROWID;
CREATE INDEX stats_old ON stats (step, start);
CREATE TABLE counted (position INTEGER NOT NULL) STRICT;
INSERT INTO counted VALUES (0);
CREATE TABLE counted_tasks (task TEXT PRIMARY KEY, active_at INTEGER NOT NULL)
    STRICT, WITHOUT ROWID;
CREATE INDEX counted_tasks_idle ON counted_tasks (active_at);
"""

_VERSION_14 = """
CREATE INDEX jobs_cron ON jobs (id) WHERE cron IS NOT NULL;
CREATE INDEX jobs_paused ON jobs (id) WHERE paused_at IS NOT NULL;
CREATE INDEX jobs_stopped ON jobs (id) WHERE stopped_at IS NOT NULL;
"""

_VERSION_15 = """
ALTER TABLE jobs ADD COLUMN deleted_at REAL;
ALTER TABLE executions ADD COLUMN deleted_at REAL;
CREATE INDEX jobs_deleted ON jobs (deleted_at) WHERE deleted_at IS NOT NULL;
CREATE INDEX executions_deleted ON executions (deleted_at) WHERE deleted_at IS NOT NULL;
DROP INDEX jobs_idle;
CREATE INDEX jobs_idle ON jobs (modified_at)
    WHERE next_run_at IS NULL AND paused_at IS NULL AND deleted_at IS NULL
        AND execution_count = removed;
DROP TRIGGER job_deleted;
CREATE TRIGGER job_deleted AFTER DELETE ON jobs BEGIN
    UPDATE counters SET
        jobs = jobs - (OLD.deleted_at IS NULL),
        scheduled = scheduled - (OLD.next_run_at IS NOT NULL);
END;
CREATE TRIGGER job_hidden AFTER UPDATE OF deleted_at ON jobs BEGIN
    UPDATE counters SET
        jobs = jobs - (NEW.deleted_at IS NOT NULL) + (OLD.deleted_at IS NOT NULL);
END;
"""

MIGRATIONS = (
    _VERSION_1,
    _VERSION_2,
    _VERSION_3,
    _VERSION_4,
    _VERSION_5,
    _VERSION_6,
    _VERSION_7,
    _VERSION_8,
    _VERSION_9,
    _VERSION_10,
    _VERSION_11,
    _VERSION_12,
    _VERSION_13,
    _VERSION_14,
    _VERSION_15,
)
"""What makes each version of the file out of the one before; ``user_version`` counts them."""
