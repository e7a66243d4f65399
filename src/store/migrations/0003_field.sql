-- Tables and columns for existing agents and clients: activity, polling, delegations, memories.

-- The checkpoint that the write-ahead log beside this file follows. src/store/log.rs compares the file with its log.
CREATE TABLE log_mark (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    base     INTEGER NOT NULL,
    state    TEXT NOT NULL CHECK (state IN ('checkpoint', 'open', 'closed'))
) STRICT;

-- `rm --purge`: the purge order survives a restart of the daemon and an engine outage.
ALTER TABLE workspaces ADD COLUMN purge_ordered_at INTEGER;
CREATE INDEX workspaces_to_purge ON workspaces (purge_ordered_at) WHERE purge_ordered_at IS NOT NULL;

-- Agents' reports: names of unusable fields, and when the allowance of events that the agent may cause is full again.
ALTER TABLE reports ADD COLUMN refused TEXT NOT NULL DEFAULT '';
ALTER TABLE reports ADD COLUMN events_full_at INTEGER;

-- Size of the event history. The transaction that adds an event limits it. One row.
CREATE TABLE history (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    bytes    INTEGER NOT NULL  -- payloads plus 128 bytes per event
) STRICT;
INSERT INTO history (only_row, bytes) SELECT 1, COALESCE(sum(octet_length(payload) + 128), 0) FROM events;
-- Activity in the rows that existing clients poll. Old rows are kept; their payload becomes the request body.
ALTER TABLE activity RENAME TO activity_v2;
DROP INDEX activity_of_workspace;
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

INSERT INTO activity (sequence, id, workspace, activity_type, source_id, target_id, method, summary, status,
                      error_detail, request_body, created_at, waiting, bytes)
SELECT o.sequence, randomblob(16), o.workspace,
       CASE WHEN o.payload ->> '$.activity_type' IN ('a2a_send', 'a2a_receive', 'task_update', 'agent_log',
                 'skill_promotion', 'memory_write', 'error')
            THEN o.payload ->> '$.activity_type' ELSE 'agent_log' END,
       lower(substr(hex(w.id), 1, 8) || '-' || substr(hex(w.id), 9, 4) || '-' || substr(hex(w.id), 13, 4) || '-'
             || substr(hex(w.id), 17, 4) || '-' || substr(hex(w.id), 21)),
       CASE json_type(o.payload, '$.target_id') WHEN 'text' THEN o.payload ->> '$.target_id' END,
       CASE json_type(o.payload, '$.method') WHEN 'text' THEN o.payload ->> '$.method' END,
       CASE json_type(o.payload, '$.summary') WHEN 'text' THEN o.payload ->> '$.summary' END,
       CASE json_type(o.payload, '$.status') WHEN 'text' THEN o.payload ->> '$.status' ELSE 'ok' END,
       CASE json_type(o.payload, '$.error_detail') WHEN 'text' THEN o.payload ->> '$.error_detail' END,
       o.payload, o.created_at, 0, length(CAST(o.payload AS BLOB))
FROM activity_v2 o JOIN workspaces w ON w.key = o.workspace
WHERE json_valid(o.payload);
DROP TABLE activity_v2;

-- How messages reach an external agent: sent to its url, or stored until it polls them.
ALTER TABLE workspaces ADD COLUMN delivery_mode TEXT NOT NULL DEFAULT 'push' CHECK (delivery_mode IN ('push', 'poll'));

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

-- `rm --cascade`: an undelete restores the descendants that the same removal included. Older removals list them only in
-- events.
ALTER TABLE workspaces ADD COLUMN removed_with BLOB;
CREATE INDEX workspaces_removed_with ON workspaces (removed_with) WHERE removed_with IS NOT NULL;
UPDATE workspaces SET removed_with = (
    SELECT unhex(replace(e.payload ->> '$.removed_with', '-', '')) FROM events e
    WHERE e.workspace = workspaces.id AND e.event_type = 'WORKSPACE_REMOVED' ORDER BY e.sequence DESC LIMIT 1)
WHERE status = 'removed';

-- `set --config-file`: 1 until the next start has replaced the file in the config volume.
ALTER TABLE workspaces ADD COLUMN config_pending INTEGER NOT NULL DEFAULT 0;

-- Of a root that was undeleted below a removed parent: that parent. Undeleting the parent makes this its child again.
ALTER TABLE workspaces ADD COLUMN was_below BLOB;
CREATE INDEX workspaces_was_below ON workspaces (was_below) WHERE was_below IS NOT NULL;

-- Addresses by which workspaces reached this host when the engine last answered. After a start they are served until it
-- answers again. One row.
CREATE TABLE host_reach (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    rootless INTEGER NOT NULL,
    gateways TEXT NOT NULL  -- addresses of this host on the workspaces' networks, separated by spaces
) STRICT;
