//! nftables: one table of our own, `inet skerry-mesh`, for both families.
//!
//! Rules do not grow with Services. A Service is elements of maps: which chain picks for a frontend, and what is in
//! each of its slots. A chain exists for each *number* of slots, so a connection costs two lookups however many
//! Services there are, and a changed endpoint is one changed element. [`layout`] has the rules, [`elements`] the
//! elements of a state, [`transaction`] the text that leads from one to the other, [`observed`] what the kernel says.
//! None of these does IO.
//!
//! We write nft's own language, as kube-proxy does, and read its JSON. Its JSON cannot be written: before nft 1.0.7 it
//! has no form for the statement that learns session affinity (`update @map { key : value }`).

pub(crate) mod affinity;
pub(crate) mod elements;
pub(crate) mod layout;
pub(crate) mod observed;
pub(crate) mod transaction;

#[cfg(test)]
mod tests;

/// The table, and nothing outside of it.
pub(crate) const TABLE: &str = "inet skerry-mesh";
