-- What agents and clients of the field need: one migration for the whole step, unreleased until it ends.

-- Which checkpoint the write-ahead log beside this file follows: src/store/log.rs compares the file with its log.
CREATE TABLE log_mark (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    base     INTEGER NOT NULL,
    state    TEXT NOT NULL CHECK (state IN ('checkpoint', 'open', 'closed'))
) STRICT;

-- `rm --purge`: the order to delete survives a restart and an engine that is away.
ALTER TABLE workspaces ADD COLUMN purge_ordered_at INTEGER;
CREATE INDEX workspaces_to_purge ON workspaces (purge_ordered_at) WHERE purge_ordered_at IS NOT NULL;

-- Reports of agents: what of them cannot be used, and how many events they may still cause.
ALTER TABLE reports ADD COLUMN refused TEXT NOT NULL DEFAULT '';
ALTER TABLE reports ADD COLUMN events_full_at INTEGER;

-- How large the history of events is, so that it is bounded in the transaction that adds to it. One row.
CREATE TABLE history (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    bytes    INTEGER NOT NULL  -- payloads, and 128 for each event
) STRICT;
INSERT INTO history (only_row, bytes) SELECT 1, COALESCE(sum(octet_length(payload) + 128), 0) FROM events;
