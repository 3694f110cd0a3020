//! emptyDir on disk and in memory, for root and for others; hostPath and claims beside it.

use serde_json::{Value, json};
use skerry_common::kinds;

use super::{Sheet, check, put_data, row};
use crate::node::Node;

#[tokio::test(flavor = "multi_thread")]
async fn empty_dirs_take_files_of_any_mode() {
    let node = Node::start().await;
    let (mut rows, mut volumes) = (Vec::new(), Vec::new());
    for (medium, kind) in [("", "default"), ("Memory", "tmpfs")] {
        for (user, uid) in [("root", 0), ("non-root", 1001)] {
            for mode in ["644", "666", "777"] {
                let volume = format!("{user}-{mode}-{kind}");
                let script = format!(
                    "stat -c 'dir %a' /v; echo content > /v/f; chmod {mode} /v/f; stat -c '%a %u' /v/f; cat /v/f; \
                     grep -q '^tmpfs /v ' /proc/mounts && echo memory || echo disk"
                );
                rows.push(
                    row(volume.clone(), &script)
                        .mount(&volume, "/v")
                        .with("securityContext", json!({ "runAsUser": uid }))
                        .sees("dir 777")
                        .sees(format!("{mode} {uid}"))
                        .sees("content")
                        .sees(if kind == "tmpfs" { "memory" } else { "disk" }),
                );
                volumes.push(json!({ "name": volume, "emptyDir": { "medium": medium } }));
            }
        }
    }
    let (disk, memory) = (rows.split_off(6), rows);
    let sheets = [
        Sheet::new("disk", memory).with("volumes", json!(volumes[..6])),
        Sheet::new("memory", disk).with("volumes", json!(volumes[6..])),
        Sheet::new(
            "shared",
            vec![
                row("writes", "echo hello > /v/f; until [ -e /v/seen ]; do sleep 0.1; done; echo done")
                    .mount("v", "/v")
                    .sees("done"),
                row("reads", "until [ -e /v/f ]; do sleep 0.1; done; cat /v/f; touch /v/seen")
                    .mount("v", "/v")
                    .sees("hello"),
            ],
        )
        .with("volumes", json!([{ "name": "v", "emptyDir": {} }])),
        Sheet::new(
            "group",
            vec![
                row("disk", "stat -c '%a %g' /v; touch /v/f; stat -c %g /v/f")
                    .mount("d", "/v")
                    .sees("2777 2000")
                    .sees("2000"),
                row("memory", "stat -c '%a %g' /v; touch /v/f; stat -c %g /v/f")
                    .mount("m", "/v")
                    .sees("2777 2000")
                    .sees("2000"),
            ],
        )
        .with("volumes", json!([{ "name": "d", "emptyDir": {} }, { "name": "m", "emptyDir": { "medium": "Memory" } }]))
        .with("securityContext", json!({ "runAsUser": 1000, "fsGroup": 2000 })),
        Sheet::new(
            "limited",
            vec![
                row("a size limit in memory", "df -k /v | tail -n 1 | awk '{print \"size \" $2}'")
                    .mount("v", "/v")
                    .sees("size 1024"),
            ],
        )
        .with("volumes", json!([{ "name": "v", "emptyDir": { "medium": "Memory", "sizeLimit": "1Mi" } }])),
    ];
    check(&node, &sheets).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_volumes_in_one_pod_do_not_meet() {
    const MAPS: usize = 50;
    let node = Node::start().await;
    put_data(&node, kinds::SECRET, "s", &[("data", "of-the-secret\n")]);
    let (mut volumes, mut all) =
        (vec![json!({ "name": "s", "secret": { "secretName": "s" } })], row("many", "cat /*v*/data"));
    all = all.mount("s", "/v-s").sees("of-the-secret");
    for index in 0..MAPS {
        let name = format!("cm-{index}");
        put_data(&node, kinds::CONFIG_MAP, &name, &[("data", &format!("of {index}\n"))]);
        volumes.push(json!({ "name": name, "configMap": { "name": name } }));
        all = all.mount(&name, &format!("/v-{index}")).sees(format!("of {index}"));
    }
    check(&node, &[Sheet::new("many", vec![all]).with("volumes", json!(volumes))]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_of_the_machine_are_mounted_or_refused() {
    let node = Node::start().await;
    let base = node.containerd.dir().join("host");
    std::fs::create_dir_all(base.join("dir")).unwrap();
    std::fs::write(base.join("dir/file"), "of the host\n").unwrap();
    let path = |name: &str| base.join(name).display().to_string();
    let claim = |volume: &str| json!({ "metadata": { "uid": volume }, "spec": { "volumeName": volume } });
    let affinity = |name: &str| json!({ "required": { "nodeSelectorTerms": [{ "matchFields": [{ "key": "metadata.name", "operator": "In", "values": [name] }] }] } });
    node.hub.put(kinds::NODE, "", &node.name, json!({ "metadata": { "labels": {} } }));
    let local = |name: &str| json!({ "spec": { "local": { "path": path("dir") }, "nodeAffinity": affinity(name) } });
    node.hub.put(kinds::PERSISTENT_VOLUME, "", "local", local(&node.name));
    node.hub.put(kinds::PERSISTENT_VOLUME, "", "elsewhere", local("another"));
    let mut block = local(&node.name);
    block["spec"]["volumeMode"] = "Block".into();
    node.hub.put(kinds::PERSISTENT_VOLUME, "", "block", block);
    for name in ["local", "elsewhere", "block"] {
        node.hub.put(kinds::PERSISTENT_VOLUME_CLAIM, "test", name, claim(name));
    }
    node.hub.put(kinds::PERSISTENT_VOLUME_CLAIM, "test", "late", json!({ "spec": {} }));
    let mut own = claim("local");
    own["metadata"]["ownerReferences"] =
        json!([{ "apiVersion": "v1", "kind": "Pod", "name": "works", "uid": "works", "controller": true }]);
    node.hub.put(kinds::PERSISTENT_VOLUME_CLAIM, "test", "works-own", own);
    let by_claim = |name: &str| json!({ "name": "v", "persistentVolumeClaim": { "claimName": name } });
    let volumes = json!([
        { "name": "host", "hostPath": { "path": path("dir"), "type": "Directory" } },
        { "name": "made", "hostPath": { "path": path("made"), "type": "DirectoryOrCreate" } },
        by_claim("local"),
        { "name": "read", "persistentVolumeClaim": { "claimName": "local", "readOnly": true } },
        { "name": "own", "ephemeral": { "volumeClaimTemplate": { "spec": {} } } },
    ]);
    let works = Sheet::new(
        "works",
        vec![
            row("hostPath", "cat /v/file").mount("host", "/v").sees("of the host"),
            row("made", "echo x > /v/x; cat /v/x").mount("made", "/v").sees("x"),
            row("claim", "cat /v/file; touch /v/written && echo written")
                .mount("v", "/v")
                .sees("of the host")
                .sees("written"),
            row("read-only claim", "touch /v/refused || echo refused").mount("read", "/v").sees("refused"),
            row("ephemeral claim", "cat /v/file").mount("own", "/v").sees("of the host"),
        ],
    )
    .with("volumes", volumes);
    let refused = |name, volume: Value| {
        Sheet::new(name, vec![row("refused", "echo ran").mount("v", "/v")]).with("volumes", json!([volume]))
    };
    let host = |name: &str, kind: &str| json!({ "name": "v", "hostPath": { "path": path(name), "type": kind } });
    let cases = [
        ("no-directory", host("dir/file", "Directory"), "hostPath type check failed"),
        ("no-file", host("dir", "File"), "is not a file"),
        ("no-socket", host("dir/file", "Socket"), "is not a socket file"),
        ("elsewhere", by_claim("elsewhere"), "no matching NodeSelectorTerms"),
        ("block", by_claim("block"), "volumeMode Block"),
        ("gone", by_claim("gone"), "persistentvolumeclaim \"gone\" not found"),
        ("late", by_claim("late"), "PVC is not bound"),
        (
            "nfs",
            json!({ "name": "v", "nfs": { "server": "s", "path": "/" } }),
            "volumes of the type \"nfs\" are not supported",
        ),
        ("csi", json!({ "name": "v", "csi": { "driver": "d" } }), "volumes of the type \"csi\" are not supported"),
        (
            "image",
            json!({ "name": "v", "image": { "reference": "x" } }),
            "volumes of the type \"image\" are not supported",
        ),
    ];
    for (name, volume, _) in &cases {
        refused(name, volume.clone()).put(&node);
    }
    check(&node, &[works]).await;
    for (name, _, message) in &cases {
        node.until_event(name, "FailedMount", message).await;
    }
    // The claim is bound: the pod that waited for it starts.
    node.hub.put(kinds::PERSISTENT_VOLUME_CLAIM, "test", "late", claim("local"));
    let late = || node.log("late", "late", "c0", 0).contains("ran");
    crate::node::wait("the late claim", late, || format!("{:#?}", node.all_events())).await;
    assert!(base.join("dir/written").exists() && !base.join("dir/refused").exists());
}
