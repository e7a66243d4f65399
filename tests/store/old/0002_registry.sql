-- A database of schema 2, with rows of every kind: what every later version has to bring up.
PRAGMA application_id = 1869837420;
PRAGMA user_version = 2;
PRAGMA foreign_keys = OFF;
BEGIN TRANSACTION;
CREATE TABLE activity (
    sequence   INTEGER PRIMARY KEY,
    workspace  INTEGER NOT NULL REFERENCES workspaces (key) ON DELETE CASCADE,
    payload    TEXT NOT NULL,                   -- JSON
    created_at INTEGER NOT NULL
) STRICT;
INSERT INTO "activity" VALUES(1,1,'{"activity_type":"agent_log","summary":"began"}',1700000000080);
INSERT INTO "activity" VALUES(2,1,'{"activity_type":"task_update","summary":"went on"}',1700000000081);
INSERT INTO "activity" VALUES(3,2,'{"summary":"no type"}',1700000000082);
CREATE TABLE admin_tokens (
    id         BLOB PRIMARY KEY CHECK (length(id) = 16),
    name       TEXT NOT NULL,
    digest     BLOB NOT NULL UNIQUE CHECK (length(digest) = 32),
    prefix     TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER
) STRICT, WITHOUT ROWID;
INSERT INTO "admin_tokens" VALUES(X'00000000000000000000000000000301','laptop',X'0909090909090909090909090909090909090909090909090909090909090909','AdminTok',1700000000090,NULL);
INSERT INTO "admin_tokens" VALUES(X'00000000000000000000000000000302','ci',X'0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A','CiTokenX',1700000000091,1701000000000);
CREATE TABLE events (
    sequence   INTEGER PRIMARY KEY AUTOINCREMENT,
    event_type TEXT NOT NULL,
    workspace  BLOB,
    payload    TEXT NOT NULL,     -- JSON, never a secret
    created_at INTEGER NOT NULL,
    swept_by   TEXT               -- the pass, where this was a destructive action of one: counted by the breaker
) STRICT;
INSERT INTO "events" VALUES(1,'WORKSPACE_PROVISIONING',X'00000000000000000000000000000065','{"name":"lead"}',1700000000001,NULL);
INSERT INTO "events" VALUES(2,'WORKSPACE_PROVISIONING',X'00000000000000000000000000000065','{"name":"lead"}',1700000000002,NULL);
INSERT INTO "events" VALUES(3,'WORKSPACE_PROVISIONING',X'00000000000000000000000000000065','{"name":"lead"}',1700000000003,NULL);
INSERT INTO "events" VALUES(4,'WORKSPACE_PROVISIONING',X'00000000000000000000000000000065','{"name":"lead"}',1700000000004,NULL);
INSERT INTO "events" VALUES(5,'WORKSPACE_PROVISIONING',X'00000000000000000000000000000065','{"name":"lead"}',1700000000005,'settle');
CREATE TABLE held_plans (
    pass        TEXT PRIMARY KEY,
    id          BLOB NOT NULL CHECK (length(id) = 16),
    reason      TEXT NOT NULL,
    plan        TEXT NOT NULL,    -- JSON: the actions, exactly
    held_at     INTEGER NOT NULL,
    approved_at INTEGER
) STRICT, WITHOUT ROWID;
INSERT INTO "held_plans" VALUES('reap_unknown',X'00000000000000000000000000000191','too much','[]',1700000000000,NULL);
CREATE TABLE pulse (
    workspace     INTEGER PRIMARY KEY REFERENCES workspaces (key) ON DELETE CASCADE,
    token_used_at INTEGER  -- last use of the live instance token
, last_heartbeat_at INTEGER, last_activity_at INTEGER, error_rate REAL NOT NULL DEFAULT 0, active_tasks INTEGER NOT NULL DEFAULT 0, uptime_seconds INTEGER NOT NULL DEFAULT 0, monthly_spend_cents INTEGER NOT NULL DEFAULT 0, wedged_since INTEGER) STRICT;
INSERT INTO "pulse" VALUES(1,1700000000051,1700000000061,1700000000071,0.25,1,90,120,NULL);
INSERT INTO "pulse" VALUES(2,1700000000052,1700000000062,1700000000072,0.25,1,90,120,NULL);
INSERT INTO "pulse" VALUES(3,1700000000053,1700000000063,1700000000073,0.25,1,90,120,NULL);
INSERT INTO "pulse" VALUES(4,1700000000054,1700000000064,1700000000074,0.25,1,90,120,NULL);
INSERT INTO "pulse" VALUES(5,1700000000055,1700000000065,1700000000075,0.25,1,90,120,NULL);
INSERT INTO "pulse" VALUES(7,1700000000057,1700000000067,1700000000077,0.25,1,90,120,NULL);
INSERT INTO "pulse" VALUES(8,1700000000058,1700000000068,1700000000078,0.25,1,90,120,NULL);
INSERT INTO "pulse" VALUES(9,1700000000059,1700000000069,1700000000079,0.25,1,90,120,NULL);
CREATE TABLE registry (
    only_row           INTEGER PRIMARY KEY CHECK (only_row = 1),
    instance           BLOB NOT NULL CHECK (length(instance) = 16),
    generation         INTEGER NOT NULL,  -- bumped by every row that is made; mirrored beside the database
    recovering_since   INTEGER,           -- set while unknown things are held for a person
    engine_accepted_at INTEGER            -- when the engine with our sentinel was accepted
) STRICT;
INSERT INTO "registry" VALUES(1,X'00000000000000000000000000000001',12,NULL,1700000000000);
CREATE TABLE reports (
    workspace        INTEGER PRIMARY KEY REFERENCES workspaces (key) ON DELETE CASCADE,
    agent_card       TEXT,                      -- JSON
    current_task     TEXT NOT NULL DEFAULT '',
    sample_error     TEXT NOT NULL DEFAULT '',
    runtime_state    TEXT NOT NULL DEFAULT '',
    runtime_metadata TEXT                       -- JSON
) STRICT;
INSERT INTO "reports" VALUES(1,'{"name":"agent 1"}','task 1','error','','{"capabilities":{"status_mgmt":true}}');
INSERT INTO "reports" VALUES(2,'{"name":"agent 2"}','task 2','error','','{"capabilities":{"status_mgmt":true}}');
INSERT INTO "reports" VALUES(3,'{"name":"agent 3"}','task 3','error','','{"capabilities":{"status_mgmt":true}}');
INSERT INTO "reports" VALUES(4,'{"name":"agent 4"}','task 4','error','','{"capabilities":{"status_mgmt":true}}');
INSERT INTO "reports" VALUES(5,'{"name":"agent 5"}','task 5','error','','{"capabilities":{"status_mgmt":true}}');
INSERT INTO "reports" VALUES(7,'{"name":"agent 7"}','task 7','error','','{"capabilities":{"status_mgmt":true}}');
INSERT INTO "reports" VALUES(8,'{"name":"agent 8"}','task 8','error','','{"capabilities":{"status_mgmt":true}}');
INSERT INTO "reports" VALUES(9,'{"name":"agent 9"}','task 9','error','','{"capabilities":{"status_mgmt":true}}');
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
INSERT INTO "tokens" VALUES(X'000000000000000000000000000000C9',1,'instance',3,X'0101010101010101010101010101010101010101010101010101010101010101','prefix01',1700000000000,NULL,NULL,NULL);
INSERT INTO "tokens" VALUES(X'000000000000000000000000000000CA',2,'instance',3,X'0202020202020202020202020202020202020202020202020202020202020202','prefix02',1700000000000,NULL,NULL,NULL);
INSERT INTO "tokens" VALUES(X'000000000000000000000000000000CB',3,'instance',3,X'0303030303030303030303030303030303030303030303030303030303030303','prefix03',1700000000000,NULL,NULL,NULL);
INSERT INTO "tokens" VALUES(X'000000000000000000000000000000CC',4,'instance',3,X'0404040404040404040404040404040404040404040404040404040404040404','prefix04',1700000000000,NULL,NULL,NULL);
INSERT INTO "tokens" VALUES(X'000000000000000000000000000000CD',5,'instance',3,X'0505050505050505050505050505050505050505050505050505050505050505','prefix05',1700000000000,NULL,NULL,NULL);
INSERT INTO "tokens" VALUES(X'000000000000000000000000000000CE',6,'instance',3,X'0606060606060606060606060606060606060606060606060606060606060606','prefix06',1700000000000,NULL,NULL,1700000000009);
INSERT INTO "tokens" VALUES(X'000000000000000000000000000000CF',7,'api',NULL,X'0707070707070707070707070707070707070707070707070707070707070707','prefix07',1700000000000,1700000000001,2700000000000,NULL);
INSERT INTO "tokens" VALUES(X'000000000000000000000000000000D0',8,'instance',3,X'0808080808080808080808080808080808080808080808080808080808080808','prefix08',1700000000000,NULL,NULL,NULL);
INSERT INTO "tokens" VALUES(X'000000000000000000000000000000D1',9,'instance',3,X'0909090909090909090909090909090909090909090909090909090909090909','prefix09',1700000000000,NULL,NULL,NULL);
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
INSERT INTO "trash" VALUES(X'0000000000000000000000000000012D',X'0000000000000000000000000000006A','gone','removed','its workspace was removed','kept',1700000000000,1701209600000);
CREATE TABLE trash_items (
    item  TEXT PRIMARY KEY,       -- container id or volume name
    trash BLOB NOT NULL REFERENCES trash (id) ON DELETE CASCADE,
    kind  TEXT NOT NULL CHECK (kind IN ('container', 'volume')),
    name  TEXT NOT NULL           -- the name to give back
) STRICT, WITHOUT ROWID;
INSERT INTO "trash_items" VALUES('0000000000000000000000000000000000000000000000000000000000000006',X'0000000000000000000000000000012D','container','ostler-x-4');
CREATE TABLE workspaces (
    key                 INTEGER PRIMARY KEY,
    id                  BLOB NOT NULL UNIQUE CHECK (length(id) = 16),
    name                TEXT NOT NULL,
    role                TEXT,
    kind                TEXT NOT NULL CHECK (kind IN ('container', 'external')),
    runtime             TEXT NOT NULL,
    tier                INTEGER NOT NULL CHECK (tier BETWEEN 1 AND 4),
    parent_id           BLOB REFERENCES workspaces (id),
    spec                TEXT NOT NULL,    -- JSON: image, command, env, bound directory, config
    status              TEXT NOT NULL CHECK (status IN (
                            'provisioning', 'online', 'degraded', 'offline', 'failed', 'paused',
                            'hibernating', 'hibernated', 'awaiting_agent', 'removed')),
    failure             TEXT CHECK (failure IN ('provision_timeout', 'start_error', 'parked')),
    status_detail       TEXT,
    status_since        INTEGER NOT NULL, -- nothing but a status change moves it
    incarnation         INTEGER NOT NULL DEFAULT 0,
    container_id        TEXT,
    container_serial    INTEGER NOT NULL DEFAULT 0,
    container_spec_hash TEXT,
    host_port           INTEGER,
    has_work_volume     INTEGER NOT NULL DEFAULT 0,
    url                 TEXT,
    created_at          INTEGER NOT NULL,
    removed_at          INTEGER,
    purged_at           INTEGER, hibernation_idle_minutes INTEGER, max_concurrent_tasks INTEGER, restart_when_wedged INTEGER NOT NULL DEFAULT 0, paused_with BLOB, online_since INTEGER, ends TEXT NOT NULL DEFAULT '[]', restart_due_at INTEGER,          -- what it owned was deleted for good: nothing to come back to
    CHECK ((status = 'failed') = (failure IS NOT NULL)),
    CHECK ((status = 'removed') = (removed_at IS NOT NULL))
) STRICT;
INSERT INTO "workspaces" VALUES(1,X'00000000000000000000000000000065','lead','role of lead','container','plain',2,NULL,'{"image":"localhost/agent:1","command":["run"],"env":{"KEY":"value"},"workspace_dir":null,"workspace_access":"read_write","config":"model: small"}','online',NULL,NULL,1700000000001,3,'0000000000000000000000000000000000000000000000000000000000000001',4,'abc',21001,1,NULL,1700000000000,NULL,NULL,30,2,0,NULL,1700000000001,'[1700000000000]',NULL);
INSERT INTO "workspaces" VALUES(2,X'00000000000000000000000000000066','worker','role of worker','container','plain',2,X'00000000000000000000000000000065','{"image":"localhost/agent:1","command":["run"],"env":{"KEY":"value"},"workspace_dir":null,"workspace_access":"read_write","config":"model: small"}','degraded',NULL,NULL,1700000000002,3,'0000000000000000000000000000000000000000000000000000000000000002',4,'abc',21002,1,NULL,1700000000000,NULL,NULL,NULL,NULL,1,NULL,NULL,'[]',NULL);
INSERT INTO "workspaces" VALUES(3,X'00000000000000000000000000000067','asleep','role of asleep','container','plain',2,X'00000000000000000000000000000065','{"image":"localhost/agent:1","command":["run"],"env":{"KEY":"value"},"workspace_dir":null,"workspace_access":"read_write","config":"model: small"}','hibernated',NULL,NULL,1700000000003,3,'0000000000000000000000000000000000000000000000000000000000000003',4,'abc',21003,1,NULL,1700000000000,NULL,NULL,NULL,NULL,0,NULL,NULL,'[]',NULL);
INSERT INTO "workspaces" VALUES(4,X'00000000000000000000000000000068','stopped','role of stopped','container','plain',2,NULL,'{"image":"localhost/agent:1","command":["run"],"env":{"KEY":"value"},"workspace_dir":null,"workspace_access":"read_write","config":"model: small"}','paused',NULL,NULL,1700000000004,3,'0000000000000000000000000000000000000000000000000000000000000004',4,'abc',21004,1,NULL,1700000000000,NULL,NULL,NULL,NULL,0,X'00000000000000000000000000000065',NULL,'[]',NULL);
INSERT INTO "workspaces" VALUES(5,X'00000000000000000000000000000069','broken','role of broken','container','plain',2,NULL,'{"image":"localhost/agent:1","command":["run"],"env":{"KEY":"value"},"workspace_dir":null,"workspace_access":"read_write","config":"model: small"}','failed','start_error','told',1700000000005,3,'0000000000000000000000000000000000000000000000000000000000000005',4,'abc',21005,1,NULL,1700000000000,NULL,NULL,NULL,NULL,0,NULL,NULL,'[]',NULL);
INSERT INTO "workspaces" VALUES(6,X'0000000000000000000000000000006A','gone','role of gone','container','plain',2,NULL,'{"image":"localhost/agent:1","command":["run"],"env":{"KEY":"value"},"workspace_dir":null,"workspace_access":"read_write","config":"model: small"}','removed',NULL,NULL,1700000000006,3,'0000000000000000000000000000000000000000000000000000000000000006',4,'abc',NULL,1,NULL,1700000000000,1700000000009,NULL,NULL,NULL,0,NULL,NULL,'[]',NULL);
INSERT INTO "workspaces" VALUES(7,X'0000000000000000000000000000006B','phone','role of phone','external','external',2,NULL,'{"image":"","command":[],"env":{},"workspace_dir":null,"workspace_access":"read_write","config":null}','awaiting_agent',NULL,NULL,1700000000007,0,NULL,4,'abc',NULL,0,NULL,1700000000000,NULL,NULL,NULL,NULL,0,NULL,NULL,'[]',NULL);
INSERT INTO "workspaces" VALUES(8,X'0000000000000000000000000000006C','down','role of down','container','plain',2,NULL,'{"image":"localhost/agent:1","command":["run"],"env":{"KEY":"value"},"workspace_dir":null,"workspace_access":"read_write","config":"model: small"}','offline',NULL,NULL,1700000000008,3,'0000000000000000000000000000000000000000000000000000000000000008',4,'abc',21008,1,NULL,1700000000000,NULL,NULL,NULL,NULL,0,NULL,NULL,'[]',NULL);
INSERT INTO "workspaces" VALUES(9,X'0000000000000000000000000000006D','starting','role of starting','container','plain',2,NULL,'{"image":"localhost/agent:1","command":["run"],"env":{"KEY":"value"},"workspace_dir":null,"workspace_access":"read_write","config":"model: small"}','provisioning',NULL,NULL,1700000000009,3,'0000000000000000000000000000000000000000000000000000000000000009',4,'abc',21009,1,NULL,1700000000000,NULL,NULL,NULL,NULL,0,NULL,NULL,'[]',NULL);
CREATE UNIQUE INDEX workspaces_live_name ON workspaces (name) WHERE status <> 'removed';
CREATE INDEX workspaces_name ON workspaces (name);
CREATE UNIQUE INDEX workspaces_host_port ON workspaces (host_port) WHERE host_port IS NOT NULL;
CREATE INDEX workspaces_parent ON workspaces (parent_id) WHERE parent_id IS NOT NULL;
CREATE INDEX workspaces_live ON workspaces (created_at) WHERE status <> 'removed';
CREATE INDEX workspaces_provisioning ON workspaces (status_since) WHERE status = 'provisioning';
CREATE INDEX workspaces_removed ON workspaces (removed_at) WHERE status = 'removed';
CREATE INDEX tokens_live_instance ON tokens (workspace, created_at, revoked_at) -- with what the sweep reads
    WHERE kind = 'instance' AND revoked_at IS NULL;
