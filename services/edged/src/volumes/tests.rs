//! Volumes on a real filesystem, by tables. As root, because modes, owners and tmpfs matter.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::os::unix::fs::MetadataExt as _;

use proptest::prelude::*;
use serde_json::{Value, json};
use skerry_common::{Key, kinds};

use super::*;
use skerry_hubclient::Change;

struct Fixture {
    dir: tempfile::TempDir,
    objects: Objects,
}

impl Fixture {
    fn new() -> Self {
        let fixture = Self { dir: tempfile::tempdir().unwrap(), objects: Objects::default() };
        fixture.put(kinds::CONFIG_MAP, "cm", &json!({"data": {"a": "1", "b": "2"}, "binaryData": {"c": "AAE="}}));
        fixture.put(kinds::SECRET, "s", &json!({"data": {"k": "dg=="}}));
        for kind in [kinds::CONFIG_MAP, kinds::SECRET, kinds::SERVICE_ACCOUNT_TOKEN] {
            fixture.objects.apply(Change::InSync { kind }).unwrap();
        }
        fixture
    }

    fn put(&self, kind: &'static str, name: &str, body: &Value) {
        let key = Key::new("ns", name);
        self.objects.apply(Change::Upsert { kind, key, body: body.to_string().into() }).unwrap();
    }

    fn prepare(&self, volume: &Value) -> Result<PathBuf, Problem> {
        self.prepare_in(volume, &json!({}))
    }

    fn prepare_in(&self, volume: &Value, security: &Value) -> Result<PathBuf, Problem> {
        self.prepare_as("u", volume, security)
    }

    fn prepare_as(&self, uid: &str, volume: &Value, security: &Value) -> Result<PathBuf, Problem> {
        let mut volume = volume.clone();
        volume["name"] = "v".into();
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": uid, "labels": {"l": "x"}},
            "spec": {"containers": [{"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}], "volumes": [volume], "securityContext": security}
        }))
        .unwrap();
        let dir = PodDir::new(self.dir.path(), uid);
        prepare(&pod, &dir, &self.objects, &Facts::default())?;
        Ok(locate(&pod, &pod.spec().volumes.as_ref().unwrap()[0], &dir, &self.objects)
            .unwrap_or_else(|_| panic!())
            .path)
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = mounts::unmount_below(&[self.dir.path()]);
    }
}

