-- What agents and clients of the field need: one migration for the whole step, unreleased until it ends.

-- Which checkpoint the write-ahead log beside this file follows: src/store/log.rs compares the file with its log.
CREATE TABLE log_mark (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    base     INTEGER NOT NULL,
    state    TEXT NOT NULL CHECK (state IN ('checkpoint', 'open', 'closed'))
) STRICT;
