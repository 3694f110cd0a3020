//! Tables for the status.
