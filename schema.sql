-- The complete current schema, for reading. A test compares it with the result of the migrations.
-- Times are integer milliseconds UTC, passed in by the caller. Ids are UUIDs as 16-byte blobs.

-- Identity of this registry. One row.
CREATE TABLE registry (
    only_row           INTEGER PRIMARY KEY CHECK (only_row = 1),
    instance           BLOB NOT NULL CHECK (length(instance) = 16),
    generation         INTEGER NOT NULL,  -- raised by changes that must not be undone unnoticed; mirrored in a file
    recovering_since   INTEGER,           -- set while unknown containers and volumes are kept until an operator decides
    engine_accepted_at INTEGER            -- when the engine with the sentinel volume was accepted
) STRICT;

CREATE TABLE workspaces (
    key                 INTEGER PRIMARY KEY,
    id                  BLOB NOT NULL UNIQUE CHECK (length(id) = 16),
    name                TEXT NOT NULL,
    role                TEXT,
    kind                TEXT NOT NULL CHECK (kind IN ('container', 'external')),
    runtime             TEXT NOT NULL,
    tier                INTEGER NOT NULL CHECK (tier BETWEEN 1 AND 4),
    parent_id           BLOB REFERENCES workspaces (id),
    spec                TEXT NOT NULL,    -- JSON: image, command, env, bind-mounted directory, config
    status              TEXT NOT NULL CHECK (status IN (
                            'provisioning', 'online', 'degraded', 'offline', 'failed', 'paused',
                            'hibernating', 'hibernated', 'awaiting_agent', 'removed')),
    failure             TEXT CHECK (failure IN ('provision_timeout', 'start_error', 'parked')),
    status_detail       TEXT,
    status_since        INTEGER NOT NULL, -- changed only by a status change
    incarnation         INTEGER NOT NULL DEFAULT 0,
    container_id        TEXT,
    container_serial    INTEGER NOT NULL DEFAULT 0,
    container_spec_hash TEXT,
    host_port           INTEGER,
    has_work_volume     INTEGER NOT NULL DEFAULT 0,
    url                 TEXT,
    created_at          INTEGER NOT NULL,
    removed_at          INTEGER,
    purged_at           INTEGER,          -- when everything it owned was permanently deleted; it cannot be restored
    hibernation_idle_minutes INTEGER,  -- idle minutes until hibernation; null: never
    max_concurrent_tasks    INTEGER,  -- configured maximum; reported to peers, not enforced
    restart_when_wedged     INTEGER NOT NULL DEFAULT 0,
    paused_with             BLOB,  -- workspace whose pause also paused this one; its resume resumes both
    online_since            INTEGER,  -- start of the current up-period; ten minutes of it reset the restart budget
    ends                    TEXT NOT NULL DEFAULT '[]',  -- JSON: times of exits that count against the restart budget
    restart_due_at          INTEGER,  -- when an offline workspace is restarted
    purge_ordered_at        INTEGER,  -- when a permanent deletion was ordered that is not complete yet
    delivery_mode           TEXT NOT NULL DEFAULT 'push' CHECK (delivery_mode IN ('push', 'poll')),
    removed_with            BLOB,  -- workspace whose removal also removed this one; its undelete restores both
    config_pending          INTEGER NOT NULL DEFAULT 0,  -- 1 until the spec's config is written to the config volume
    was_below               BLOB,  -- of a root: its removed parent; an undelete of that parent moves it back
    revision                INTEGER NOT NULL DEFAULT 0,  -- raised by every change of the row
    stopped_revision        INTEGER NOT NULL DEFAULT 0,  -- revision at which the last stop or undelete was ordered
    CHECK ((status = 'failed') = (failure IS NOT NULL)),
    CHECK ((status = 'removed') = (removed_at IS NOT NULL))
) STRICT;

CREATE UNIQUE INDEX workspaces_live_name ON workspaces (name) WHERE status <> 'removed';
CREATE INDEX workspaces_name ON workspaces (name);
CREATE UNIQUE INDEX workspaces_host_port ON workspaces (host_port) WHERE host_port IS NOT NULL;
CREATE INDEX workspaces_parent ON workspaces (parent_id) WHERE parent_id IS NOT NULL;
CREATE INDEX workspaces_live ON workspaces (created_at) WHERE status <> 'removed';
CREATE INDEX workspaces_provisioning ON workspaces (status_since) WHERE status = 'provisioning';
CREATE INDEX workspaces_holding -- covers the sweep passes' queries, which then do not read the wide rows
    ON workspaces (id, name, status, failure, container_id, incarnation, status_since, runtime)
    WHERE kind = 'container'
      AND status IN ('online', 'degraded', 'offline', 'failed', 'paused', 'hibernating', 'hibernated');
