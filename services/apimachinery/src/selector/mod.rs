//! Label and field selectors: which objects a list, a watch or a controller means.
//!
//! Called by list and watch on the request's task. Invariant: a selector that does not parse is a 400,
//! never "everything". Limits: [`MAX_REQUIREMENTS`]. Pure: nothing to lose on a crash.

mod field;
mod label;

pub use field::FieldSelector;
pub(crate) use field::field_paths;
pub use label::LabelSelector;

/// More requirements than any real selector has; the match cost of a watcher is bounded by it.
pub const MAX_REQUIREMENTS: usize = 64;