fn read(path: &Path, name: &str) -> String {
    fs::read_to_string(path.join(name)).unwrap_or_else(|e| format!("<{e}>"))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn config_maps_show_all_keys_or_the_items() {
    let fixture = Fixture::new();
    let path = fixture.prepare(&json!({"configMap": {"name": "cm"}})).unwrap();
    assert_eq!((read(&path, "a").as_str(), read(&path, "b").as_str()), ("1", "2"));
    assert_eq!(fs::read(path.join("c")).unwrap(), [0, 1]);
    assert_eq!(mode(&path.join("a")), 0o644);
    let items =
        json!({"configMap": {"name": "cm", "defaultMode": 256, "items": [{"key": "a", "path": "x/y", "mode": 511}]}});
    let path = fixture.prepare(&items).unwrap();
    assert_eq!(read(&path, "x/y"), "1");
    assert_eq!(mode(&path.join("x/y")), 0o777);
    assert!(!path.join("a").exists() && fs::symlink_metadata(path.join("a")).is_err());
}

#[test]
fn an_update_swaps_the_data_link_and_equal_content_does_not() {
    let fixture = Fixture::new();
    let volume = json!({"configMap": {"name": "cm"}});
    let path = fixture.prepare(&volume).unwrap();
    let first = fs::read_link(path.join("..data")).unwrap();
    fixture.prepare(&volume).unwrap();
    assert_eq!(fs::read_link(path.join("..data")).unwrap(), first);
    fixture.put(kinds::CONFIG_MAP, "cm", &json!({"data": {"b": "3"}}));
    fixture.prepare(&volume).unwrap();
    assert_ne!(fs::read_link(path.join("..data")).unwrap(), first);
    assert_eq!(read(&path, "b"), "3");
    assert!(fs::symlink_metadata(path.join("a")).is_err());
    assert_eq!(fs::read_dir(&path).unwrap().count(), 3, "one directory, the link and one name");
}

#[test]
fn secrets_live_in_memory() {
    let fixture = Fixture::new();
    let path = fixture.prepare(&json!({"secret": {"secretName": "s", "defaultMode": 256}})).unwrap();
    assert_eq!(read(&path, "k"), "v");
    assert_eq!(mode(&path.join("k")), 0o400);
    let memory = fixture.dir.path().join("memory");
    assert!(path.starts_with(&memory) && mounts::points().unwrap().contains(&memory));
}

#[test]
fn what_is_missing_is_said_unless_it_is_optional() {
    let fixture = Fixture::new();
    let prefix = "MountVolume.SetUp failed for volume \"v\" : ";
    for (volume, want) in [
        (json!({"configMap": {"name": "x"}}), "configmap \"x\" not found"),
        (json!({"secret": {"secretName": "x"}}), "secret \"x\" not found"),
        (
            json!({"configMap": {"name": "cm", "items": [{"key": "z", "path": "z"}]}}),
            "configmap references non-existent configmap key: z",
        ),
        (json!({"nfs": {"path": "/", "server": "x"}}), "volumes of the type \"nfs\" are not supported on an edge node"),
    ] {
        assert_eq!(fixture.prepare(&volume), Err(Problem::Config(format!("{prefix}{want}"))));
    }
    for volume in [
        json!({"configMap": {"name": "x", "optional": true}}),
        json!({"secret": {"secretName": "x", "optional": true}}),
        json!({"configMap": {"name": "cm", "optional": true, "items": [{"key": "z", "path": "z"}]}}),
    ] {
        let path = fixture.prepare(&volume).unwrap();
        assert!(path.is_dir());
    }
}

#[test]
fn names_that_leave_the_volume_are_refused() {
    let fixture = Fixture::new();
    fixture.put(kinds::CONFIG_MAP, "evil", &json!({"data": {"../x": "1"}}));
    assert!(fixture.prepare(&json!({"configMap": {"name": "evil"}})).is_err());
    for path in ["../x", "/x", "a/../../x", "..x", "a//b", "", "."] {
        let volume = json!({"configMap": {"name": "cm", "items": [{"key": "a", "path": path}]}});
        assert!(fixture.prepare(&volume).is_err(), "{path:?}");
    }
    assert!(!fixture.dir.path().join("pods/u/volumes/kubernetes.io~configmap/x").exists());
}

#[test]
fn a_projection_joins_its_sources() {
    let fixture = Fixture::new();
    fixture.put(
        kinds::SERVICE_ACCOUNT_TOKEN,
        "t",
        &json!({"pod": "p", "podUid": "u", "audience": "", "token": "jwt", "expirationTimestamp": "2030-01-01T00:00:00Z"}),
    );
    let volume = json!({"projected": {"sources": [
        {"serviceAccountToken": {"path": "token"}},
        {"configMap": {"name": "cm", "items": [{"key": "a", "path": "ca.crt"}]}},
        {"secret": {"name": "s"}},
        {"downwardAPI": {"items": [
            {"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}},
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}
        ]}}
    ]}});
    let path = fixture.prepare(&volume).unwrap();
    let got: Vec<String> = ["token", "ca.crt", "k", "namespace", "labels"].iter().map(|n| read(&path, n)).collect();
    assert_eq!(got, ["jwt", "1", "v", "ns", "l=\"x\""]);
    let path = fixture.prepare_in(&volume, &json!({"runAsUser": 1000})).unwrap();
    assert_eq!((mode(&path.join("token")), fs::metadata(path.join("token")).unwrap().uid()), (0o600, 1000));
    let path = fixture.prepare_in(&volume, &json!({"fsGroup": 2000, "runAsUser": 1000})).unwrap();
    assert_eq!((mode(&path.join("token")), fs::metadata(path.join("token")).unwrap().gid()), (0o640, 2000));
}

#[test]
fn empty_dirs_are_writable_and_keep_their_content() {
    let fixture = Fixture::new();
    let path = fixture.prepare(&json!({"emptyDir": {}})).unwrap();
    assert_eq!(mode(&path), 0o777);
    fs::write(path.join("x"), "1").unwrap();
    fixture.prepare(&json!({"emptyDir": {}})).unwrap();
    assert_eq!(read(&path, "x"), "1");
}

#[test]
fn an_empty_dir_in_memory_is_a_tmpfs_and_goes_away() {
    let fixture = Fixture::new();
    let volume = json!({"emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}});
    let path = fixture.prepare(&volume).unwrap();
    fixture.prepare(&volume).unwrap();
    assert_eq!(mounts::points().unwrap().iter().filter(|p| **p == path).count(), 1);
    assert!(fs::write(path.join("big"), vec![0; 2 << 20]).is_err());
    clean_up(&PodDir::new(fixture.dir.path(), "u")).unwrap();
    assert!(!path.exists());
    clean_up(&PodDir::new(fixture.dir.path(), "u")).unwrap();
}

#[test]
fn secrets_of_all_pods_lie_on_one_tmpfs_and_go_with_their_pod() {
    let fixture = Fixture::new();
    fixture.put(kinds::SECRET, "s", &json!({"data": {"a": "eA=="}}));
    let volume = json!({"secret": {"secretName": "s"}});
    let prepare = |uid: &str| fixture.prepare_as(uid, &volume, &json!({})).unwrap();
    // At once, because each of them may be the first.
    let all: Vec<PathBuf> = std::thread::scope(|scope| {
        let prepare = &prepare;
        let threads: Vec<_> = (0..8).map(|n| scope.spawn(move || prepare(&format!("u{n}")))).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(all.iter().all(|path| read(path, "a") == "x"));
    let mounted =
        || mounts::points().unwrap().into_iter().filter(|p| p.starts_with(fixture.dir.path())).collect::<Vec<_>>();
    assert_eq!(mounted(), [fixture.dir.path().join("memory")]);
    assert_eq!(mode(&fixture.dir.path().join("memory")), 0o750);
    clean_up(&PodDir::new(fixture.dir.path(), "u0")).unwrap();
    assert!(!all[0].exists() && read(&all[1], "a") == "x");
    assert_eq!(fs::read_dir(fixture.dir.path().join("memory")).unwrap().count(), 7);
}

#[test]
fn host_paths_are_what_their_type_says() {
    let fixture = Fixture::new();
    let base = fixture.dir.path().join("host");
    fs::create_dir(&base).unwrap();
    fs::write(base.join("file"), "").unwrap();
    for (name, kind, ok) in [
        ("", "", true),
        ("none", "", true),
        ("", "Directory", true),
        ("file", "Directory", false),
        ("none", "Directory", false),
        ("made", "DirectoryOrCreate", true),
        ("file", "File", true),
        ("", "File", false),
        ("touched", "FileOrCreate", true),
        ("file", "Socket", false),
        ("file", "Nonsense", false),
    ] {
        let volume = json!({"hostPath": {"path": base.join(name), "type": kind}});
        assert_eq!(fixture.prepare(&volume).is_ok(), ok, "{name} {kind}");
    }
    assert!(base.join("made").is_dir() && base.join("touched").is_file());
    assert!(fixture.prepare(&json!({"hostPath": {"path": "/a/../b"}})).is_err());
    assert!(fixture.prepare(&json!({"hostPath": {"path": "relative"}})).is_err());
}

#[test]
fn a_volume_that_nobody_mounts_is_not_set_up_and_a_bad_one_stops_no_other() {
    let fixture = Fixture::new();
    let volumes = json!([
        {"name": "unused", "configMap": {"name": "gone"}},
        {"name": "bad", "configMap": {"name": "gone"}},
        {"name": "good", "configMap": {"name": "cm"}}
    ]);
    let pod = |mounted: &[&str]| -> Pod {
        let mounts: Vec<Value> = mounted.iter().map(|m| json!({"name": m, "mountPath": "/v"})).collect();
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {"containers": [{"name": "c", "volumeMounts": mounts}], "volumes": volumes}
        }))
        .unwrap()
    };
    let dir = PodDir::new(fixture.dir.path(), "u");
    let run = |mounted: &[&str]| prepare(&pod(mounted), &dir, &fixture.objects, &Facts::default());
    assert_eq!(run(&["good"]), Ok(()));
    fixture.put(kinds::CONFIG_MAP, "cm", &json!({"data": {"a": "changed"}}));
    assert!(run(&["bad", "good"]).is_err());
    assert_eq!(read(&dir.volume("configmap", "good"), "a"), "changed");
}

proptest! {
    #[test]
    fn no_safe_path_leaves_the_directory(path in "[./a\\x00]{0,12}") {
        if payload::path_is_safe(&path) {
            let mut depth = 0_i32;
            for part in Path::new(&path).components() {
                depth += if part == std::path::Component::ParentDir { -1 } else { 1 };
                prop_assert!(depth > 0 && !matches!(part, std::path::Component::RootDir));
            }
        }
    }
}
