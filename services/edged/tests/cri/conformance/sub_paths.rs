//! subPath of volumes whose files are replaced atomically: it shows what was there at the start.

use serde_json::json;
use skerry_common::kinds;

use super::{Sheet, finish, put_data, row};
use crate::node::{Node, wait};

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_volumes_stay_as_they_were_at_the_start() {
    let node = Node::start().await;
    for kind in [kinds::CONFIG_MAP, kinds::SECRET] {
        put_data(&node, kind, "o", &[("key", "old\n")]);
    }
    let items = json!({ "items": [{ "path": "key", "fieldRef": { "fieldPath": "metadata.labels['key']" } }] });
    let volumes = json!([
        { "name": "config-map", "configMap": { "name": "o" } },
        { "name": "secret", "secret": { "secretName": "o" } },
        { "name": "downward", "downwardAPI": items },
        { "name": "projected", "projected": { "sources": [{ "configMap": { "name": "o" } }] } },
    ]);
    // What it sees at the start, then what it sees when the whole volume has changed.
    let script = |part: &str| {
        format!(
            "echo first $(cat {part}); until [ \"$(cat /all/key)\" = new ]; do sleep 0.1; done; echo then $(cat {part}); \
             touch {part} && echo written"
        )
    };
    let names = ["config-map", "secret", "downward", "projected"];
    let mut rows = Vec::new();
    for (name, path) in names.map(|n| (n, "/part/key")).into_iter().chain([("config-map", "/etc/passwd")]) {
        rows.push(
            row(format!("{name} at {path}"), &script(path))
                .mount(name, "/all")
                .mount_with(json!({ "name": name, "mountPath": path, "subPath": "key" }))
                .sees("first old")
                .sees("then old"),
        );
    }
    let count = rows.len();
    let sheet = |value: &str, rows| {
        Sheet::new("parts", rows).with("volumes", volumes.clone()).metadata("labels", json!({ "key": value }))
    };
    let started = sheet("old", rows);
    started.put(&node);
    let all = || (0..count).all(|i| started.output(&node, i).contains("first"));
    wait("the first look", all, || format!("{:#}\n{:#?}", node.status("parts"), node.all_events())).await;
    for kind in [kinds::CONFIG_MAP, kinds::SECRET] {
        put_data(&node, kind, "o", &[("key", "new\n")]);
    }
    let mut pod = node.hub.get(kinds::POD, "test", "parts").unwrap();
    pod["metadata"]["labels"]["key"] = "new".into();
    node.hub.put(kinds::POD, "test", "parts", pod);
    finish(&node, &[started]).await;
}
