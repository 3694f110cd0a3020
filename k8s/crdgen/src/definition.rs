//! The three definitions: names, printer columns, and what the types cannot say.
//!
//! Bounds on lists and texts are only where a rule runs over them: the API server must know how much a rule
//! may cost.

use crate::structural::{at, schema_of};
use serde_json::{Map, Value, json};
use skerry_k8s_types::{Device, DeviceModel, DeviceStatus, GROUP, VERSION};

/// Most properties of a model: far more than fit into an object that etcd takes in practice, and few enough
/// for a rule over each.
const MAX_PROPERTIES: u32 = 8192;
/// Longest limit of a number, in characters.
const MAX_NUMBER: u32 = 64;
/// More than there are types of conditions.
const MAX_CONDITIONS: u32 = 16;

/// Names of a kind.
struct Names {
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    short: &'static str,
}

/// `devices.devices.kubeedge.io`
pub fn device() -> Value {
    let mut schema = schema_of::<Device>();
    by_name(&mut schema, "spec.properties");
    let model = at(&mut schema, "spec.deviceModelRef");
    model.insert("x-kubernetes-map-type".into(), "atomic".into());
    at(&mut schema, "spec.deviceModelRef.name").insert("default".into(), "".into());
    let push = "spec.properties[].pushMethod";
    range(&mut schema, &format!("{push}.mqtt.qos"), 0, Some(2));
    range(&mut schema, &format!("{push}.http.port"), 0, Some(65535));
    range(&mut schema, &format!("{push}.http.timeout"), 0, None);
    conditions(&mut schema, "status.conditions");
    at(&mut schema, "status").insert("x-kubernetes-preserve-unknown-fields".into(), true.into());
    let columns = [
        column("Model", "string", ".spec.deviceModelRef.name", "The DeviceModel of the device."),
        column("Protocol", "string", ".spec.protocol.protocolName", "The protocol of its mapper."),
        column("Node", "string", ".spec.nodeName", "The node that the device is attached to."),
        column("State", "string", ".status.state", "What the mapper says about the device."),
        condition_column("Synced", "Whether every desired value has reached the device."),
        column("Last-Seen", "date", ".status.lastOnlineTime", "When the device was online last."),
        age(),
    ];
    let names = Names { kind: "Device", plural: "devices", singular: "device", short: "dev" };
    definition(&names, schema, &columns)
}

/// `devicemodels.devices.kubeedge.io`
pub fn device_model() -> Value {
    let mut schema = schema_of::<DeviceModel>();
    by_name(&mut schema, "spec.properties");
    at(&mut schema, "spec.properties").insert("maxItems".into(), MAX_PROPERTIES.into());
    for limit in ["minimum", "maximum"] {
        at(&mut schema, &format!("spec.properties[].{limit}")).insert("maxLength".into(), MAX_NUMBER.into());
    }
    let number = "'^[-+]?[0-9]+([.][0-9]+)?([eE][-+]?[0-9]+)?$'";
    let rule = format!(
        "!has(self.minimum) || !has(self.maximum) || !self.minimum.matches({number}) || \
         !self.maximum.matches({number}) || double(self.minimum) <= double(self.maximum)"
    );
    let rules = json!([{"rule": rule, "message": "minimum must not be greater than maximum"}]);
    at(&mut schema, "spec.properties[]").insert("x-kubernetes-validations".into(), rules);
    let columns =
        [column("Protocol", "string", ".spec.protocol", "The protocol that devices of the model speak."), age()];
    let names = Names { kind: "DeviceModel", plural: "devicemodels", singular: "devicemodel", short: "devmodel" };
    definition(&names, schema, &columns)
}

/// `devicestatuses.devices.kubeedge.io`
pub fn device_status() -> Value {
    let mut schema = schema_of::<DeviceStatus>();
    conditions(&mut schema, "status.conditions");
    let columns = [
        column("State", "string", ".status.state", "What the mapper says about the device."),
        condition_column("Online", "Whether the mapper reaches the device."),
        condition_column("Synced", "Whether every desired value has reached the device."),
        column("Property", "string", ".status.twins[0].propertyName", "The first property of the device."),
        column("Value", "string", ".status.twins[0].reported.value", "The reported value of the first property."),
        column("Last-Seen", "date", ".status.lastOnlineTime", "When the device was online last."),
        age(),
    ];
    let names = Names { kind: "DeviceStatus", plural: "devicestatuses", singular: "devicestatus", short: "devstatus" };
    definition(&names, schema, &columns)
}

