//! Files from objects: configMap, secret, downwardAPI and projected volumes, with keys, modes and owners.

use serde_json::{Value, json};
use skerry_common::kinds;

use super::{Row, Sheet, allocatable, bytes, check, put_data, put_data_in, row};
use crate::node::Node;

/// Where the files of a volume come from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source {
    ConfigMap,
    Secret,
    ProjectedConfigMap,
    ProjectedSecret,
}

impl Source {
    /// All, each with a name for its pod.
    pub(super) const ALL: [(Self, &str); 4] = [
        (Self::ConfigMap, "config-map"),
        (Self::Secret, "secret"),
        (Self::ProjectedConfigMap, "projected-config-map"),
        (Self::ProjectedSecret, "projected-secret"),
    ];

    /// A volume of the object `object`. `inner` is for the source, `mode` for the volume.
    pub(super) fn volume(self, name: &str, object: &str, inner: Value, mode: Option<u32>) -> Value {
        let mut source = inner;
        let naming = if matches!(self, Self::Secret) { "secretName" } else { "name" };
        source[naming] = object.into();
        let (kind, mut source) = match self {
            Self::ConfigMap => ("configMap", source),
            Self::Secret => ("secret", source),
            Self::ProjectedConfigMap => ("projected", json!({ "sources": [{ "configMap": source }] })),
            Self::ProjectedSecret => ("projected", json!({ "sources": [{ "secret": source }] })),
        };
        if let Some(mode) = mode {
            source["defaultMode"] = mode.into();
        }
        json!({ "name": name, kind: source })
    }
}

