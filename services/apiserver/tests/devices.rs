//! The kinds of devices as people meet them: kubectl against a server that has just been started.
//! Skipped with a note where there is no kubectl.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod support;

use support::Cluster;

/// What KubeEdge's own tests apply.
const SAMPLES: &str = r#"
apiVersion: devices.kubeedge.io/v1beta1
kind: DeviceModel
metadata: {name: sensor-tag-model, namespace: default}
spec:
  protocol: modbus
  properties:
  - {name: temperature, description: temperature in degree celsius, type: INT, accessMode: ReadWrite, maximum: "100", unit: degree celsius}
  - {name: temperature-enable, description: enable, type: STRING, accessMode: ReadOnly}
---
apiVersion: devices.kubeedge.io/v1beta1
kind: Device
metadata:
  name: sensor-tag-instance-02
  namespace: default
  labels: {description: TISimplelinkSensorTag, model: CC2650}
spec:
  deviceModelRef: {name: sensor-tag-model}
  nodeName: edge-node
  properties:
  - name: temperature
    desired: {value: "20", metadata: {type: int}}
    collectCycle: 1000
    reportCycle: 10000
    reportToCloud: true
    visitors:
      protocolName: modbus
      configData: {Register: CoilRegister, Offset: "2", Limit: "1", Scale: "1", IsSwap: "true", IsRegisterSwap: "true"}
    pushMethod:
      dbMethod:
        TDEngine: {TDEngineClientConfig: {addr: "127.0.0.1:6041", dbName: test}}
  protocol:
    protocolName: modbus
    configData: {SerialPort: /dev/ttyS0, BaudRate: "9600", DataBits: "8", Parity: even, StopBits: "1", slaveID: 1, deep: {list: [1, 2.5]}}
status:
  reportToCloud: true
  reportCycle: 5000
  twins:
  - {propertyName: temperature, reported: {value: "1", metadata: {timestamp: "1550049403598"}}}
---
apiVersion: devices.kubeedge.io/v1beta1
kind: DeviceStatus
metadata: {name: sensor-tag-instance-02, namespace: default}
spec: {}
status:
  state: online
  lastOnlineTime: "2026-01-01T00:00:00Z"
  twins:
  - {propertyName: temperature, reported: {value: "12", metadata: {timestamp: "1550049403598", type: integer}}, observedDesired: {value: "20"}}
  extensions: {vendor: {anything: [true]}}
"#;

#[test]
fn samples_apply_unchanged_and_are_shown_in_columns() {
    for c in Cluster::each() {
        c.ok("wait --for=condition=Established crd/devices.devices.kubeedge.io", "condition met");
        c.ok("api-resources", "devstatus");
        let text = c.ok_with("apply -f -", Some(SAMPLES), "device.devices.kubeedge.io/sensor-tag-instance-02 created");
        assert!(!text.to_lowercase().contains("warning: unknown"), "{text}");
        c.ok_with("apply -f -", Some(SAMPLES), "device.devices.kubeedge.io/sensor-tag-instance-02 unchanged");
        c.ok("get device sensor-tag-instance-02 -o jsonpath={.spec.protocol.configData.deep.list[1]}/{.status.twins[0].reported.value}", "2.5/1");
        let table = c.ok("get dev", "sensor-tag-model");
        for header in ["MODEL", "PROTOCOL", "NODE", "STATE", "SYNCED", "LAST-SEEN", "AGE"] {
            assert!(table.contains(header), "{table}");
        }
        c.ok("get devicestatus", "temperature   12");
        c.ok("get edge", "devicemodel.devices.kubeedge.io/sensor-tag-model");
        c.ok("get devmodel sensor-tag-model", "modbus");
        c.ok("describe device sensor-tag-instance-02", "Collect Cycle:  1000");
    }
}

#[test]
fn conditions_in_the_status_are_shown_and_waited_for() {
    for c in Cluster::each() {
        c.ok_with("apply -f -", Some(SAMPLES), "created");
        let name = "device/sensor-tag-instance-02";
        let generation =
            || c.ok(&format!("get {name} -o jsonpath={{.metadata.generation}}"), "").trim().parse::<i64>().unwrap();
        let before = generation();
        let condition = |status: &str, generation: i64| {
            format!(
                "patch {name} --type=merge -p {{\"status\":{{\"state\":\"online\",\"lastOnlineTime\":\"2026-01-01T00:00:00Z\",\"observedGeneration\":{generation},\"conditions\":[{{\"type\":\"Synced\",\"status\":\"{status}\"}}]}}}}"
            )
        };
        c.ok(&condition("True", before + 1), "patched");
        assert_eq!(generation(), before + 1, "a status without a subresource counts as a change");
        c.ok(&format!("wait {name} --for=condition=Synced --timeout=5s"), "condition met");
        c.ok("get dev", "online");
        // What somebody wants now has not been looked at.
        c.ok(&format!("patch {name} --type=merge -p {{\"spec\":{{\"nodeName\":\"other\"}}}}"), "patched");
        assert_eq!(generation(), before + 2);
        if c.minor >= 25 {
            c.fails_with(&format!("wait {name} --for=condition=Synced --timeout=1s"), None, "timed out");
        }
        c.fails_with(
            &condition("Maybe", 1),
            None,
            "Unsupported value: \"Maybe\": supported values: \"True\", \"False\", \"Unknown\"",
        );
    }
}

