//! Twins converge under random concurrent writes, cuts and restarts, over the real stores and the real protocol.
//!
//! `SKERRY_SEED` repeats a failure, `SKERRY_ROUNDS` makes more rounds of the one system.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use skerry_devices_tests::{Bug, PROPERTIES, Plan, System, round};

/// Rounds where nobody says how many.
const ROUNDS: u64 = 3;
/// Rounds within which a planted bug must be found.
const FOUND_WITHIN: u64 = 6;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

fn plan(seed: u64) -> Plan {
    Plan { seed, devices: 3, lasts: Duration::from_secs(8) }
}

#[tokio::test(flavor = "multi_thread")]
async fn twins_converge_whatever_happens() {
    let (first, rounds) = match number("SKERRY_SEED") {
        Some(seed) => (seed, number("SKERRY_ROUNDS").unwrap_or(1)),
        None => (1, number("SKERRY_ROUNDS").unwrap_or(ROUNDS)),
    };
    let mut system = System::start(&PROPERTIES, None).await.unwrap();
    for seed in first..first + rounds {
        if let Err(error) = round(&mut system, plan(seed)).await {
            panic!("{error:?}\nagain: SKERRY_SEED={seed} cargo nextest run -p skerry-devices-tests twins_converge");
        }
    }
}

/// Plays rounds until the bug is found. Returns what was said.
async fn found(bug: Bug) -> String {
    let mut system = System::start(&PROPERTIES, Some(bug)).await.unwrap();
    for seed in 1..=FOUND_WITHIN {
        if let Err(error) = round(&mut system, plan(seed)).await {
            return format!("{error:?}");
        }
    }
    panic!("{bug:?} was not found within {FOUND_WITHIN} rounds");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_is_ignored_is_found() {
    let said = found(Bug::BaseIgnored).await;
    assert!(said.contains("was overwritten by"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overlay_that_never_ends_is_found() {
    let said = found(Bug::OverlayNeverEnds).await;
    let words = ["still counts as set on the node", "and dmi", "and nobody changed it"];
    assert!(words.iter().any(|words| said.contains(words)), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_forgets_is_found() {
    let said = found(Bug::NotDurable).await;
    assert!(said.contains("acknowledged, and nobody changed it"), "{said}");
}