/// Prints mode and owner of a file, and the file.
fn show(path: &str) -> String {
    format!("stat -L -c '%a %u %g' {path}; cat {path}")
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_shown_as_files() {
    let node = Node::start().await;
    for kind in [kinds::CONFIG_MAP, kinds::SECRET] {
        put_data(&node, kind, "o", &[("data-1", "value-1\n"), ("data-2", "value-2\n")]);
        put_data_in(&node, kind, "other", "o", &[("data-1", "of another namespace\n")]);
    }
    let user = json!({ "runAsUser": 1000 });
    let items = json!({ "items": [{ "key": "data-2", "path": "path/to/data-2" }] });
    let items_with_mode = json!({ "items": [{ "key": "data-2", "path": "path/to/data-2", "mode": 0o400 }] });
    let mut sheets = Vec::new();
    for (source, name) in Source::ALL {
        let rows = vec![
            row("all keys", &(show("/v/data-1") + "; ls /v"))
                .mount("all", "/v")
                .sees("644 0 0")
                .sees("value-1")
                .sees("data-2"),
            row("as non-root", &show("/v/data-1"))
                .mount("all", "/v")
                .with("securityContext", user.clone())
                .sees("value-1"),
            row("defaultMode", &show("/v/data-1")).mount("mode", "/v").sees("400 0 0").sees("value-1"),
            row("mappings", &(show("/v/path/to/data-2") + "; ls /v")).mount("items", "/v").sees("value-2").sees("path"),
            row("mappings as non-root", &show("/v/path/to/data-2"))
                .mount("items", "/v")
                .with("securityContext", user.clone())
                .sees("value-2"),
            row("mappings with a mode", &show("/v/path/to/data-2"))
                .mount("item-mode", "/v")
                .sees("400 0 0")
                .sees("value-2"),
            row("two volumes of one object", "cat /a/data-1 /b/path/to/data-2")
                .mount("all", "/a")
                .mount("items", "/b")
                .sees("value-1")
                .sees("value-2"),
            row("nobody writes there", "echo x > /v/data-1 || echo refused").mount("all", "/v").sees("refused"),
        ];
        let volumes = json!([
            source.volume("all", "o", json!({}), None),
            source.volume("mode", "o", json!({}), Some(0o400)),
            source.volume("items", "o", items.clone(), None),
            source.volume("item-mode", "o", items_with_mode.clone(), None),
        ]);
        sheets.push(Sheet::new(name, rows).with("volumes", volumes));
    }
    for (source, name) in [(Source::Secret, "group-secret"), (Source::ProjectedSecret, "group-projected")] {
        let rows = vec![
            row("non-root with defaultMode and fsGroup", &show("/v/data-1"))
                .mount("v", "/v")
                .sees("440 0 1001")
                .sees("value-1"),
        ];
        sheets.push(
            Sheet::new(name, rows)
                .with("volumes", json!([source.volume("v", "o", json!({}), Some(0o440))]))
                .with("securityContext", json!({ "runAsUser": 1000, "fsGroup": 1001 })),
        );
    }
    let binary = json!({ "data": { "text": "t" }, "binaryData": { "dump.bin": "3q2+7w==" } });
    node.hub.put(kinds::CONFIG_MAP, "test", "binary", binary);
    sheets.push(
        Sheet::new(
            "binary",
            vec![row("binary data", "od -An -t x1 /v/dump.bin").mount("v", "/v").sees(" de ad be ef")],
        )
        .with("volumes", json!([Source::ConfigMap.volume("v", "binary", json!({}), None)])),
    );
    check(&node, &sheets).await;
}

fn field(path: &str, field: &str, mode: Option<u32>) -> Value {
    json!({ "path": path, "fieldRef": { "fieldPath": field }, "mode": mode })
}

fn resource(path: &str, container: &str, resource: &str) -> Value {
    json!({ "path": path, "resourceFieldRef": { "containerName": container, "resource": resource } })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pod_is_shown_as_files() {
    let node = Node::start().await;
    let allocatable = allocatable(&node).await;
    let items = json!([
        field("podname", "metadata.name", None),
        field("narrow", "metadata.name", Some(0o400)),
        field("labels", "metadata.labels", None),
        field("annotations", "metadata.annotations", None),
        resource("cpu_limit", "c0", "limits.cpu"),
        resource("cpu_request", "c0", "requests.cpu"),
        resource("memory_limit", "c0", "limits.memory"),
        resource("memory_request", "c0", "requests.memory"),
        resource("default_cpu", "c1", "limits.cpu"),
        resource("default_memory", "c1", "limits.memory"),
    ]);
    let limits =
        json!({ "limits": { "cpu": "1250m", "memory": "64Mi" }, "requests": { "cpu": "250m", "memory": "32Mi" } });
    let all = |file: &str| format!("for f in {file}; do echo $f=$(cat /v/$f); done");
    let rows = || -> Vec<Row> {
        vec![
            row("resources", &all("cpu_limit cpu_request memory_limit memory_request"))
                .with("resources", limits.clone())
                .sees("cpu_limit=2")
                .sees("cpu_request=1")
                .sees("memory_limit=67108864")
                .sees("memory_request=33554432"),
            row("defaults of the node", &all("default_cpu default_memory"))
                .sees(format!("default_cpu={}", allocatable["cpu"].as_str().unwrap()))
                .sees(format!("default_memory={}", bytes(&allocatable["memory"]))),
            row("identity", &all("labels annotations"))
                .sees("labels=color=\"red\"")
                .sees("annotations=note=\"a \\\"b\\\"\""),
            row("modes", "stat -L -c %a /v/podname /v/narrow").sees("440").sees("400"),
        ]
        .into_iter()
        .map(|row| row.mount("v", "/v"))
        .collect()
    };
    let of = |name, volume: Value| {
        let rows = rows().into_iter().chain([row("podname", "cat /v/podname").mount("v", "/v").sees(name)]).collect();
        Sheet::new(name, rows)
            .with("volumes", json!([volume]))
            .metadata("labels", json!({ "color": "red" }))
            .metadata("annotations", json!({ "note": "a \"b\"" }))
    };
    let plain = json!({ "name": "v", "downwardAPI": { "items": items, "defaultMode": 0o440 } });
    let projected = json!({ "name": "v", "projected": { "sources": [{ "downwardAPI": { "items": items } }], "defaultMode": 0o440 } });
    check(&node, &[of("downward", plain), of("projected", projected)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_projection_joins_everything() {
    let node = Node::start().await;
    put_data(&node, kinds::CONFIG_MAP, "cm", &[("config", "from-config\n")]);
    put_data(&node, kinds::SECRET, "s", &[("secret", "from-secret\n")]);
    let token = |audience: &str, text: &str| json!({ "pod": "all", "podUid": "all", "audience": audience, "token": text, "expirationTimestamp": "2030-01-01T00:00:00Z" });
    node.hub.put(kinds::SERVICE_ACCOUNT_TOKEN, "test", "all.1", token("", "for-the-api\n"));
    node.hub.put(kinds::SERVICE_ACCOUNT_TOKEN, "test", "all.2", token("vault", "for-the-vault\n"));
    let sources = json!([
        { "configMap": { "name": "cm", "items": [{ "key": "config", "path": "a/config" }] } },
        { "secret": { "name": "s" } },
        { "downwardAPI": { "items": [field("podname", "metadata.name", None)] } },
        { "serviceAccountToken": { "path": "token" } },
        { "serviceAccountToken": { "path": "vault", "audience": "vault" } },
    ]);
    let rows = vec![
        row("all sources", "cat /v/a/config /v/secret /v/podname; echo; cat /v/token /v/vault")
            .mount("v", "/v")
            .sees("from-config")
            .sees("from-secret")
            .sees("all")
            .sees("for-the-api")
            .sees("for-the-vault"),
        row("the token is the user's own", "stat -L -c '%a %u' /v/token").mount("v", "/v").sees("600 1000"),
    ];
    let all = Sheet::new("all", rows)
        .with("volumes", json!([{ "name": "v", "projected": { "sources": sources } }]))
        .with("securityContext", json!({ "runAsUser": 1000 }));
    let bundle = json!({ "clusterTrustBundle": { "name": "b", "path": "b.pem" } });
    let unsupported = Sheet::new("bundle", vec![row("refused", "echo ran").mount("v", "/v")])
        .with("volumes", json!([{ "name": "v", "projected": { "sources": [bundle] } }]));
    unsupported.put(&node);
    check(&node, &[all]).await;
    node.until_event("bundle", "FailedMount", "clusterTrustBundle projections are not supported").await;
}
