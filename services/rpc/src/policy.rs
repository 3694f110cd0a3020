//! The authorization table: who may call which method of a server.
//!
//! Every server of this crate has one and asks it before a handler sees the request; what is not in
//! the table is refused. The table is checked against the protocol's descriptors when the server is
//! bound, so that a typing error is found at start. Health and reflection are added to every server:
//! open to callers with a certificate or on this machine.

use std::collections::HashMap;

use crate::limits::max_message_bytes;
use crate::peer::Identity;

/// A class of callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// Anybody, also without a certificate.
    Anonymous,
    /// Any node with a valid certificate.
    Node,
    /// The service of this name.
    Service(&'static str),
    /// Any service with a valid certificate.
    AnyService,
    /// A process of this machine, on a unix socket (whose file mode decides) or an in-memory pipe.
    Local,
}

impl Caller {
    fn matches(self, identity: &Identity) -> bool {
        match (self, identity) {
            (Self::Anonymous, _)
            | (Self::Node, Identity::Node(_))
            | (Self::AnyService, Identity::Service(_))
            | (Self::Local, Identity::Local { .. }) => true,
            (Self::Service(name), Identity::Service(service)) => service.as_str() == name,
            _ => false,
        }
    }
}

#[derive(Debug, Clone, Default)]
struct ServiceRule {
    /// For methods without an entry of their own; empty: nobody.
    callers: Vec<Caller>,
    methods: HashMap<String, Vec<Caller>>,
    max_message: usize,
}

/// See the module documentation.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    services: HashMap<String, ServiceRule>,
}

/// Why a request was refused before its handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denied {
    /// The path is not of the form `/service/method`.
    Path,
    /// No entry for the service or method.
    NotInTable,
    /// The caller showed no certificate.
    Anonymous,
    /// Another class of caller, or another service.
    Caller,
}

impl Policy {
    /// An empty table: nothing may be called.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Allows the callers to call `what`: a service (`skerry.sync.v1.Source`) or one of its methods
    /// (`skerry.identity.v1.Identity/Join`). The entry of a method replaces that of its service.
    #[must_use]
    pub fn allow(mut self, what: &str, callers: &[Caller]) -> Self {
        let (service, method) = what.split_once('/').map_or((what, None), |(s, m)| (s, Some(m)));
        let rule = self.rule(service);
        match method {
            Some(method) => drop(rule.methods.insert(method.to_owned(), callers.to_vec())),
            None => rule.callers = callers.to_vec(),
        }
        self
    }

    /// Changes the largest message that a service takes, in bytes. The default is
    /// [`max_message_bytes`].
    #[must_use]
    pub fn max_message(mut self, service: &str, bytes: usize) -> Self {
        self.rule(service).max_message = bytes;
        self
    }

    fn rule(&mut self, service: &str) -> &mut ServiceRule {
        self.services
            .entry(service.to_owned())
            .or_insert_with(|| ServiceRule { max_message: max_message_bytes(service), ..ServiceRule::default() })
    }

    /// The services of the table, in order.
    #[must_use]
    pub fn services(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.services.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// Services and methods that have an entry, for the check against the descriptors.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.services.iter().flat_map(|(service, rule)| {
            std::iter::once((service.as_str(), None))
                .chain(rule.methods.keys().map(move |method| (service.as_str(), Some(method.as_str()))))
        })
    }

    /// Whether anything may be called without a certificate. If not, such connections are closed
    /// right after the handshake.
    pub(crate) fn serves_anonymous(&self) -> bool {
        let anonymous = |callers: &Vec<Caller>| callers.contains(&Caller::Anonymous);
        self.services.values().any(|rule| anonymous(&rule.callers) || rule.methods.values().any(anonymous))
    }

    /// Decides about one request; the largest message of the service if it may go on.
    pub(crate) fn check(&self, path: &str, identity: &Identity) -> Result<usize, Denied> {
        let (service, method) = path.strip_prefix('/').and_then(|rest| rest.split_once('/')).ok_or(Denied::Path)?;
        let rule = self.services.get(service).ok_or(Denied::NotInTable)?;
        let callers = rule.methods.get(method).unwrap_or(&rule.callers);
        if callers.iter().any(|caller| caller.matches(identity)) {
            Ok(rule.max_message)
        } else if callers.is_empty() {
            Err(Denied::NotInTable)
        } else if *identity == Identity::Anonymous {
            Err(Denied::Anonymous)
        } else {
            Err(Denied::Caller)
        }
    }
}

impl Denied {
    /// For metrics.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::NotInTable => "not_in_table",
            Self::Anonymous => "anonymous",
            Self::Caller => "caller",
        }
    }

    /// For the caller. Says nothing about what exists to those without a certificate.
    pub(crate) fn message(self) -> &'static str {
        match self {
            Self::Path | Self::NotInTable => "nobody may call this method here",
            Self::Anonymous => "a client certificate is needed to call this method",
            Self::Caller => "this caller may not call this method",
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use skerry_common::NodeName;
    use skerry_identity::ServiceName;

    use super::*;

    fn table() -> Policy {
        Policy::new()
            .allow("skerry.identity.v1.Identity", &[Caller::Node])
            .allow("skerry.identity.v1.Identity/Join", &[Caller::Anonymous])
            .allow("skerry.hub.v1.Hub/ListSessions", &[Caller::Service("admin"), Caller::Local])
    }

    #[test]
    fn what_is_not_in_the_table_is_refused() {
        let node = Identity::Node(NodeName::parse("edge-1").unwrap());
        let admin = Identity::Service(ServiceName::parse("admin").unwrap());
        let hub = Identity::Service(ServiceName::parse("cloudhub").unwrap());
        let local = Identity::Local { uid: 0, pid: None };
        let check = |path: &str, who: &Identity| table().check(path, who).map(drop);
        assert_eq!(check("/skerry.identity.v1.Identity/Join", &Identity::Anonymous), Ok(()));
        assert_eq!(check("/skerry.identity.v1.Identity/Join", &node), Ok(()));
        assert_eq!(check("/skerry.identity.v1.Identity/Renew", &node), Ok(()));
        assert_eq!(check("/skerry.identity.v1.Identity/Renew", &Identity::Anonymous), Err(Denied::Anonymous));
        assert_eq!(check("/skerry.identity.v1.Identity/Renew", &hub), Err(Denied::Caller));
        assert_eq!(check("/skerry.hub.v1.Hub/ListSessions", &admin), Ok(()));
        assert_eq!(check("/skerry.hub.v1.Hub/ListSessions", &local), Ok(()));
        assert_eq!(check("/skerry.hub.v1.Hub/ListSessions", &hub), Err(Denied::Caller));
        assert_eq!(check("/skerry.hub.v1.Hub/DisconnectNode", &admin), Err(Denied::NotInTable));
        assert_eq!(check("/skerry.sync.v1.Source/Subscribe", &node), Err(Denied::NotInTable));
        for path in ["", "/", "skerry.hub.v1.Hub", "/skerry.hub.v1.Hub"] {
            assert_eq!(check(path, &admin), Err(Denied::Path), "{path}");
        }
        assert!(table().serves_anonymous());
        assert!(!Policy::new().allow("a.B", &[Caller::Node]).serves_anonymous());
    }
}
