
-- Identity of this registry. One row.
CREATE TABLE registry (
    only_row           INTEGER PRIMARY KEY CHECK (only_row = 1),
    instance           BLOB NOT NULL CHECK (length(instance) = 16),
    generation         INTEGER NOT NULL,  -- raised by every row that is created; mirrored beside the database
    recovering_since   INTEGER,           -- set while unknown containers are held for an operator
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
    CHECK ((status = 'failed') = (failure IS NOT NULL)),
    CHECK ((status = 'removed') = (removed_at IS NOT NULL))
) STRICT;

CREATE UNIQUE INDEX workspaces_live_name ON workspaces (name) WHERE status <> 'removed';
CREATE INDEX workspaces_name ON workspaces (name);
CREATE UNIQUE INDEX workspaces_host_port ON workspaces (host_port) WHERE host_port IS NOT NULL;
CREATE INDEX workspaces_parent ON workspaces (parent_id) WHERE parent_id IS NOT NULL;
CREATE INDEX workspaces_live ON workspaces (created_at) WHERE status <> 'removed';
CREATE INDEX workspaces_provisioning ON workspaces (status_since) WHERE status = 'provisioning';
CREATE INDEX workspaces_up ON workspaces (status, container_id) WHERE status IN ('online', 'degraded', 'offline');
CREATE INDEX workspaces_holding ON workspaces (id, status, name) -- covers the query for stale tokens
    WHERE kind = 'container'
      AND status IN ('online', 'degraded', 'offline', 'failed', 'paused', 'hibernating', 'hibernated');
CREATE INDEX workspaces_removed ON workspaces (removed_at) WHERE status = 'removed';

-- Values that a heartbeat changes: a narrow table without further indexes, one row per workspace that is not removed.
CREATE TABLE pulse (
    workspace     INTEGER PRIMARY KEY REFERENCES workspaces (key) ON DELETE CASCADE,
    token_used_at INTEGER  -- last use of the valid instance token
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

-- Reaped containers and volumes that can still be restored.
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
    name  TEXT NOT NULL           -- the name to restore
) STRICT, WITHOUT ROWID;

CREATE INDEX trash_items_of_entry ON trash_items (trash);

-- Plans above the breaker's limit, one per pass, until an operator approves them or their cause disappears.
CREATE TABLE held_plans (
    pass        TEXT PRIMARY KEY,
    id          BLOB NOT NULL CHECK (length(id) = 16),
    reason      TEXT NOT NULL,
    plan        TEXT NOT NULL,    -- JSON: the exact actions
    held_at     INTEGER NOT NULL,
    approved_at INTEGER
) STRICT, WITHOUT ROWID;
