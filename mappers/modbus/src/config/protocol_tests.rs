//! What the keys of a Device mean, and what is refused.

use super::*;
use crate::plan::Kind;

fn parse(json: serde_json::Value) -> Result<ProtocolConfig, ConfigError> {
    let serde_json::Value::Object(object) = json else { panic!("an object") };
    ProtocolConfig::parse(object)
}

fn refused(json: serde_json::Value) -> String {
    parse(json).unwrap_err().to_string()
}

#[test]
fn kubeedges_example_of_a_tcp_device_is_understood() {
    // kubeedge/examples, temperature-sensor/modbus/crds/temperature-instance.yaml
    let config = parse(serde_json::json!({
        "communicateMode": "TCP", "port": "5502", "slaveID": 1, "ip": "10.244.1.3"
    }));
    let config = config.unwrap();
    assert_eq!(config.endpoint, Endpoint::Tcp { host: "10.244.1.3".into(), port: 5502 });
    assert_eq!((config.unit, config.pipeline, config.timeout), (1, 1, Duration::from_secs(1)));
    assert_eq!(config.limits, Limits::default());
    // kubeedge/website, the device of its developer guide: nothing but an address.
    let config = parse(serde_json::json!({ "ip": "172.17.0.3", "port": 1502 })).unwrap();
    assert_eq!((config.endpoint.to_string().as_str(), config.unit), ("172.17.0.3:1502", 0));
}

#[test]
fn mappers_gos_nested_keys_are_understood() {
    // kubeedge/mappers-go, build/crd-samples/devices/modbusrtu-device-instance.yaml
    let config = parse(serde_json::json!({
        "modbus": { "slaveID": 1 },
        "common": {
            "com": { "serialPort": "/dev/ttyS0", "baudRate": 9600, "dataBits": 8, "parity": "even", "stopBits": 1 },
            "customizedValues": { "serialType": "RS485" },
            "commType": "serial", "reconnTimeout": 5, "reconnRetryTimes": 3, "collectType": "sync",
            "collectTimeout": 500, "collectRetryTimes": 2
        }
    }));
    let config = config.unwrap();
    let serial = SerialConfig {
        path: "/dev/ttyS0".into(),
        baud_rate: 9600,
        data_bits: 8,
        parity: Parity::Even,
        stop_bits: 1,
        rs485: true,
    };
    assert_eq!(config.endpoint, Endpoint::Serial(serial));
    assert_eq!((config.unit, config.retries, config.timeout), (1, 2, Duration::from_millis(500)));
    let tcp = parse(serde_json::json!({ "common": { "tcp": { "ip": "192.168.33.1", "port": 502 } }, "slaveID": "9" }));
    assert_eq!(tcp.unwrap().unit, 9);
}

#[test]
fn the_mapper_frameworks_serial_keys_are_understood() {
    // kubeedge/examples, temperature-sensor/modbus/driver/devicetype.go
    let config = parse(serde_json::json!({
        "communicateMode": "RTU", "slaveID": 3, "serialName": "/dev/ttyUSB0", "baudRate": "19200", "dataBits": "8",
        "stopBits": 2, "parity": "None", "rs485Enabled": false, "timeout": 1000
    }));
    let Endpoint::Serial(serial) = config.unwrap().endpoint else { panic!("a serial line") };
    assert_eq!((serial.baud_rate, serial.stop_bits, serial.parity), (19_200, 2, Parity::None));
}

#[test]
fn what_a_device_can_bear_is_read() {
    let config = parse(serde_json::json!({
        "ip": "plc", "pipeline": 4, "maxRegisters": 60, "maxGap": 0, "writeFunction": "multiple",
        "holes": [{ "register": "HoldingRegister", "offset": 100, "limit": 10 }]
    }));
    let config = config.unwrap();
    assert_eq!((config.pipeline, config.limits.registers, config.limits.gap), (4, 60, 0));
    assert_eq!(config.limits.holes, [Hole { kind: Kind::Holding, start: 100, end: 110 }]);
    assert_eq!(config.write, WriteFunction::Multiple);
}

#[test]
fn mistakes_are_refused_with_the_key_and_the_fix() {
    let serial = serde_json::json!({ "serialPort": "/dev/ttyS0", "slaveID": 1 });
    let with = |key: &str, value: serde_json::Value| {
        let mut config = serial.clone();
        config[key] = value;
        config
    };
    let table = [
        (serde_json::json!({}), "`ip` is missing: a TCP device needs `ip`"),
        (serde_json::json!({ "communicateMode": "RTU", "slaveID": 1 }), "`serialPort` is missing"),
        (serde_json::json!({ "communicateMode": "ASCII" }), "`communicateMode`: `ASCII` is none of TCP, RTU, serial"),
        (serde_json::json!({ "ip": "a", "port": 0 }), "`port`: 0 is not a whole number from 1 to 65535"),
        (serde_json::json!({ "ip": "a", "slaveID": 256 }), "`slaveID`: 256 is not a whole number from 0 to 255"),
        (serde_json::json!({ "ip": "a", "slave": 2 }), "unknown key `slave`; known here: common, modbus"),
        (serde_json::json!({ "ip": "a", "tcp": { "ip": "b" } }), "twice"),
        (serde_json::json!({ "ip": "a", "pipeline": 17 }), "`pipeline`"),
        (
            serde_json::json!({ "ip": "a", "maxRegisters": 126 }),
            "`maxRegisters`: 126 is not a whole number from 1 to 125",
        ),
        (serde_json::json!({ "ip": "a", "holes": [{ "offset": 1 }] }), "`holes.register` is missing"),
        (serde_json::json!({ "serialPort": "/dev/ttyS0" }), "`slaveID` is missing"),
        (with("slaveID", 0.into()), "`slaveID`: 0 is no unit of a serial line"),
        (with("ip", "a".into()), "`serialPort`: and `ip` are both there"),
        (with("port", 502.into()), "`port`: belongs to TCP"),
        (with("dataBits", 7.into()), "`dataBits`: RTU sends bytes and needs 8"),
        (with("pipeline", 2.into()), "`pipeline`: a serial line carries one request at a time"),
        (with("serialName", "/dev/ttyS1".into()), "`serialName`: says the same as `serialPort`"),
        (with("serialPort", "/dev/../etc/passwd".into()), "is not a path below /dev"),
        (with("serialPort", "ttyS0".into()), "is not a path below /dev"),
        (with("communicateMode", "TCP".into()), "`serialPort`: belongs to RTU"),
    ];
    for (config, expected) in table {
        let problem = refused(config.clone());
        assert!(problem.contains(expected), "{config}: {problem}");
    }
    let hole = serde_json::json!({ "register": "Input", "offset": 1 });
    let holes = refused(serde_json::json!({ "ip": "a", "holes": vec![hole; MAX_HOLES + 1] }));
    assert!(holes.contains("257 holes are too many, at most 256"), "{holes}");
}

#[test]
fn addresses_of_version_6_are_written_with_brackets() {
    assert_eq!(parse(serde_json::json!({ "ip": "fd00::1" })).unwrap().endpoint.to_string(), "[fd00::1]:502");
}
