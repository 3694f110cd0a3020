//! Kubernetes API mechanics without IO: paths, selectors, patches, metadata, the watch cache, tables.
//!
//! Used by `apiserver` (the embedded control plane) and `metaserver` (the API on the node). Storage,
//! HTTP, time and randomness are the caller's.

mod error;
pub mod json;
pub mod meta;
mod object;
pub mod patch;
mod path;
mod registry;
mod selector;
mod table;
mod watch;

pub use error::{About, ApiError, FieldError, FieldProblem};
pub use object::{Entry, EventType, Filter, ObjectKey, watch_line};
pub use path::{ApiPath, FieldValidation, Query, ResourcePath, parse_path, percent_decode};
pub use registry::{Column, MAX_CUSTOM_RESOURCES, Registry, Resource, custom_resources};
pub use selector::{FieldSelector, LabelSelector, MAX_REQUIREMENTS};
pub use table::{table, table_row};
pub use watch::{Before, CURSOR_BATCH, Cursor, Delivery, Event, RING_BYTES, RING_EVENTS, Snapshot, WatchCache};
