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
