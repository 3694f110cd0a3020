//! From one state to the next, as text for `nft -f -`. The kernel does all of a text or none of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::TABLE;
use super::elements::{self, Elements};
use super::layout::{self, Branch, Chain, Layout};
use crate::config::Config;
use crate::state::{Frontend, Service, State};

/// Elements of one command: nft takes lines of any length, people who read them do not.
const CHUNK: usize = 500;

/// A transaction.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Transaction(String);

impl Transaction {
    /// As nft reads it.
    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    /// Whether there is nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        let _ = writeln!(self.0, "{line}");
    }

    fn layout(&mut self, layout: &Layout) {
        for (kind, name, text) in &layout.sets {
            self.line(format_args!("add {kind} {TABLE} {name} {{ {text} }}"));
        }
        // Chains first, so that no rule names one that comes later.
        for Chain { name, base, .. } in &layout.chains {
            match base {
                None => self.line(format_args!("add chain {TABLE} {name}")),
                Some((kind, hook, priority)) => self.line(format_args!(
                    "add chain {TABLE} {name} {{ type {kind} hook {hook} priority {priority}; policy accept; }}"
                )),
            }
        }
        for Chain { name, rules, .. } in &layout.chains {
            for rule in rules {
                let comment = layout.comment(rule);
                self.line(format_args!("add rule {TABLE} {name} {rule} comment \"{comment}\""));
            }
        }
    }

    fn elements(&mut self, verb: &str, set: &str, elements: &[(&str, &str)]) {
        for chunk in elements.chunks(CHUNK) {
            let mut list = String::new();
            for (key, value) in chunk {
                let comma = if list.is_empty() { "" } else { ", " };
                let _ = match value.is_empty() {
                    true => write!(list, "{comma}{key}"),
                    false => write!(list, "{comma}{key} : {value}"),
                };
            }
            self.line(format_args!("{verb} element {TABLE} {set} {{ {list} }}"));
        }
    }

    /// Takes learned clients away that may have left by themselves meanwhile: what is added again first is there, and
    /// adding what is there is no error.
    pub(crate) fn forget(&mut self, set: &str, learned: &[(String, String)]) {
        let with: Vec<_> = learned.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let keys: Vec<_> = learned.iter().map(|(key, _)| (key.as_str(), "")).collect();
        self.elements("add", set, &with);
        self.elements("delete", set, &keys);
    }
}

/// A transaction, what branches are there after it, and whether all of the table is made anew.
pub(crate) struct Step {
    /// The text.
    pub(crate) transaction: Transaction,
    /// The branches.
    pub(crate) branches: BTreeSet<Branch>,
    /// Whether it is the whole table.
    pub(crate) anew: bool,
}

/// The table as it shall be, in place of whatever is there.
pub(crate) fn install(config: &Config, state: &State) -> Step {
    let (elements, mut branches) = elements::whole(state);
    branches.extend(layout::prepared());
    let mut transaction = delete();
    transaction.line(format_args!("add table {TABLE}"));
    transaction.layout(&Layout::new(config, &branches));
    change(&mut transaction, &Elements::new(), &elements);
    Step { transaction, branches, anew: true }
}

/// Takes the table away; no error if there is none.
pub(crate) fn delete() -> Transaction {
    let mut transaction = Transaction::default();
    transaction.line(format_args!("add table {TABLE}"));
    transaction.line(format_args!("delete table {TABLE}"));
    transaction
}

/// From `before` to `after`, in a table that has these branches. Those that are no longer used stay: before Linux 6.2
/// the kernel may still hold one for a moment after its last element has gone, and would refuse.
pub(crate) fn update(config: &Config, branches: &BTreeSet<Branch>, before: &State, after: &State) -> Step {
    let (old, _) = elements::elements(changed(before, after));
    let (new, needed) = elements::elements(changed(after, before));
    if !needed.is_subset(branches) {
        return install(config, after);
    }
    let mut transaction = Transaction::default();
    change(&mut transaction, &old, &new);
    change(&mut transaction, &elements::shared(before), &elements::shared(after));
    Step { transaction, branches: branches.clone(), anew: false }
}

/// From what was found in the kernel to `after`.
pub(crate) fn repair(config: &Config, branches: &BTreeSet<Branch>, found: &Elements, after: &State) -> Step {
    let (new, needed) = elements::whole(after);
    if !needed.is_subset(branches) {
        return install(config, after);
    }
    let mut transaction = Transaction::default();
    change(&mut transaction, found, &new);
    Step { transaction, branches: branches.clone(), anew: false }
}

/// The services of `of` that are not the same in `than`.
fn changed<'a>(of: &'a State, than: &'a State) -> impl Iterator<Item = (&'a Frontend, &'a Service)> {
    of.iter().filter(|(frontend, service)| than.get(frontend) != Some(*service))
}

/// Deletes first: a value changes by taking its key out and putting it in again, which nobody sees in between.
fn change(transaction: &mut Transaction, before: &Elements, after: &Elements) {
    let none = BTreeMap::new();
    let differ = |of: &BTreeMap<String, String>, than: &BTreeMap<String, String>| -> Vec<(String, String)> {
        let other = |(key, value): &(&String, &String)| than.get(*key) != Some(*value);
        of.iter().filter(other).map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    for (set, old) in before {
        let gone = differ(old, after.get(set).unwrap_or(&none));
        let keys: Vec<_> = gone.iter().map(|(key, _)| (key.as_str(), "")).collect();
        transaction.elements("delete", set, &keys);
    }
    for (set, new) in after {
        let come = differ(new, before.get(set).unwrap_or(&none));
        let pairs: Vec<_> = come.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        transaction.elements("add", set, &pairs);
    }
}
