//! Variables: from objects, from the pod and its resources, from services, and composed ones.

use serde_json::{Value, json};
use skerry_common::kinds;

use super::{Sheet, allocatable, bytes, check, put_data, row};
use crate::node::{Node, wait};

fn field(name: &str, path: &str) -> Value {
    json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } })
}

fn resource(name: &str, resource: &str) -> Value {
    json!({ "name": name, "valueFrom": { "resourceFieldRef": { "resource": resource } } })
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_come_from_objects() {
    let node = Node::start().await;
    put_data(&node, kinds::CONFIG_MAP, "cm", &[("data_1", "value-1"), ("data_2", "value-2"), ("with space", "odd")]);
    put_data(&node, kinds::SECRET, "s", &[("data_1", "secret-1"), ("data_2", "secret-2")]);
    let from = |source: &str, name: &str, prefix: &str| json!({ "prefix": prefix, source: { "name": name } });
    let key = |source: &str, name: &str| json!([{ "name": "KEY", "valueFrom": { source: { "name": name, "key": "data_1" } } }]);
    // Not through a shell, which keeps only names that it could use itself.
    let all = |name: &str| row(name, "").with("command", json!(["/bin/env"]));
    let rows = vec![
        row("ConfigMap, one key", "echo KEY=$KEY").with("env", key("configMapKeyRef", "cm")).sees("KEY=value-1"),
        all("ConfigMap, all keys")
            .with("envFrom", json!([from("configMapRef", "cm", "")]))
            .sees("data_1=value-1")
            .sees("data_2=value-2")
            .sees("with space=odd"),
        all("ConfigMap, with prefixes")
            .with("envFrom", json!([from("configMapRef", "cm", "p-"), from("configMapRef", "cm", "#$_@/")]))
            .sees("p-data_1=value-1")
            .sees("#$_@/data_2=value-2"),
        row("Secret, one key", "echo KEY=$KEY").with("env", key("secretKeyRef", "s")).sees("KEY=secret-1"),
        all("Secret, all keys").with("envFrom", json!([from("secretRef", "s", "")])).sees("data_2=secret-2"),
        all("Secret, with prefixes")
            .with("envFrom", json!([from("secretRef", "s", "p-"), from("secretRef", "s", "q_")]))
            .sees("p-data_1=secret-1")
            .sees("q_data_2=secret-2"),
        row("the later source wins", "echo $data_1")
            .with("envFrom", json!([from("configMapRef", "cm", ""), from("secretRef", "s", "")]))
            .sees("secret-1"),
        row("optional and missing", "echo \"<$KEY>\"")
            .with("env", json!([{ "name": "KEY", "valueFrom": { "secretKeyRef": { "name": "none", "key": "k", "optional": true } } }]))
            .sees("<>"),
    ];
    check(&node, &[Sheet::new("objects", rows)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_come_from_the_pod_and_the_node() {
    let node = Node::start().await;
    let allocatable = allocatable(&node).await;
    let limits =
        json!({ "limits": { "cpu": "1250m", "memory": "64Mi" }, "requests": { "cpu": "250m", "memory": "32Mi" } });
    let resources = json!([
        resource("LC", "limits.cpu"),
        resource("LM", "limits.memory"),
        resource("RC", "requests.cpu"),
        resource("RM", "requests.memory"),
        { "name": "MILLI", "valueFrom": { "resourceFieldRef": { "resource": "limits.cpu", "divisor": "1m" } } },
        { "name": "MI", "valueFrom": { "resourceFieldRef": { "resource": "limits.memory", "divisor": "1Mi" } } },
    ]);
    let memory = bytes(&allocatable["memory"]);
    let identity = json!([
        field("NAME", "metadata.name"),
        field("NAMESPACE", "metadata.namespace"),
        field("UID", "metadata.uid"),
        field("POD_IP", "status.podIP"),
        field("HOST_IP", "status.hostIP"),
        field("HOST_IPS", "status.hostIPs"),
        field("NODE", "spec.nodeName"),
        field("LABEL", "metadata.labels['color']"),
    ]);
    let print = "echo \"$NAME $NAMESPACE $UID $NODE $LABEL\"; echo \"ip $POD_IP\"; echo \"host $HOST_IP $HOST_IPS\"";
    let sheet = Sheet::new(
        "fields",
        vec![
            row("limits and requests", "echo $LC $LM $RC $RM; echo $MILLI $MI")
                .with("resources", limits)
                .with("env", resources.clone())
                .sees("2 67108864 1 33554432")
                .sees("1250 64"),
            row("defaults of the node", "echo $LC $LM")
                .with("env", resources)
                .sees(format!("{} {memory}", allocatable["cpu"].as_str().unwrap())),
            row("identity", print).with("env", identity).sees(format!("fields test fields {} red", node.name)),
        ],
    )
    .metadata("labels", json!({ "color": "red" }));
    check(&node, std::slice::from_ref(&sheet)).await;
    let status = node.status("fields");
    let (ip, host) = (status["podIP"].as_str().unwrap(), status["hostIP"].as_str().unwrap());
    assert_eq!(status["hostIPs"][0]["ip"], host, "pods get a host IP");
    let output = sheet.output(&node, 2);
    assert!(output.contains(&format!("ip {ip}\n")), "{output}");
    let hosts: Vec<&str> = status["hostIPs"].as_array().unwrap().iter().map(|h| h["ip"].as_str().unwrap()).collect();
    assert!(output.contains(&format!("host {host} {}\n", hosts.join(","))), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_name_the_services() {
    let node = Node::start().await;
    let service = |ip: &str, port: u16| json!({ "spec": { "clusterIP": ip, "ports": [{ "name": "web", "port": port, "protocol": "TCP" }] } });
    node.hub.put(kinds::SERVICE, "test", "foo-service", service("10.0.0.7", 8765));
    node.hub.put(kinds::SERVICE, "other", "hidden", service("10.0.0.8", 80));
    node.hub.put(kinds::SERVICE, "default", "kubernetes", service("10.0.0.1", 443));
    let print = "env | sort";
    let seen = row("services of the namespace and the API", print)
        .sees("FOO_SERVICE_SERVICE_HOST=10.0.0.7")
        .sees("FOO_SERVICE_SERVICE_PORT=8765")
        .sees("FOO_SERVICE_SERVICE_PORT_WEB=8765")
        .sees("FOO_SERVICE_PORT=tcp://10.0.0.7:8765")
        .sees("FOO_SERVICE_PORT_8765_TCP=tcp://10.0.0.7:8765")
        .sees("FOO_SERVICE_PORT_8765_TCP_PROTO=tcp")
        .sees("FOO_SERVICE_PORT_8765_TCP_PORT=8765")
        .sees("FOO_SERVICE_PORT_8765_TCP_ADDR=10.0.0.7")
        .sees("KUBERNETES_SERVICE_HOST=10.0.0.1");
    let without = row("without links", print).sees("KUBERNETES_SERVICE_PORT=443");
    let sheets = [
        Sheet::new("links", vec![seen]),
        Sheet::new("no-links", vec![without]).with("enableServiceLinks", json!(false)),
    ];
    check(&node, &sheets).await;
    assert!(!sheets[0].output(&node, 0).contains("HIDDEN"));
    assert!(!sheets[1].output(&node, 0).contains("FOO_SERVICE"));
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_expand() {
    let node = Node::start().await;
    let env = json!([
        { "name": "FOO", "value": "foo-value" },
        { "name": "BAR", "value": "bar-value" },
        { "name": "FOOBAR", "value": "$(FOO);;$(BAR)" },
        { "name": "LITERAL", "value": "$$(FOO) $(NONE)" },
    ]);
    let print = |name, command: &[&str]| row(name, "").with("command", json!(command)).with("env", env.clone());
    let rows = vec![
        row("in variables", "echo \"$FOOBAR\"; echo \"$LITERAL\"")
            .with("env", env.clone())
            .sees("foo-value;;bar-value")
            .sees("$(FOO) $(NONE)"),
        print("in the command", &["/bin/sh", "-c", "A=wrong echo $(FOO)"]).sees("foo-value"),
        print("in the arguments", &["/bin/echo"]).with("args", json!(["$(FOO)", "$$(FOO)"])).sees("foo-value $(FOO)"),
    ];
    check(&node, &[Sheet::new("expansion", rows)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sub_path_expressions_expand_or_are_refused() {
    let node = Node::start().await;
    let volumes = json!([{ "name": "v", "emptyDir": {} }]);
    let mount = |path: &str, expression: &str| json!({ "name": "v", "mountPath": path, "subPathExpr": expression });
    let pod_name = json!([field("POD_NAME", "metadata.name")]);
    let writes = Sheet::new(
        "writes",
        vec![
            row("a part named by a variable", "echo test > /part/log; cat /all/dir-writes/log; ls /all")
                .with("env", pod_name)
                .mount_with(mount("/part", "dir-$(POD_NAME)"))
                .mount("v", "/all")
                .sees("test")
                .sees("dir-writes"),
        ],
    )
    .with("volumes", volumes.clone());
    let refused = |name, value: &str| {
        Sheet::new(
            name,
            vec![
                row("refused", "echo ran")
                    .with("env", json!([{ "name": "POD_NAME", "value": value }]))
                    .mount_with(mount("/part", "$(POD_NAME)")),
            ],
        )
        .with("volumes", volumes.clone())
    };
    let (up, absolute) = (refused("up", ".."), refused("absolute", "/tmp"));
    // Names an annotation that comes later: an update of the pod mends it.
    let annotation =
        json!([{ "name": "PART", "valueFrom": { "fieldRef": { "fieldPath": "metadata.annotations['part']" } } }]);
    let mended = || {
        Sheet::new(
            "mended",
            vec![
                row("starts when the annotation comes", "echo ran; ls /all")
                    .with("env", annotation.clone())
                    .mount_with(mount("/part", "$(PART)/x"))
                    .mount("v", "/all")
                    .sees("ran")
                    .sees("mine"),
            ],
        )
        .with("volumes", volumes.clone())
    };
    for sheet in [&writes, &up, &absolute, &mended()] {
        sheet.put(&node);
    }
    for name in ["up", "absolute", "mended"] {
        let reason = |s: &Value| s["containerStatuses"][0]["state"]["waiting"]["reason"].clone();
        node.until(name, "refusal", |s| reason(s) == "CreateContainerConfigError").await;
        node.until_event(name, "Failed", "failed to prepare subPath for volumeMount \"v\"").await;
    }
    super::finish(&node, &[writes]).await;
    let mended = mended().metadata("annotations", json!({ "part": "mine" }));
    check(&node, &[mended]).await;
    wait("nothing", || node.log("up", "up", "c0", 0).is_empty(), String::new).await;
}
