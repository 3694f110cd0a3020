//! The link between a node and the cloud, on good days and bad ones.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod denial;
mod faults;
mod relay;
mod reviews;
mod versions;
mod wrong_hub;
