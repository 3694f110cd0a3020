//! The embedded Kubernetes API on SQLite.