fn device(spec: &str) -> String {
    format!("{{apiVersion: devices.kubeedge.io/v1beta1, kind: Device, metadata: {{name: d}}, spec: {spec}}}")
}

fn model(property: &str) -> String {
    format!(
        "{{apiVersion: devices.kubeedge.io/v1beta1, kind: DeviceModel, metadata: {{name: m}}, spec: {{properties: [{property}]}}}}"
    )
}

#[test]
fn mistakes_are_turned_away_with_a_message_that_helps() {
    for c in Cluster::each() {
        for (object, expected) in [
            (
                model("{name: t, type: TEXT}"),
                "spec.properties[0].type: Unsupported value: \"TEXT\": supported values: \"INT\", \"FLOAT\", \"DOUBLE\"",
            ),
            (model("{name: t, accessMode: Write}"), "spec.properties[0].accessMode: Unsupported value: \"Write\""),
            (model("{name: t}, {name: t}"), "spec.properties[1]: Duplicate value: {\"name\":\"t\"}"),
            (
                model("{name: t, type: INT, minimum: \"9\", maximum: \"1\"}"),
                "spec.properties[0]: Invalid value: \"object\": minimum must not be greater than maximum",
            ),
            (
                device("{properties: [{name: a}, {name: b}, {name: a}]}"),
                "spec.properties[2]: Duplicate value: {\"name\":\"a\"}",
            ),
            (device("{properties: [{name: a, collectCycle: -5}]}"), "should be greater than or equal to 0"),
            (
                device("{properties: [{name: a, desired: {metadata: {type: int}}}]}"),
                "spec.properties[0].desired.value: Required value",
            ),
            (device("{properties: [{desired: {value: x}}]}"), "spec.properties[0].name: Required value"),
        ] {
            c.fails_with("create -f - --validate=false", Some(&object), expected);
        }
        c.fails_with(
            "create -f - --validate=false",
            Some(&device("{properties: [{name: a, desired: {value: 20}}]}")),
            "must be of type string: \"integer\"",
        );
        let unknown = device("{nodename: n, properties: [{name: a, reportcycle: 5}]}");
        if c.minor < 25 {
            // It checks before it sends.
            c.fails_with("apply -f -", Some(&unknown), "unknown field \"nodename\"");
        } else {
            c.fails_with("apply -f -", Some(&unknown), "strict decoding error: unknown field \"spec.nodename\", unknown field \"spec.properties[0].reportcycle\"");
            c.ok_with("apply --validate=warn -f -", Some(&unknown), "unknown field \"spec.nodename\"");
            c.ok("get device d -o jsonpath={.spec}", "{\"properties\":[{\"name\":\"a\"}]}");
            let patch = "patch device d --type=merge -p {\"spec\":{\"nodename\":\"x\"}}";
            c.ok(patch, "unknown field \"spec.nodename\"");
        }
        c.fails_with(
            "create -f -",
            Some("{apiVersion: devices.kubeedge.io/v1beta1, kind: device-model, metadata: {name: m}}"),
            "no matches for kind",
        );
        c.fails_with("delete device missing", None, "devices.devices.kubeedge.io \"missing\" not found");
    }
}

#[test]
fn the_older_version_says_that_it_has_no_effect() {
    for c in Cluster::each() {
        let older = "{apiVersion: devices.kubeedge.io/v1alpha2, kind: Device, metadata: {name: d}, spec: {protocol: {modbus: {slaveID: 1}}}}";
        c.ok_with("create -f -", Some(older), "has no effect: its fields are not converted");
        c.ok("get devices.v1alpha2.devices.kubeedge.io d -o jsonpath={.apiVersion}", "v1alpha2");
        c.ok("get devices.v1beta1.devices.kubeedge.io d -o jsonpath={.apiVersion}", "v1beta1");
    }
}

#[test]
fn explain_tells_what_each_field_is() {
    for c in Cluster::each() {
        c.ok("explain devices", "A device that is attached to a node");
        let text = c.ok("explain devices.spec.properties", "Each name may appear once");
        assert!(text.contains("collectCycle") && text.contains("<integer>"), "{text}");
        c.ok(
            "explain devices.spec.properties.pushMethod.dbMethod.TDEngine.TDEngineClientConfig.dbName",
            "Name of the database",
        );
        c.ok("explain devmodel.spec.properties.type", "STREAM");
        c.ok("explain devicestatus.status.twins.reported.metadata", "timestamp");
        c.ok("explain devices --recursive", "requestPath");
        c.fails_with("explain devices.spec.nodename", None, "nodename");
    }
}

#[test]
fn server_side_apply_owns_properties_by_name() {
    for c in Cluster::each() {
        let config =
            |name: &str, cycle: u32| device(&format!("{{properties: [{{name: {name}, collectCycle: {cycle}}}]}}"));
        c.ok_with("apply --server-side --field-manager=one -f -", Some(&config("a", 1)), "serverside-applied");
        c.ok_with("apply --server-side --field-manager=other -f -", Some(&config("b", 2)), "serverside-applied");
        c.ok("get device d -o jsonpath={.spec.properties[*].name}", "a b");
        c.fails_with(
            "apply --server-side --field-manager=other -f -",
            Some(&config("a", 3)),
            ".spec.properties[name=\"a\"].collectCycle",
        );
    }
}
