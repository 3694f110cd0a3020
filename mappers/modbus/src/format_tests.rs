//! Tables of types, models and limits.

use serde_json::json;

use super::*;

fn format(visitor: serde_json::Value, model: DataType) -> Result<Format, ConfigError> {
    let serde_json::Value::Object(mut visitor) = visitor else { panic!("an object") };
    visitor.entry("register").or_insert("Holding".into());
    visitor.entry("offset").or_insert(0.into());
    Format::new(&VisitorConfig::parse(visitor)?, model, &Limits::default())
}

#[test]
fn types_models_and_limits_are_taken_together() {
    let field = |first, count| Raw::Field(BitRange { first, count });
    let table = [
        // Nothing but the model, as in mappers-go.
        (json!({}), DataType::Int, Raw::Unsigned, 1),
        (json!({ "limit": 2 }), DataType::Int, Raw::Unsigned, 2),
        (json!({ "limit": 4 }), DataType::Double, Raw::Ieee, 4),
        (json!({ "limit": 2 }), DataType::Float, Raw::Ieee, 2),
        (json!({}), DataType::Float, Raw::Ieee, 2),
        (json!({}), DataType::Boolean, Raw::Unsigned, 1),
        (json!({ "limit": 8 }), DataType::String, Raw::Text, 8),
        // The mapper framework's: a whole register that is shown as a fraction.
        (json!({ "dataType": "float", "limit": 1, "scale": 0.1 }), DataType::Float, Raw::Unsigned, 1),
        (json!({ "dataType": "int" }), DataType::Float, Raw::Unsigned, 1),
        // Ours.
        (json!({ "dataType": "int64" }), DataType::Int, Raw::Signed, 4),
        (json!({ "dataType": "float32", "limit": 2 }), DataType::Double, Raw::Ieee, 2),
        (json!({ "dataType": "bytes", "limit": 3 }), DataType::Bytes, Raw::Bytes, 3),
        (json!({ "bit": 3 }), DataType::Boolean, field(3, 1), 1),
        (json!({ "bit": 14, "bitCount": 4, "limit": 2 }), DataType::Int, field(14, 4), 2),
        (json!({ "register": "Coil" }), DataType::Boolean, Raw::Unsigned, 1),
        (json!({ "register": "Coil", "limit": 12 }), DataType::Int, Raw::Unsigned, 12),
        (json!({ "register": "Coil", "limit": 100, "dataType": "bytes" }), DataType::Bytes, Raw::Bytes, 100),
    ];
    for (visitor, model, raw, count) in table {
        let format = format(visitor.clone(), model).unwrap_or_else(|error| panic!("{visitor}: {error}"));
        assert_eq!((format.raw, format.span.count), (raw, count), "{visitor}");
    }
}

#[test]
fn impossible_combinations_are_refused_with_the_key_and_the_fix() {
    let table = [
        (
            json!({ "dataType": "float32", "limit": 1 }),
            DataType::Float,
            "`limit`: 1 registers do not hold this dataType, it has 2",
        ),
        (
            json!({ "limit": 3 }),
            DataType::Float,
            "`limit`: 3 registers are no floating point number: 2 or 4, or 1 with a scale",
        ),
        (json!({ "limit": 5 }), DataType::Int, "`limit`: 5 registers are more than a number of 64 bits"),
        (json!({}), DataType::String, "`limit` is missing: how many registers it has"),
        (json!({}), DataType::Stream, "`type`: a STREAM cannot come from Modbus"),
        (json!({ "dataType": "uint16" }), DataType::Bytes, "`dataType`: is a number, and the model says BYTES"),
        (json!({ "limit": 2, "scale": 2 }), DataType::String, "`scale`: only numbers have one"),
        (json!({ "bit": 16 }), DataType::Int, "`bit`: bits 16 and 1 on are beyond the 16 bits of `limit` 1"),
        (json!({ "bit": 1, "dataType": "float32" }), DataType::Float, "`bit`: only whole numbers"),
        (json!({ "register": "Coil", "bit": 1 }), DataType::Boolean, "`bit`: a coil is one bit"),
        (json!({ "register": "Coil", "dataType": "float32" }), DataType::Float, "`dataType`: coils are bits"),
        (
            json!({ "register": "Coil", "limit": 65 }),
            DataType::Int,
            "`limit`: 65 coils are more than a number of 64 bits",
        ),
        (json!({ "offset": 65_535 }), DataType::Float, "`offset`: 65535 and 2 are beyond the last address"),
    ];
    for (visitor, model, expected) in table {
        let problem = format(visitor.clone(), model).unwrap_err().to_string();
        assert!(problem.contains(expected), "{visitor}: {problem}");
    }
    let visitor = VisitorConfig::parse(
        json!({ "register": "Input", "offset": 0, "limit": 100, "dataType": "bytes" }).as_object().unwrap().clone(),
    );
    let limits = Limits { registers: 60, ..Limits::default() };
    let problem = Format::new(&visitor.unwrap(), DataType::Bytes, &limits).unwrap_err().to_string();
    assert!(problem.contains("100 are more than one read of this device may have (maxRegisters: 60)"), "{problem}");
}
