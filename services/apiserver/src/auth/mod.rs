//! Who is asking, and may they: certificates, service account tokens, RBAC.
//!
//! Called for every request before anything else looks at it. Invariants: no identity comes from a
//! header other than `Authorization`; without an identity only health and version are served.
//! Limits: those of the parts. Nothing here is persistent.

mod authn;
pub(crate) mod escalation;
mod rbac;
mod token;
mod user;

pub(crate) use authn::{authenticate, user_of_certificate};
pub(crate) use rbac::{Attributes, Rbac, rules_of};
pub(crate) use token::{Bound, Kubernetes, MIN_LIFETIME, Tokens, Wanted};
pub use user::User;
