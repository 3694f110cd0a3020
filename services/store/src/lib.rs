//! The edge store: SQLite with one writer and group commit.
