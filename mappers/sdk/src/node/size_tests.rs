//! What is taken from the outbox at once fits into a message of either interface: the bound is held against what
//! prost says.

use std::sync::Arc;

use proptest::prelude::*;
use prost::Message as _;

use super::{v1_convert, v1beta1};
use crate::definition::Definition;
use crate::report::{Applied, DeviceState, Outbox, Outcome, Report, Room};
use crate::schedule::Effects;
use crate::{DataType, Quality, Value};

fn value() -> impl Strategy<Value = Value> {
    let text = prop_oneof![4 => "[a-zß€𝄞]{0,40}", 1 => "x{3000}"];
    prop_oneof![
        any::<i64>().prop_map(Value::Int),
        any::<u64>().prop_map(Value::Uint),
        any::<f64>().prop_filter("a number", |n| n.is_finite()).prop_map(Value::Float),
        any::<bool>().prop_map(Value::Bool),
        text.prop_map(Value::Text),
        prop::collection::vec(any::<u8>(), 0..2000).prop_map(Value::Bytes),
    ]
}

fn report() -> impl Strategy<Value = Report> {
    let words = || prop_oneof![Just(String::new()), "[a-zß€]{0,30}", Just("é".repeat(2000))];
    let outcome = prop::option::of(("v1beta1:.{0,60}", prop::option::of(words())));
    (value(), words(), any::<i64>(), outcome).prop_map(|(value, problem, source_unix_ms, outcome)| {
        let outcome = outcome.map(|(version, refused)| Arc::new(Outcome { version, refused }));
        Report { value: Some(value), quality: Quality::Good, source_unix_ms, problem: problem.into(), outcome }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_batch_is_longer_than_its_bound(
        devices in prop::collection::vec(("[a-z]{1,60}", prop::collection::vec(("[a-zß]{1,80}", report()), 0..30)), 1..6),
        words in "[a-zß]{0,900}",
        bytes in 8_000_usize..40_000,
    ) {
        let outbox = Outbox::default();
        let mut wanted = 0;
        for (number, (name, reports)) in devices.into_iter().enumerate() {
            let mut definition = Definition::new("namespace", &format!("{name}{number}"), serde_json::Value::Null);
            for (name, _) in &reports {
                definition = definition.property(name, DataType::String, serde_json::Value::Null);
            }
            for property in definition.properties.iter_mut().map(Arc::make_mut) {
                property.report_to_cloud = true;
            }
            let definition = Arc::new(definition);
            outbox.define(&definition, Applied { version: "1".repeat(32), error: words.clone() });
            wanted += reports.len();
            let reports = reports.into_iter().map(|(_, report)| Arc::new(report)).enumerate().collect();
            outbox.put(Effects {
                reports: vec![(Arc::clone(&definition), reports)],
                states: vec![(definition, DeviceState::Offline, words.clone())],
                ..Effects::default()
            });
        }
        let mut taken = 0;
        loop {
            let batch = outbox.take(Room { values: 1_000, bytes });
            if batch.values.is_empty() && batch.states.is_empty() && batch.applied.is_empty() {
                break;
            }
            taken += batch.values.iter().map(|(_, values)| values.len()).sum::<usize>();
            let message = v1_convert::reports(1, &batch.values, usize::MAX).encoded_len();
            let states = v1_convert::states(&batch.states).encoded_len();
            let calls = batch.values.iter().filter_map(|(d, values)| v1beta1::convert::report(d, values));
            let longest = calls.map(|call| call.encoded_len()).max().unwrap_or(0);
            // A value, a state and an answer are at most 5,000 bytes here, so that none comes alone.
            prop_assert!(message + states <= bytes && longest <= bytes, "{message} {states} {longest} > {bytes}");
        }
        prop_assert_eq!(taken, wanted);
    }
}
