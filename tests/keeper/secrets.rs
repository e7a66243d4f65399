//! No token in anything that is written.
