//! A caller's identity.
//!
//! Put into the request's extensions by the TLS listener (from the certificate) or by the in-process
//! router; read by authentication. Invariant: only this crate and code in the same process can set it.
//! Limits: none.

/// Name and groups of a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User name, such as `system:serviceaccount:default:web`.
    pub name: String,
    /// Groups.
    pub groups: Vec<String>,
    /// Uid of a service account, or empty.
    pub uid: String,
}

/// Members may do everything.
pub(crate) const MASTERS: &str = "system:masters";
/// Every caller that proved an identity.
pub(crate) const AUTHENTICATED: &str = "system:authenticated";
/// Edge nodes: they get nothing from this server.
pub(crate) const NODES: &str = "system:nodes";

impl User {
    /// A user in `system:masters`: the controllers of the same process, the administrator.
    pub fn master(name: &str) -> Self {
        Self::new(name, &[MASTERS])
    }
    /// A user with groups; `system:authenticated` is added.
    pub fn new(name: &str, groups: &[&str]) -> Self {
        let groups = groups.iter().copied().filter(|g| *g != AUTHENTICATED).chain([AUTHENTICATED]).map(str::to_owned);
        Self { name: name.to_owned(), groups: groups.collect(), uid: String::new() }
    }
    /// Is the user in the group?
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}
