//! Structural schemas of custom resources, as in a CustomResourceDefinition: pruning, defaults, validation,
//! and rules in CEL (`x-kubernetes-validations`).
//!
//! Used by `apiserver`, which compiles the schema of each version of a definition once and keeps it in its
//! registry. Messages are those of kube-apiserver, so that people and tools read the same. No IO.
//! Limits: the depth of a schema, the number of its rules, the errors that one object gives, and the cost of
//! a rule are bounded by constants in `node`, `check` and `rules`.
//!
//! What differs from kube-apiserver: rules are not type-checked when the definition is written (a mistake in
//! one shows when it is evaluated); texts of the formats `date-time` and `duration` are strings in rules; and
//! a rule that calls a function of kube-apiserver's own libraries (quantities, URLs, IP addresses) is not
//! enforced, which is logged.

mod check;
mod fill;
mod node;
mod prune;
mod rules;

pub use node::Schema;