CREATE INDEX workspaces_to_purge ON workspaces (purge_ordered_at) WHERE purge_ordered_at IS NOT NULL;
CREATE INDEX workspaces_removed ON workspaces (removed_at) WHERE status = 'removed';
CREATE INDEX workspaces_restart_due ON workspaces (restart_due_at)
    WHERE status = 'offline' AND restart_due_at IS NOT NULL;
CREATE INDEX workspaces_falling_asleep ON workspaces (key) WHERE status = 'hibernating';
CREATE INDEX workspaces_may_sleep ON workspaces (hibernation_idle_minutes, status, kind)
    WHERE hibernation_idle_minutes IS NOT NULL AND status IN ('online', 'degraded');
CREATE INDEX workspaces_paused_with ON workspaces (paused_with) WHERE paused_with IS NOT NULL;
CREATE INDEX workspaces_removed_with ON workspaces (removed_with) WHERE removed_with IS NOT NULL;
CREATE INDEX workspaces_was_below ON workspaces (was_below) WHERE was_below IS NOT NULL;

-- A trigger, so that no statement can forget it.
CREATE TRIGGER workspaces_revision AFTER UPDATE ON workspaces WHEN NEW.revision = OLD.revision
BEGIN
    UPDATE workspaces SET revision = OLD.revision + 1 WHERE key = OLD.key;
END;

-- Values that a heartbeat changes. A narrow table without further indexes; one row per workspace that is not removed.
CREATE TABLE pulse (
    workspace     INTEGER PRIMARY KEY REFERENCES workspaces (key) ON DELETE CASCADE,
    token_used_at INTEGER,  -- last use of the valid instance token
    last_heartbeat_at       INTEGER,
    last_activity_at        INTEGER,  -- tasks, messages, a wake; never a heartbeat alone
    error_rate              REAL NOT NULL DEFAULT 0,
    active_tasks            INTEGER NOT NULL DEFAULT 0,
    uptime_seconds          INTEGER NOT NULL DEFAULT 0,
    monthly_spend_cents     INTEGER NOT NULL DEFAULT 0,
    wedged_since            INTEGER  -- when the workspace was flagged as stalled; cleared by the next heartbeat
) STRICT;

CREATE TABLE tokens (
    id           BLOB PRIMARY KEY CHECK (length(id) = 16),
    workspace    INTEGER NOT NULL REFERENCES workspaces (key) ON DELETE CASCADE,
    kind         TEXT NOT NULL CHECK (kind IN ('instance', 'api')),
    incarnation  INTEGER,
    digest       BLOB NOT NULL UNIQUE CHECK (length(digest) = 32),
    prefix       TEXT NOT NULL,
    created_at   INTEGER NOT NULL,
    last_used_at INTEGER,
    expires_at   INTEGER,
    revoked_at   INTEGER,
    CHECK ((kind = 'instance') = (incarnation IS NOT NULL))
) STRICT, WITHOUT ROWID;

CREATE INDEX tokens_live_instance ON tokens (workspace, created_at, revoked_at) -- covers the sweep's query
    WHERE kind = 'instance' AND revoked_at IS NULL;
CREATE INDEX tokens_of_workspace ON tokens (workspace, created_at);

-- What operators, and agents for themselves, have ordered. A row is written before anything is done.
CREATE TABLE operations (
    id               INTEGER PRIMARY KEY AUTOINCREMENT,
    workspace        BLOB NOT NULL CHECK (length(workspace) = 16),  -- its row may not exist: restored from the trash
    workspace_name   TEXT NOT NULL,
    kind             TEXT NOT NULL CHECK (kind IN (
                         'create', 'start', 'stop', 'hibernate', 'wake', 'restart', 'recreate', 'remove', 'purge',
                         'undelete', 'restore', 'delete')),
    command             TEXT NOT NULL,     -- JSON: kind and parameters
    requested_by     TEXT NOT NULL,     -- 'operator', or 'agent:' and the id of a workspace
    revision         INTEGER NOT NULL,  -- of the workspace's row when the operation was accepted
    state            TEXT NOT NULL CHECK (state IN (
                         'accepted', 'running', 'waiting', 'done', 'skipped', 'failed', 'cancelled')),
    detail           TEXT,              -- what it waits for, or its result
    incarnation      INTEGER,           -- begun by this operation; null until the start's transaction
    cancel_requested INTEGER NOT NULL DEFAULT 0,
    begun            INTEGER NOT NULL DEFAULT 0,  -- 1 once it has begun to start a workspace; then it is not cancelled
    created_at       INTEGER NOT NULL,
    started_at       INTEGER,
    ended_at         INTEGER,
    CHECK ((state IN ('accepted', 'running', 'waiting')) = (ended_at IS NULL))
) STRICT;

