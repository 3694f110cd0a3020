//! Tables and properties of the codec.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::plan::Limits;

fn config(visitor: serde_json::Value, model: DataType) -> (VisitorConfig, Format) {
    let serde_json::Value::Object(mut visitor) = visitor else { panic!("an object") };
    visitor.entry("register").or_insert("Holding".into());
    visitor.insert("offset".into(), 0.into());
    let visitor = VisitorConfig::parse(visitor).unwrap();
    let format = Format::new(&visitor, model, &Limits::default()).unwrap();
    (visitor, format)
}

fn read(visitor: serde_json::Value, model: DataType, data: &[u8]) -> Result<Value, String> {
    let (visitor, format) = config(visitor, model);
    decode(&format, &visitor, model, data)
}

fn write(visitor: serde_json::Value, model: DataType, value: impl Into<Value>) -> Result<Write, String> {
    let (visitor, format) = config(visitor, model);
    encode(&format, &visitor, &value.into())
}

#[test]
fn registers_become_values() {
    let table: &[(serde_json::Value, DataType, &[u8], Value)] = &[
        (json!({}), DataType::Int, &[0xFF, 0xFE], Value::Int(65_534)),
        (json!({ "dataType": "int16" }), DataType::Int, &[0xFF, 0xFE], Value::Int(-2)),
        (json!({ "dataType": "uint32" }), DataType::Int, &[0, 1, 0, 2], Value::Int(65_538)),
        (json!({ "dataType": "uint32", "wordOrder": "little" }), DataType::Int, &[0, 2, 0, 1], Value::Int(65_538)),
        (json!({ "dataType": "uint32", "byteOrder": "little" }), DataType::Int, &[1, 0, 2, 0], Value::Int(65_538)),
        (
            json!({ "dataType": "uint32", "isSwap": true, "isRegisterSwap": true }),
            DataType::Int,
            &[2, 0, 1, 0],
            Value::Int(65_538),
        ),
        (json!({ "dataType": "int32" }), DataType::Int, &[0xFF; 4], Value::Int(-1)),
        (json!({ "dataType": "int64" }), DataType::Int, &[0x80, 0, 0, 0, 0, 0, 0, 0], Value::Int(i64::MIN)),
        (json!({ "dataType": "uint64" }), DataType::Int, &[0xFF; 8], Value::Uint(u64::MAX)),
        (json!({ "limit": 3 }), DataType::Int, &[0, 1, 0, 0, 0, 0], Value::Int(1 << 32)),
        (json!({ "dataType": "float32" }), DataType::Float, &[0x41, 0xAA, 0x66, 0x66], Value::Float(21.3)),
        (json!({ "dataType": "float64" }), DataType::Double, &0.1_f64.to_be_bytes(), Value::Float(0.1)),
        // KubeEdge's temperature: 253 is 25.3 degrees.
        (json!({ "dataType": "float", "limit": 1, "scale": 0.1 }), DataType::Float, &[0, 253], Value::Float(25.3)),
        (json!({ "scale": 10, "valueOffset": 5 }), DataType::Int, &[0, 3], Value::Int(35)),
        (json!({ "scale": 0.1 }), DataType::Int, &[0, 57], Value::Int(6)),
        (json!({}), DataType::Boolean, &[0x01, 0x00], Value::Bool(true)),
        (json!({}), DataType::String, &[0, 7], Value::Text("7".into())),
        (json!({ "limit": 3 }), DataType::String, b"ab c  ", Value::Text("ab c".into())),
        (json!({ "limit": 3 }), DataType::String, b"abc\0xx", Value::Text("abc".into())),
        (json!({ "limit": 2, "isSwap": true }), DataType::String, b"badc", Value::Text("abcd".into())),
        (json!({ "limit": 1 }), DataType::Bytes, &[0, 255], Value::Bytes(vec![0, 255])),
        (json!({ "bit": 4, "bitCount": 3 }), DataType::Int, &[0xFF, 0b0101_1111], Value::Int(0b101)),
        (json!({ "bit": 15 }), DataType::Boolean, &[0x80, 0], Value::Bool(true)),
        (json!({ "register": "Coil" }), DataType::Boolean, &[1], Value::Bool(true)),
        (json!({ "register": "Coil" }), DataType::Int, &[0], Value::Int(0)),
        (json!({ "register": "Coil", "limit": 10 }), DataType::Int, &[0x01, 0x02], Value::Int(0x201)),
    ];
    for (visitor, model, data, expected) in table {
        let visitor = if *model == DataType::String && visitor == &json!({}) {
            json!({ "dataType": "uint16" })
        } else {
            visitor.clone()
        };
        assert_eq!(read(visitor.clone(), *model, data), Ok(expected.clone()), "{visitor} {data:x?}");
    }
}

