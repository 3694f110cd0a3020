//! What to do with an object, given the state of its owners.
//!
//! Pure.

use std::collections::HashSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

/// The state of one owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OwnerState {
    /// It exists.
    Solid,
    /// It is being deleted in the foreground and waits for its dependents.
    Waiting,
    /// The API says that it does not exist.
    Gone,
    /// Nobody can tell.
    Unknown,
}

/// What to do with the object.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Nothing.
    Keep,
    /// Remove the references to these owners; others still hold it.
    Drop(HashSet<String>),
    /// Delete it.
    Delete { foreground: bool },
}

/// The decision for an object with these owners.
pub(super) fn decide(owners: &[(OwnerReference, OwnerState)], has_dependents: bool) -> Decision {
    let with = |wanted: OwnerState| owners.iter().filter(move |(_, s)| *s == wanted).map(|(o, _)| o.uid.clone());
    if owners.is_empty() || with(OwnerState::Unknown).next().is_some() {
        return Decision::Keep;
    }
    let waiting = with(OwnerState::Waiting).next().is_some();
    if with(OwnerState::Solid).next().is_some() {
        let drop: HashSet<String> = with(OwnerState::Gone).chain(with(OwnerState::Waiting)).collect();
        return if drop.is_empty() { Decision::Keep } else { Decision::Drop(drop) };
    }
    // A waiting owner's dependents go in the foreground too, so that the tree goes leaves first.
    Decision::Delete { foreground: waiting && has_dependents }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::OwnerState::{Gone, Solid, Unknown, Waiting};
    use super::*;

    #[test]
    fn table() {
        let drop = |uids: &[&str]| Decision::Drop(uids.iter().map(|u| (*u).to_owned()).collect());
        for (states, has_dependents, expected) in [
            (vec![], true, Decision::Keep),
            (vec![Solid], false, Decision::Keep),
            (vec![Unknown], false, Decision::Keep),
            (vec![Gone, Unknown], false, Decision::Keep),
            (vec![Gone], false, Decision::Delete { foreground: false }),
            (vec![Gone], true, Decision::Delete { foreground: false }),
            (vec![Gone, Gone], false, Decision::Delete { foreground: false }),
            (vec![Gone, Solid], false, drop(&["0"])),
            (vec![Solid, Waiting], false, drop(&["1"])),
            (vec![Waiting], false, Decision::Delete { foreground: false }),
            (vec![Waiting], true, Decision::Delete { foreground: true }),
            (vec![Waiting, Gone], true, Decision::Delete { foreground: true }),
        ] {
            let owners: Vec<_> = states
                .iter()
                .enumerate()
                .map(|(i, s)| (OwnerReference { uid: i.to_string(), ..Default::default() }, *s))
                .collect();
            assert_eq!(decide(&owners, has_dependents), expected, "{states:?} {has_dependents}");
        }
    }
}
