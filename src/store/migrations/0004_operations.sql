-- Durable operations, and the revision of a workspace's row.

-- Raised by every change of the row. A decision that was made on a row records the row's revision.
ALTER TABLE workspaces ADD COLUMN revision INTEGER NOT NULL DEFAULT 0;
-- Revision at which the last stop or undelete was ordered. A start that was decided on an earlier revision is abandoned.
ALTER TABLE workspaces ADD COLUMN stopped_revision INTEGER NOT NULL DEFAULT 0;

-- A trigger, so that no statement can forget it.
CREATE TRIGGER workspaces_revision AFTER UPDATE ON workspaces WHEN NEW.revision = OLD.revision
BEGIN
    UPDATE workspaces SET revision = OLD.revision + 1 WHERE key = OLD.key;
END;

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
