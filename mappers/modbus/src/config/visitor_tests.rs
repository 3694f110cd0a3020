//! What the keys of a property mean, and what is refused.

use super::*;

fn parse(json: serde_json::Value) -> Result<VisitorConfig, ConfigError> {
    let serde_json::Value::Object(object) = json else { panic!("an object") };
    VisitorConfig::parse(object)
}

#[test]
fn kubeedges_samples_are_understood() {
    // kubeedge/examples, temperature-sensor/modbus/crds/temperature-instance.yaml
    let visitor = parse(serde_json::json!({
        "dataType": "float", "register": "HoldingRegister", "offset": 0, "limit": 1, "scale": 0.1,
        "isSwap": false, "isRegisterSwap": false, "max": 100.0, "min": 1.0
    }));
    let visitor = visitor.unwrap();
    assert_eq!((visitor.kind, visitor.offset, visitor.limit), (Kind::Holding, 0, Some(1)));
    assert_eq!((visitor.data_type, visitor.swap_bytes, visitor.swap_words), (Some(Declared::Float), false, false));
    assert_eq!(visitor.scale.apply(253.0).to_string(), "25.3");
    // kubeedge's end-to-end test: capital keys, numbers and booleans as text.
    let visitor = parse(serde_json::json!({
        "Register": "CoilRegister", "Offset": "2", "Limit": "1", "Scale": "1", "IsSwap": "true", "IsRegisterSwap": "true"
    }));
    let visitor = visitor.unwrap();
    assert_eq!((visitor.kind, visitor.offset, visitor.limit), (Kind::Coil, 2, Some(1)));
    assert!(visitor.swap_bytes && visitor.swap_words && visitor.scale.is_identity());
}

#[test]
fn our_own_keys_are_understood() {
    let visitor = parse(serde_json::json!({
        "register": "Input", "offset": 30_000, "dataType": "int32", "byteOrder": "little", "wordOrder": "little",
        "valueOffset": -40
    }));
    let visitor = visitor.unwrap();
    assert_eq!((visitor.kind, visitor.data_type, visitor.limit), (Kind::Input, Some(Declared::Signed(2)), None));
    assert!(visitor.swap_bytes && visitor.swap_words);
    assert_eq!(visitor.scale.whole(0), Some(-40));
    let bits = parse(serde_json::json!({ "register": "Holding", "offset": 1, "bit": 4, "bitCount": 3 })).unwrap().bits;
    assert_eq!(bits, Some(BitRange { first: 4, count: 3 }));
    let bit = parse(serde_json::json!({ "register": "Holding", "offset": 1, "bit": 15, "limit": 0 })).unwrap();
    assert_eq!((bit.bits, bit.limit), (Some(BitRange { first: 15, count: 1 }), None));
}

#[test]
fn mistakes_are_refused_with_the_key_and_the_fix() {
    let table = [
        (serde_json::json!({ "offset": 1 }), "`register` is missing: one of CoilRegister"),
        (serde_json::json!({ "register": "Holding" }), "`offset` is missing"),
        (serde_json::json!({ "register": "Register", "offset": 1 }), "`register`: `Register` is none of CoilRegister"),
        (serde_json::json!({ "register": "Holding", "offset": 65_536 }), "`offset`"),
        (
            serde_json::json!({ "register": "Holding", "offset": 1, "limit": 126 }),
            "`limit`: 126 is not a whole number from 0 to 125",
        ),
        (serde_json::json!({ "register": "Coil", "offset": 1, "limit": 2001 }), "`limit`"),
        (
            serde_json::json!({ "register": "Holding", "offset": 1, "dataType": "int24" }),
            "`dataType`: `int24` is none of int, float",
        ),
        (serde_json::json!({ "register": "Holding", "offset": 1, "bitCount": 2 }), "`bit` is missing"),
        (
            serde_json::json!({ "register": "Holding", "offset": 1, "isSwap": true, "byteOrder": "big" }),
            "`byteOrder`: says the opposite",
        ),
        (
            serde_json::json!({ "register": "Holding", "offset": 1, "ofset": 2 }),
            "unknown key `ofset`; known here: register, offset",
        ),
        (serde_json::json!({ "register": "Holding", "offset": 1, "scale": "x" }), "`scale`: \"x\" is not a number"),
    ];
    for (config, expected) in table {
        let problem = parse(config.clone()).unwrap_err().to_string();
        assert!(problem.contains(expected), "{config}: {problem}");
    }
}