CREATE INDEX tokens_of_workspace ON tokens (workspace, created_at);
CREATE INDEX events_of_workspace ON events (workspace, sequence);
CREATE INDEX events_swept ON events (created_at) WHERE swept_by IS NOT NULL;
CREATE INDEX trash_of_workspace ON trash (workspace);
CREATE INDEX trash_keep_until ON trash (keep_until);
CREATE INDEX trash_open ON trash (id) WHERE state IN ('claimed', 'restoring');
CREATE INDEX trash_items_of_entry ON trash_items (trash);
CREATE INDEX workspaces_holding -- what passes read of containers' rows, without the rows: those lie a page each
    ON workspaces (id, name, status, failure, container_id, incarnation, status_since, runtime)
    WHERE kind = 'container'
      AND status IN ('online', 'degraded', 'offline', 'failed', 'paused', 'hibernating', 'hibernated');
CREATE INDEX workspaces_restart_due ON workspaces (restart_due_at)
    WHERE status = 'offline' AND restart_due_at IS NOT NULL;
CREATE INDEX workspaces_falling_asleep ON workspaces (key) WHERE status = 'hibernating';
CREATE INDEX workspaces_may_sleep ON workspaces (hibernation_idle_minutes, status, kind)
    WHERE hibernation_idle_minutes IS NOT NULL AND status IN ('online', 'degraded');
CREATE INDEX workspaces_paused_with ON workspaces (paused_with) WHERE paused_with IS NOT NULL;
CREATE INDEX activity_of_workspace ON activity (workspace, sequence);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('events',5);
COMMIT;