#[test]
fn what_is_no_value_says_why() {
    let nan = read(json!({ "dataType": "float32" }), DataType::Float, &f32::NAN.to_be_bytes());
    assert_eq!(nan.unwrap_err(), "the registers hold NaN, which is not a number");
    let text = read(json!({ "limit": 1 }), DataType::String, &[0xFF, 0xFE]);
    assert!(text.unwrap_err().contains("no UTF-8 text"));
    assert!(read(json!({ "dataType": "string", "limit": 1 }), DataType::Int, b"ab").is_err());
    assert_eq!(read(json!({ "dataType": "string", "limit": 1 }), DataType::Int, b"42"), Ok(Value::Int(42)));
}

#[test]
fn values_become_registers() {
    use Write::{Coils, Masked, Registers};
    let table = [
        (write(json!({}), DataType::Int, 20_i64), Registers(vec![20])),
        (write(json!({ "dataType": "int16" }), DataType::Int, -2_i64), Registers(vec![0xFFFE])),
        (write(json!({ "dataType": "uint64" }), DataType::Int, u64::MAX), Registers(vec![0xFFFF; 4])),
        (
            write(json!({ "dataType": "int32", "wordOrder": "little" }), DataType::Int, 65_538_i64),
            Registers(vec![2, 1]),
        ),
        (write(json!({ "dataType": "float", "limit": 1, "scale": 0.1 }), DataType::Float, 25.3), Registers(vec![253])),
        (write(json!({ "scale": 10, "valueOffset": 5 }), DataType::Int, 35_i64), Registers(vec![3])),
        (write(json!({ "dataType": "float32" }), DataType::Float, 21.3), Registers(vec![0x41AA, 0x6666])),
        (write(json!({ "dataType": "float32" }), DataType::Float, 1_i64), Registers(vec![0x3F80, 0])),
        (write(json!({}), DataType::Boolean, true), Registers(vec![1])),
        (write(json!({ "limit": 2 }), DataType::String, "abc"), Registers(vec![0x6162, 0x6300])),
        (write(json!({ "limit": 2, "isSwap": true }), DataType::String, "abcd"), Registers(vec![0x6261, 0x6463])),
        (write(json!({ "limit": 1 }), DataType::Bytes, vec![1, 2]), Registers(vec![0x0102])),
        (write(json!({ "dataType": "uint16" }), DataType::String, "77"), Registers(vec![77])),
        (write(json!({ "register": "Coil" }), DataType::Boolean, true), Coils(vec![true])),
        (write(json!({ "register": "Coil" }), DataType::Int, 0_i64), Coils(vec![false])),
        (write(json!({ "register": "Coil", "limit": 3 }), DataType::Int, 6_i64), Coils(vec![false, true, true])),
        (
            write(json!({ "bit": 4, "bitCount": 3 }), DataType::Int, 5_i64),
            Masked { mask: vec![0x70], bits: vec![0x50] },
        ),
        (
            write(json!({ "bit": 0, "byteOrder": "little" }), DataType::Boolean, true),
            Masked { mask: vec![0x100], bits: vec![0x100] },
        ),
    ];
    for (written, expected) in table {
        assert_eq!(written, Ok(expected));
    }
}

