-- Heartbeats and last reports of agents, restarts after unexpected exits, hibernation, admin tokens.

ALTER TABLE workspaces ADD COLUMN hibernation_idle_minutes INTEGER;
ALTER TABLE workspaces ADD COLUMN max_concurrent_tasks INTEGER;
ALTER TABLE workspaces ADD COLUMN restart_when_wedged INTEGER NOT NULL DEFAULT 0;
ALTER TABLE workspaces ADD COLUMN paused_with BLOB;
ALTER TABLE workspaces ADD COLUMN online_since INTEGER;
ALTER TABLE workspaces ADD COLUMN ends TEXT NOT NULL DEFAULT '[]';
ALTER TABLE workspaces ADD COLUMN restart_due_at INTEGER;

-- A live row occupies a page of its own among removed ones, so the passes read covering indexes instead of rows.
DROP INDEX workspaces_up;
DROP INDEX workspaces_holding;
CREATE INDEX workspaces_holding -- covers the passes' queries; each row itself occupies a page
    ON workspaces (id, name, status, failure, container_id, incarnation, status_since, runtime)
    WHERE kind = 'container'
      AND status IN ('online', 'degraded', 'offline', 'failed', 'paused', 'hibernating', 'hibernated');

CREATE INDEX workspaces_restart_due ON workspaces (restart_due_at)
    WHERE status = 'offline' AND restart_due_at IS NOT NULL;
CREATE INDEX workspaces_falling_asleep ON workspaces (key) WHERE status = 'hibernating';
CREATE INDEX workspaces_may_sleep ON workspaces (hibernation_idle_minutes, status, kind)
    WHERE hibernation_idle_minutes IS NOT NULL AND status IN ('online', 'degraded');
CREATE INDEX workspaces_paused_with ON workspaces (paused_with) WHERE paused_with IS NOT NULL;

ALTER TABLE pulse ADD COLUMN last_heartbeat_at INTEGER;
ALTER TABLE pulse ADD COLUMN last_activity_at INTEGER;
ALTER TABLE pulse ADD COLUMN error_rate REAL NOT NULL DEFAULT 0;
ALTER TABLE pulse ADD COLUMN active_tasks INTEGER NOT NULL DEFAULT 0;
ALTER TABLE pulse ADD COLUMN uptime_seconds INTEGER NOT NULL DEFAULT 0;
ALTER TABLE pulse ADD COLUMN monthly_spend_cents INTEGER NOT NULL DEFAULT 0;
ALTER TABLE pulse ADD COLUMN wedged_since INTEGER;

-- Texts from the agents' last reports. Written only when they change, and separate from `pulse`: an unchanged heartbeat
-- writes one narrow row.
CREATE TABLE reports (
    workspace        INTEGER PRIMARY KEY REFERENCES workspaces (key) ON DELETE CASCADE,
    agent_card       TEXT,                      -- JSON
    current_task     TEXT NOT NULL DEFAULT '',
    sample_error     TEXT NOT NULL DEFAULT '',
    runtime_state    TEXT NOT NULL DEFAULT '',
    runtime_metadata TEXT                       -- JSON
) STRICT;

-- What agents report for their users; the newest rows of each workspace are kept.
CREATE TABLE activity (
    sequence   INTEGER PRIMARY KEY,
    workspace  INTEGER NOT NULL REFERENCES workspaces (key) ON DELETE CASCADE,
    payload    TEXT NOT NULL,                   -- JSON
    created_at INTEGER NOT NULL
) STRICT;

CREATE INDEX activity_of_workspace ON activity (workspace, sequence);

-- Tokens with full access, for users and programs that do not use the local socket.
CREATE TABLE admin_tokens (
    id         BLOB PRIMARY KEY CHECK (length(id) = 16),
    name       TEXT NOT NULL,
    digest     BLOB NOT NULL UNIQUE CHECK (length(digest) = 32),
    prefix     TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER
) STRICT, WITHOUT ROWID;
