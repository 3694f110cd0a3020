//! Files follow their objects while the pod runs.

use serde_json::{Value, json};
use skerry_common::kinds;

use super::files::Source;
use super::{Sheet, finish, put_data, row};
use crate::node::{Node, wait};

/// Waits until a file holds a text; an empty text means that there is no file.
fn until(path: &str, text: &str) -> String {
    let done = if text.is_empty() {
        format!("[ ! -e {path} ]")
    } else {
        format!("[ \"$(cat {path} 2>/dev/null)\" = '{text}' ]")
    };
    format!("echo started; until {done}; do sleep 0.1; done; echo updated")
}

#[tokio::test(flavor = "multi_thread")]
async fn files_follow_their_objects() {
    let node = Node::start().await;
    for kind in [kinds::CONFIG_MAP, kinds::SECRET] {
        put_data(&node, kind, "changed", &[("key", "one")]);
        put_data(&node, kind, "deleted", &[("key", "one")]);
    }
    let token = |text: &str, expires: &str| json!({ "pod": "tokens", "podUid": "tokens", "audience": "", "token": text, "expirationTimestamp": expires });
    node.hub.put(kinds::SERVICE_ACCOUNT_TOKEN, "test", "tokens.1", token("one", "2030-01-01T00:00:00Z"));
    let optional = || json!({ "optional": true });
    let mut sheets = Vec::new();
    for (source, name) in Source::ALL {
        let rows = vec![
            row("changed", &until("/v/key", "two")).mount("changed", "/v"),
            row("optional, deleted", &until("/v/key", "")).mount("deleted", "/v"),
            row("optional, created", &until("/v/key", "new")).mount("created", "/v"),
        ];
        let rows = rows.into_iter().map(|row| row.sees("updated")).collect();
        let volumes = json!([
            source.volume("changed", "changed", json!({}), None),
            source.volume("deleted", "deleted", optional(), None),
            source.volume("created", "created", optional(), None),
        ]);
        sheets.push(Sheet::new(name, rows).with("volumes", volumes));
    }
    let items = json!({ "items": [
        { "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } },
        { "path": "annotations", "fieldRef": { "fieldPath": "metadata.annotations" } },
    ]});
    for (name, volume) in [
        ("downward", json!({ "name": "v", "downwardAPI": items })),
        ("projected-downward", json!({ "name": "v", "projected": { "sources": [{ "downwardAPI": items }] } })),
    ] {
        let rows = vec![
            row("labels", &until("/v/labels", "key=\"two\"")).mount("v", "/v").sees("updated"),
            row("annotations", &until("/v/annotations", "note=\"two\"")).mount("v", "/v").sees("updated"),
        ];
        sheets.push(
            Sheet::new(name, rows)
                .with("volumes", json!([volume]))
                .metadata("labels", json!({ "key": "one" }))
                .metadata("annotations", json!({ "note": "one" })),
        );
    }
    let projected =
        json!({ "name": "v", "projected": { "sources": [{ "serviceAccountToken": { "path": "token" } }] } });
    let renewed = row("a renewed token", &until("/v/token", "two")).mount("v", "/v").sees("updated");
    sheets.push(Sheet::new("tokens", vec![renewed]).with("volumes", json!([projected])));

    for sheet in &sheets {
        sheet.put(&node);
    }
    for sheet in &sheets {
        let all = || (0..sheet.len()).all(|i| sheet.output(&node, i).contains("started"));
        wait(sheet.name, all, || format!("{:#}\n{:#?}", node.status(sheet.name), node.all_events())).await;
    }
    for kind in [kinds::CONFIG_MAP, kinds::SECRET] {
        put_data(&node, kind, "changed", &[("key", "two")]);
        put_data(&node, kind, "created", &[("key", "new")]);
        node.hub.delete(kind, "test", "deleted");
    }
    node.hub.put(kinds::SERVICE_ACCOUNT_TOKEN, "test", "tokens.1", token("two", "2031-01-01T00:00:00Z"));
    for name in ["downward", "projected-downward"] {
        let mut pod = node.hub.get(kinds::POD, "test", name).unwrap();
        pod["metadata"]["labels"] = json!({ "key": "two" });
        pod["metadata"]["annotations"] = json!({ "note": "two" });
        node.hub.put(kinds::POD, "test", name, pod);
    }
    finish(&node, &sheets).await;
    let restarts = |s: &Value| s["containerStatuses"].as_array().unwrap().iter().all(|c| c["restartCount"] == 0);
    assert!(sheets.iter().all(|s| restarts(&node.status(s.name))), "an update restarts nothing");
}
