//! Twins converge under random concurrent writes, cuts and restarts, over the real stores and the real protocol.
//!
//! `SKERRY_SEED` repeats a failure, `SKERRY_ROUNDS` makes more rounds of the one system.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use skerry_devices_tests::{Bug, PROPERTIES, Plan, Service, System, eventually, key, round};
use skerry_proto::dmi::v1 as pb;

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

/// Sets a value on the node while nobody hears of it, and kills dmi. Returns what dmi wants when it is back.
async fn set_and_killed(bug: Option<Bug>) -> Option<String> {
    let mut system = System::start(&PROPERTIES, bug).await.unwrap();
    system.device("d", &PROPERTIES).await.unwrap();
    let desired = async |system: &System| {
        let mut desired = None;
        let look = async || {
            let view = system.view("d").await.map_err(|error| error.to_string())?;
            desired = view.twins.into_iter().find(|twin| twin.property == "edge").and_then(|twin| twin.desired);
            Ok(())
        };
        eventually(look).await.unwrap();
        desired
    };
    assert_eq!(desired(&system).await.as_deref(), Some("0"));
    system.kill(Service::EdgeHub).await.unwrap();
    let set = pb::SetDesiredRequest { device: Some(key("d")), property: "edge".into(), value: "7".into() };
    system.devices().set_desired(set).await.unwrap();
    system.kill(Service::Dmi).await.unwrap();
    system.run(Service::EdgeHub).await.unwrap();
    system.run(Service::Dmi).await.unwrap();
    desired(&system).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_and_a_store_that_forgets_is_found() {
    assert_eq!(set_and_killed(None).await.as_deref(), Some("7"));
    assert_eq!(set_and_killed(Some(Bug::NotDurable)).await.as_deref(), Some("0"), "the control");
}