#[test]
fn what_does_not_fit_is_refused_with_words() {
    let table = [
        (write(json!({}), DataType::Int, 65_536_i64), "65536 does not fit: 65536 is not from 0 to 65535"),
        (write(json!({}), DataType::Int, -1_i64), "-1 does not fit"),
        (write(json!({ "dataType": "int16" }), DataType::Int, 32_768_i64), "is not from -32768 to 32767"),
        (
            write(json!({ "dataType": "float", "limit": 1, "scale": 0.1 }), DataType::Float, 7000.0),
            "does not fit after scale",
        ),
        (
            write(json!({ "dataType": "float", "limit": 1, "scale": 0.1 }), DataType::Float, 21.53),
            "21.53 is between two steps of the register; the nearest is 21.5",
        ),
        (
            write(json!({ "scale": 10 }), DataType::Int, 15_i64),
            "15 is between two steps of the register; the nearest is 20",
        ),
        (write(json!({ "dataType": "int64" }), DataType::Int, u64::MAX), "does not fit"),
        (write(json!({ "dataType": "float32" }), DataType::Float, 1e39), "is more than a float32 holds"),
        (write(json!({ "dataType": "float32" }), DataType::Float, 16_777_217_i64), "more digits than a float32 keeps"),
        (
            write(json!({ "dataType": "float64" }), DataType::Double, 9_007_199_254_740_993_i64),
            "more digits than a float64",
        ),
        (write(json!({ "limit": 2 }), DataType::String, "abcde"), "5 bytes for 2 registers, which have 4"),
        (write(json!({ "limit": 2 }), DataType::Bytes, vec![1]), "1 bytes for 2 registers"),
        (write(json!({ "bit": 4, "bitCount": 3 }), DataType::Int, 8_i64), "is not from 0 to 7"),
        (write(json!({ "register": "Coil" }), DataType::Int, 2_i64), "is not from 0 to 1"),
        (write(json!({ "dataType": "uint16" }), DataType::String, "x"), "\"x\" is not a number"),
    ];
    for (written, expected) in table {
        let problem = written.unwrap_err();
        assert!(problem.contains(expected), "{problem} / {expected}");
    }
}

fn bytes(write: Write) -> Vec<u8> {
    let Write::Registers(words) = write else { panic!("registers") };
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_what_is_read(value: i64, float in proptest::num::f64::NORMAL, bytes_swapped: bool, words_swapped: bool) {
        for (name, bits) in [("int16", 16), ("int32", 32), ("int64", 64), ("uint16", 15), ("uint32", 31), ("uint64", 63)] {
            let value = if name.starts_with('u') { (value >> (64 - bits)).abs() } else { value >> (64 - bits) };
            let visitor = json!({ "dataType": name, "isSwap": bytes_swapped, "isRegisterSwap": words_swapped });
            let data = bytes(write(visitor.clone(), DataType::Int, value).unwrap());
            prop_assert_eq!(read(visitor, DataType::Int, &data), Ok(Value::Int(value)));
        }
        let visitor = json!({ "dataType": "float64", "isSwap": bytes_swapped, "isRegisterSwap": words_swapped });
        let data = bytes(write(visitor.clone(), DataType::Double, float).unwrap());
        prop_assert_eq!(read(visitor, DataType::Double, &data), Ok(Value::Float(float)));
    }

    #[test]
    fn any_registers_are_read_without_panic(data: Vec<u8>, swap: bool) {
        for name in ["int", "float", "double", "boolean", "int64", "float32"] {
            let _ = read(json!({ "dataType": name, "isSwap": swap }), DataType::Double, &data);
        }
        let _ = read(json!({ "dataType": "string", "limit": 4, "isSwap": swap }), DataType::String, &data);
    }
}