/// A list whose items are told apart by their name.
fn by_name(schema: &mut Value, list: &str) {
    list_map(at(schema, list), "name");
    at(schema, &format!("{list}[]")).insert("required".into(), json!(["name"]));
    at(schema, &format!("{list}[].name")).insert("minLength".into(), 1.into());
}

fn list_map(list: &mut Map<String, Value>, key: &str) {
    list.insert("x-kubernetes-list-type".into(), "map".into());
    list.insert("x-kubernetes-list-map-keys".into(), json!([key]));
}

fn conditions(schema: &mut Value, list: &str) {
    let conditions = at(schema, list);
    list_map(conditions, "type");
    conditions.insert("maxItems".into(), MAX_CONDITIONS.into());
    at(schema, &format!("{list}[].status")).insert("enum".into(), json!(["True", "False", "Unknown"]));
}

fn range(schema: &mut Value, path: &str, minimum: u32, maximum: Option<u32>) {
    let field = at(schema, path);
    field.insert("minimum".into(), minimum.into());
    if let Some(maximum) = maximum {
        field.insert("maximum".into(), maximum.into());
    }
}

fn column(name: &str, kind: &str, path: &str, description: &str) -> Value {
    json!({"name": name, "type": kind, "jsonPath": path, "description": description})
}

fn condition_column(name: &str, description: &str) -> Value {
    column(name, "string", &format!(".status.conditions[?(@.type==\"{name}\")].status"), description)
}

fn age() -> Value {
    column("Age", "date", ".metadata.creationTimestamp", "When the object was created.")
}

fn definition(names: &Names, mut schema: Value, columns: &[Value]) -> Value {
    let Names { kind, plural, singular, short } = names;
    object_fields(&mut schema);
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{GROUP}")},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            // Not in `all`: `kubectl delete all --all` shall not delete devices.
            "names": {"kind": kind, "listKind": format!("{kind}List"), "plural": plural, "singular": singular,
                "shortNames": [short], "categories": ["edge"]},
            "versions": versions(kind, schema, columns),
        },
    })
}

/// `v1alpha2` is served as in KubeEdge, where it was never converted either; DeviceStatus is younger.
fn versions(kind: &str, schema: Value, columns: &[Value]) -> Vec<Value> {
    let mut versions = vec![json!({"name": VERSION, "served": true, "storage": true,
        "additionalPrinterColumns": columns, "schema": {"openAPIV3Schema": schema}})];
    if kind != "DeviceStatus" {
        let free = |what: &str| {
            json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                "description": format!("{what} of the older version. It is not converted: use {VERSION}.")})
        };
        let mut older = json!({"type": "object", "description": format!("{kind} of an older version: use {VERSION}."),
            "properties": {"spec": free("Fields"), "status": free("Status")}});
        object_fields(&mut older);
        versions.push(json!({"name": "v1alpha2", "served": true, "storage": false, "deprecated": true,
            "deprecationWarning": format!("{GROUP}/v1alpha2 {kind} has no effect: its fields are not converted. Use {GROUP}/{VERSION}."),
            "schema": {"openAPIV3Schema": older}}));
    }
    versions
}

/// What every kind has.
fn object_fields(schema: &mut Value) {
    let fields = [
        ("apiVersion", "string", "Version of the schema of this object: group and version."),
        ("kind", "string", "Kind of this object."),
        ("metadata", "object", "Name, namespace, labels and the like."),
    ];
    for (name, kind, description) in fields {
        let field =
            if kind == "object" { json!({"type": kind}) } else { json!({"type": kind, "description": description}) };
        if let Some(Value::Object(properties)) = schema.get_mut("properties") {
            properties.insert(name.to_owned(), field);
        }
    }
}
