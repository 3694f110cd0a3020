//! What the kernel has, from `nft -j list table`: read to adopt a table of an earlier run, and to find damage.
//!
//! Only what can be compared in every version of nft is read: names of sets, chains with their hooks, the comments of
//! the rules in their order, and elements. Unknown things are damage: the table is ours alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;

use super::elements::Elements;
use super::layout::{Branch, Layout};
use crate::config::Config;

/// The map that the kernel fills by itself.
pub(crate) const LEARNED: &str = "affinity4";

/// A table as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Observed {
    sets: BTreeSet<String>,
    /// Chains: hook and comments of rules; a rule without a comment is an empty one.
    chains: BTreeMap<String, (Option<String>, Vec<String>)>,
    /// Elements of the sets that we fill.
    pub(crate) elements: Elements,
    /// Learned clients and their backends.
    pub(crate) learned: BTreeMap<String, String>,
}

/// The listing is not what nft writes.
#[derive(Debug, thiserror::Error)]
#[error("unexpected listing of the table")]
pub(crate) struct ListingError(#[from] serde_json::Error);

#[derive(Deserialize)]
struct Listing {
    nftables: Vec<Object>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Object {
    Chain(ChainObject),
    Rule(RuleObject),
    Map(SetObject),
    Set(SetObject),
    #[serde(untagged)]
    #[allow(dead_code, reason = "metainfo and the table; what is new in a later nft")]
    Other(Value),
}

#[derive(Deserialize)]
struct ChainObject {
    name: String,
    r#type: Option<String>,
    hook: Option<String>,
    prio: Option<i32>,
    policy: Option<String>,
}

#[derive(Deserialize)]
struct RuleObject {
    chain: String,
    #[serde(default)]
    comment: String,
}

#[derive(Deserialize)]
struct SetObject {
    name: String,
    #[serde(default)]
    elem: Vec<Value>,
}

impl Observed {
    /// Reads a listing.
    ///
    /// # Errors
    /// [`ListingError`] when it is no listing. An element in an unknown form is kept as what it is, and differs.
    pub(crate) fn parse(listing: &[u8]) -> Result<Self, ListingError> {
        let listing: Listing = serde_json::from_slice(listing)?;
        let mut found = Self::default();
        for object in listing.nftables {
            match object {
                Object::Chain(chain) => {
                    let base = chain.hook.map(|hook| {
                        let text = |part: Option<String>| part.unwrap_or_default();
                        let priority = chain.prio.unwrap_or_default();
                        format!("{} {hook} {priority} {}", text(chain.r#type), text(chain.policy))
                    });
                    found.chains.entry(chain.name).or_default().0 = base;
                }
                Object::Rule(rule) => found.chains.entry(rule.chain).or_default().1.push(rule.comment),
                Object::Map(set) | Object::Set(set) => found.set(set),
                Object::Other(_) => {}
            }
        }
        Ok(found)
    }

    fn set(&mut self, set: SetObject) {
        if set.name == LEARNED {
            self.learned.extend(set.elem.iter().map(element));
        } else if !set.elem.is_empty() {
            self.elements.entry(set.name.clone()).or_default().extend(set.elem.iter().map(element));
        }
        self.sets.insert(set.name);
    }

    /// The branches of a table whose structure is whole; none if anything is missing, changed or too much.
    pub(crate) fn branches(&self, config: &Config) -> Option<BTreeSet<Branch>> {
        let branches: BTreeSet<Branch> = self.chains.keys().filter_map(|name| Branch::parse(name)).collect();
        let layout = Layout::new(config, &branches);
        let sets: BTreeSet<String> = layout.sets.iter().map(|(_, name, _)| name.clone()).collect();
        let chains = layout.chains.iter().map(|chain| {
            let base = chain.base.map(|(kind, hook, priority)| format!("{kind} {hook} {priority} accept"));
            let comments = chain.rules.iter().map(|rule| layout.comment(rule)).collect();
            (chain.name.clone(), (base, comments))
        });
        (sets == self.sets && chains.collect::<BTreeMap<_, _>>() == self.chains).then_some(branches)
    }
}

/// Key and value as we write them.
fn element(element: &Value) -> (String, String) {
    match element.as_array().map(Vec::as_slice) {
        Some([key, value]) => (operand(key), operand(value)),
        _ => (operand(element), String::new()),
    }
}

fn operand(value: &Value) -> String {
    if let Some(parts) = value.get("concat").and_then(Value::as_array) {
        return parts.iter().map(operand).collect::<Vec<_>>().join(" . ");
    }
    if let Some(inner) = value.get("elem").and_then(|elem| elem.get("val")) {
        return operand(inner);
    }
    if let Some(target) = value.get("goto").and_then(|goto| goto.get("target")).and_then(Value::as_str) {
        return format!("goto {target}");
    }
    if value.get("drop").is_some() {
        return "drop".to_owned();
    }
    match value {
        // Addresses in one form, whoever wrote them.
        Value::String(text) => text.parse::<IpAddr>().map_or_else(|_| text.clone(), |address| address.to_string()),
        other => other.to_string(),
    }
}
