//! Names of the cluster: what DNS answers about Services, their endpoints, pods and nodes.
//!
//! Called by the DNS server for each question that it has no answer for in memory. Without IO: a [`Table`](crate::Table)
//! and a [`Question`] come in, an [`Answer`] goes out, and the same always for the same.
//!
//! It follows the specification of Kubernetes, version 1.1.0 ("Kubernetes DNS-Based Service Discovery"), and CoreDNS
//! where that is silent:
//!
//! | name, below the domain | answer |
//! |---|---|
//! | `<service>.<ns>.svc` | the ClusterIPs; of a headless Service the endpoints that are ready, none: no such name |
//! | `_<port>._<protocol>.<service>.<ns>.svc` | SRV of a named port, with the addresses of its target |
//! | `<hostname>.<service>.<ns>.svc` | an endpoint; without a hostname of its own `a-b-c-d` of its address |
//! | `<service>.<ns>.svc`, an ExternalName | CNAME; who asks follows it |
//! | `a-b-c-d.<ns>.pod` | that address, whether there is such a pod or not (deprecated, and required) |
//! | `<node>.node` | the internal addresses of a Node: Skerry's own; a name with dots is as many labels |
//! | `dns-version` | TXT `1.1.0` |
//! | the domain itself | SOA and NS; the server is `ns.dns` |
//!
//! A ClusterIP and a headless endpoint have PTR records. Other addresses are somebody else's: [`Answer::Elsewhere`].
//!
//! Invariants: an answer is about the name that was asked for, in any case of its letters; a name that has names below
//! it exists ([`Answer::NoData`], never [`Answer::NxDomain`]); nothing below the domain is ever [`Answer::Elsewhere`].
//!
//! Limits: [`MAX_RECORDS`] in each section.

mod answer;
mod question;
mod reverse;
mod service;
#[cfg(test)]
mod tests;

pub use answer::answer;
pub use question::{Answer, Data, Domain, DomainError, Kind, MAX_RECORDS, Question, Record};
