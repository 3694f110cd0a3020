//! Values there and back, and what is refused.

use opcua::types::{Array, Guid, QualifiedName};
use proptest::prelude::*;
use skerry_mapper_sdk::Quality;

use super::*;

#[test]
fn every_scalar_is_a_value() {
    let table = [
        (Variant::Boolean(true), Value::Bool(true)),
        (Variant::SByte(-128), Value::Int(-128)),
        (Variant::Byte(255), Value::Int(255)),
        (Variant::Int16(-1), Value::Int(-1)),
        (Variant::UInt16(65_535), Value::Int(65_535)),
        (Variant::Int32(i32::MIN), Value::Int(i64::from(i32::MIN))),
        (Variant::UInt32(u32::MAX), Value::Int(i64::from(u32::MAX))),
        (Variant::Int64(i64::MIN), Value::Int(i64::MIN)),
        (Variant::UInt64(u64::MAX), Value::Uint(u64::MAX)),
        (Variant::Float(21.3), Value::Float(21.3)),
        (Variant::Double(0.1), Value::Float(0.1)),
        (Variant::from("text"), Value::from("text")),
        (Variant::String(UAString::null()), Value::from("")),
        (Variant::LocalizedText(Box::new(LocalizedText::new("de", "warm"))), Value::from("warm")),
        (Variant::QualifiedName(Box::new(QualifiedName::new(1, "name"))), Value::from("name")),
        (Variant::ByteString(ByteString::from(&[0_u8, 255])), Value::Bytes(vec![0, 255])),
        (Variant::Guid(Box::new(Guid::null())), Value::from("00000000-0000-0000-0000-000000000000")),
        (
            Variant::DateTime(Box::new(DateTime::from(TICKS_TO_UNIX + 15_000_001))),
            Value::from("1970-01-01T00:00:01.5000001Z"),
        ),
        (Variant::Variant(Box::new(Variant::Byte(1))), Value::Int(1)),
    ];
    for (variant, expected) in table {
        assert_eq!(decode(variant.clone()), Ok(expected), "{variant:?}");
    }
}

#[test]
fn what_is_no_single_value_says_why() {
    let array = Array::new(Type::Int32, vec![Variant::Int32(1), Variant::Int32(2)]).unwrap();
    let long = "x".repeat(MAX_BYTES + 1);
    let table = [
        (Variant::Array(Box::new(array)), "an array of 2"),
        (Variant::Empty, "no value"),
        (Variant::DataValue(Box::default()), "a structure"),
        (Variant::Variant(Box::new(Variant::Variant(Box::default()))), "a structure"),
        (Variant::from(long.as_str()), "65537 bytes are too long"),
        (Variant::ByteString(ByteString::from(long.as_bytes())), "65537 bytes are too long"),
    ];
    for (variant, expected) in table {
        let problem = decode(variant).unwrap_err();
        assert!(problem.contains(expected), "{problem}");
    }
}

#[test]
fn the_status_is_the_quality() {
    let value = |status| DataValue { value: Some(Variant::Int32(7)), status, ..DataValue::null() };
    let table = [
        (None, Quality::Good, ""),
        (Some(StatusCode::Good), Quality::Good, ""),
        (Some(StatusCode::GoodClamped), Quality::Good, ""),
        (Some(StatusCode::UncertainLastUsableValue), Quality::Uncertain, "UncertainLastUsableValue"),
        (Some(StatusCode::BadNodeIdUnknown), Quality::Bad, "BadNodeIdUnknown"),
        (Some(StatusCode::BadSensorFailure), Quality::Bad, "BadSensorFailure"),
    ];
    for (status, quality, problem) in table {
        let sample = sample(value(status));
        assert_eq!((sample.quality, sample.value.is_some()), (quality, quality != Quality::Bad), "{status:?}");
        assert!(sample.problem.contains(problem) && sample.problem.is_empty() == problem.is_empty(), "{sample:?}");
    }
    let nan = sample(DataValue::value_only(Variant::Double(f64::NAN)));
    assert_eq!(nan.quality, Quality::Bad);
}

#[test]
fn the_time_is_the_source_s() {
    let at = |ticks: i64| {
        let time = Some(DateTime::from(ticks));
        sample(DataValue { value: Some(Variant::Int32(7)), source_timestamp: time, ..DataValue::null() }).source_time
    };
    assert_eq!(at(TICKS_TO_UNIX + 15_000_000), Some(UNIX_EPOCH + Duration::from_millis(1500)));
    assert_eq!(at(0), None, "a time that was never set is none");
    assert_eq!(sample(DataValue::value_only(Variant::Int32(7))).source_time, None);
}

#[test]
fn what_does_not_fit_is_refused() {
    let table = [
        (Value::Int(256), Type::Byte, "256 does not fit the node, which is a Byte"),
        (Value::Int(-1), Type::UInt64, "-1 does not fit"),
        (Value::Uint(u64::MAX), Type::Int64, "does not fit"),
        (Value::Float(1.5), Type::Int32, "1.5 does not fit"),
        (Value::Float(1e300), Type::Float, "does not fit"),
        (Value::Int(2), Type::Boolean, "2 does not fit"),
        (Value::from("x"), Type::Double, "x does not fit"),
        (Value::from("yesterday"), Type::DateTime, "yesterday is not a time"),
        (Value::from("1500-01-01T00:00:00Z"), Type::DateTime, "is not a time"),
        (Value::Int(1), Type::DateTime, "1 does not fit"),
        (Value::Int(1), Type::ByteString, "1 does not fit"),
        (Value::Int(1), Type::Guid, "the node is a Guid, which cannot be written"),
    ];
    for (value, kind, expected) in table {
        let problem = encode(&value, kind).unwrap_err();
        assert!(problem.contains(expected), "{problem}");
    }
}

#[test]
fn what_fits_is_of_the_node_s_type() {
    let table = [
        (Value::Bool(true), Type::Boolean, Variant::Boolean(true)),
        (Value::Int(0), Type::Boolean, Variant::Boolean(false)),
        (Value::Bool(true), Type::Int16, Variant::Int16(1)),
        (Value::Float(5.0), Type::Byte, Variant::Byte(5)),
        (Value::Int(5), Type::Double, Variant::Double(5.0)),
        (Value::Float(0.1), Type::Float, Variant::Float(0.1)),
        (Value::Int(5), Type::String, Variant::from("5")),
        (
            Value::from("warm"),
            Type::LocalizedText,
            Variant::LocalizedText(Box::new(LocalizedText { locale: UAString::null(), text: "warm".into() })),
        ),
        (Value::Bytes(vec![1]), Type::ByteString, Variant::ByteString(ByteString::from(&[1_u8]))),
    ];
    for (value, kind, expected) in table {
        assert_eq!(encode(&value, kind), Ok(expected));
    }
}

proptest! {
    #[test]
    fn whole_numbers_come_back(value: i64, unsigned: u64) {
        prop_assert_eq!(decode(encode(&Value::Int(value), Type::Int64).unwrap()), Ok(Value::Int(value)));
        let back = decode(encode(&Value::Uint(unsigned), Type::UInt64).unwrap()).unwrap();
        prop_assert!(back.same(&Value::Uint(unsigned)));
    }

    #[test]
    fn times_come_back(ticks in 1_i64..2_650_467_743_990_000_000) {
        let variant = Variant::DateTime(Box::new(DateTime::from(ticks)));
        let text = decode(variant.clone()).unwrap();
        prop_assert_eq!(encode(&text, Type::DateTime), Ok(variant));
    }
}