CREATE INDEX operations_open ON operations (workspace, id, state) WHERE ended_at IS NULL;
CREATE INDEX operations_of_workspace ON operations (workspace, id);

CREATE TABLE events (
    sequence   INTEGER PRIMARY KEY AUTOINCREMENT,
    event_type TEXT NOT NULL,
    workspace  BLOB,
    payload    TEXT NOT NULL,     -- JSON; never contains secrets
    created_at INTEGER NOT NULL,
    swept_by   TEXT               -- name of the pass, for destructive actions; counted by the breaker
) STRICT;

CREATE INDEX events_of_workspace ON events (workspace, sequence);
CREATE INDEX events_swept ON events (created_at) WHERE swept_by IS NOT NULL;

-- Size of the event history. If an added event exceeds the limit, its transaction deletes older events. One row.
CREATE TABLE history (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    bytes    INTEGER NOT NULL  -- payloads plus 128 bytes per event
) STRICT;

-- Containers and volumes that were moved to the trash. They can be restored until their deletion begins.
CREATE TABLE trash (
    id             BLOB PRIMARY KEY CHECK (length(id) = 16),
    workspace      BLOB NOT NULL CHECK (length(workspace) = 16),
    workspace_name TEXT NOT NULL,
    reason         TEXT NOT NULL CHECK (reason IN ('removed', 'unknown', 'stray', 'replaced')),
    evidence       TEXT NOT NULL,
    state          TEXT NOT NULL CHECK (state IN ('claimed', 'kept', 'restoring', 'deleting')),
    created_at     INTEGER NOT NULL,
    keep_until     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX trash_of_workspace ON trash (workspace);
CREATE INDEX trash_keep_until ON trash (keep_until);
CREATE INDEX trash_open ON trash (id) WHERE state IN ('claimed', 'restoring');

-- Each container and volume is in at most one entry: the primary key makes a claim exclusive.
CREATE TABLE trash_items (
    item  TEXT PRIMARY KEY,       -- container id or volume name
    trash BLOB NOT NULL REFERENCES trash (id) ON DELETE CASCADE,
    kind  TEXT NOT NULL CHECK (kind IN ('container', 'volume')),
    name  TEXT NOT NULL           -- original name, which a restore sets again
) STRICT, WITHOUT ROWID;

CREATE INDEX trash_items_of_entry ON trash_items (trash);

-- Plans that exceed the breaker's limit, at most one per sweep pass. A plan is deleted when its cause disappears, or
-- when its actions have been carried out after an operator's approval.
CREATE TABLE held_plans (
    pass        TEXT PRIMARY KEY,
    id          BLOB NOT NULL CHECK (length(id) = 16),
    reason      TEXT NOT NULL,
    plan        TEXT NOT NULL,    -- JSON: the exact actions
    held_at     INTEGER NOT NULL,
    approved_at INTEGER
) STRICT, WITHOUT ROWID;

-- Texts from the agents' last reports. Written only when they change, and separate from `pulse`: an unchanged heartbeat
-- writes one narrow row.
CREATE TABLE reports (
    workspace        INTEGER PRIMARY KEY REFERENCES workspaces (key) ON DELETE CASCADE,
    agent_card       TEXT,                      -- JSON
    current_task     TEXT NOT NULL DEFAULT '',
    sample_error     TEXT NOT NULL DEFAULT '',
    runtime_state    TEXT NOT NULL DEFAULT '',
    runtime_metadata TEXT,                      -- JSON
    refused          TEXT NOT NULL DEFAULT '',  -- names of fields that were received and are invalid
    events_full_at   INTEGER                    -- when the agent's allowance of events is full again
) STRICT;

-- Activity of workspaces: messages, notices and agents' reports of their work. The newest rows are kept. Agent runtimes
-- poll these rows for messages.
CREATE TABLE activity (
    sequence      INTEGER PRIMARY KEY,
    id            BLOB NOT NULL UNIQUE CHECK (length(id) = 16), -- used as a cursor by clients
    workspace     INTEGER NOT NULL REFERENCES workspaces (key) ON DELETE CASCADE,
    activity_type TEXT NOT NULL CHECK (activity_type IN (
                      'a2a_send', 'a2a_receive', 'task_update', 'agent_log', 'skill_promotion', 'memory_write',
                      'error')),
    source_id     TEXT,             -- sending workspace; null for a user
    target_id     TEXT,
    method        TEXT,
    summary       TEXT,
    status        TEXT NOT NULL,
    error_detail  TEXT,
    duration_ms   INTEGER,
    request_body  TEXT,             -- JSON
    response_body TEXT,             -- JSON
    created_at    INTEGER NOT NULL,
    waiting       INTEGER NOT NULL, -- 1 until the agent has polled it; such rows are never dropped to free space
    bytes         INTEGER NOT NULL  -- size of the bodies, to limit what is kept
) STRICT;

CREATE INDEX activity_of_workspace ON activity (workspace, sequence);
CREATE INDEX activity_kept ON activity (workspace, sequence, bytes) WHERE waiting = 0;
CREATE INDEX activity_waiting ON activity (workspace, sequence, bytes) WHERE waiting = 1;

-- Tasks that one workspace delegates to another.
CREATE TABLE delegations (
    sequence         INTEGER PRIMARY KEY,
    id               BLOB NOT NULL UNIQUE CHECK (length(id) = 16),
    workspace        INTEGER NOT NULL REFERENCES workspaces (key) ON DELETE CASCADE,
    target           BLOB NOT NULL CHECK (length(target) = 16), -- may name a workspace that does not exist
    idempotency_key  TEXT,
    task             TEXT NOT NULL,
    sent_by_ostler   INTEGER NOT NULL,  -- 0: the agent sent it itself and only reports it
    status           TEXT NOT NULL CHECK (status IN ('pending', 'dispatched', 'queued', 'completed', 'failed')),
    attempts         INTEGER NOT NULL DEFAULT 0,
    error            TEXT,
    response_preview TEXT,
    created_at       INTEGER NOT NULL,
    finished_at      INTEGER,
    CHECK ((status IN ('completed', 'failed')) = (finished_at IS NOT NULL))
) STRICT;

CREATE INDEX delegations_of_workspace ON delegations (workspace, sequence);
CREATE UNIQUE INDEX delegations_key ON delegations (workspace, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX delegations_open ON delegations (workspace, created_at) WHERE finished_at IS NULL;

-- Notes that agents store for themselves, their team or all agents.
CREATE TABLE memories (
    sequence   INTEGER PRIMARY KEY,
    id         BLOB NOT NULL UNIQUE CHECK (length(id) = 16),
    workspace  INTEGER NOT NULL REFERENCES workspaces (key) ON DELETE CASCADE,
    scope      TEXT NOT NULL CHECK (scope IN ('LOCAL', 'TEAM', 'GLOBAL')),
    namespace  TEXT NOT NULL,
    content    TEXT NOT NULL,
    bytes      INTEGER NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE INDEX memories_of_workspace ON memories (workspace, sequence, bytes);
CREATE INDEX memories_global ON memories (sequence) WHERE scope = 'GLOBAL';

-- Tokens with full access, for users and programs that do not use the local socket.
CREATE TABLE admin_tokens (
    id         BLOB PRIMARY KEY CHECK (length(id) = 16),
    name       TEXT NOT NULL,
    digest     BLOB NOT NULL UNIQUE CHECK (length(digest) = 32),
    prefix     TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER
) STRICT, WITHOUT ROWID;

-- Number and state of the last checkpoint, to detect a write-ahead log that belongs to another file. See
-- src/store/log.rs.
CREATE TABLE log_mark (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    base     INTEGER NOT NULL,
    state    TEXT NOT NULL CHECK (state IN ('checkpoint', 'open', 'closed'))
) STRICT;

-- Addresses by which workspaces reached this host when the engine last answered. If the engine does not answer when the
-- daemon starts, these are used until it does. One row.
CREATE TABLE host_reach (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    rootless INTEGER NOT NULL,
    gateways TEXT NOT NULL  -- addresses of this host on the workspaces' networks, separated by spaces
) STRICT;
