//! The lines of the public conformance list that need only the API: see edged's CONFORMANCE.md.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams,
    WatchEvent, WatchParams,
};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};
use skerry_apiserver::ApiServer;

mod support;

/// Updates of one pod, as many as the list asks for.
const MANY_UPDATES: i64 = 500;

async fn server() -> (ApiServer, Client, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let server = support::build(dir.path()).await;
    let client = Client::new(server.router(), "default");
    (server, client, dir)
}

/// One kind: group, version, kind, plural, namespaced, an object, and a status if it has that subresource.
type Row = (&'static str, &'static str, &'static str, &'static str, bool, Value, Option<Value>);

fn rows() -> Vec<Row> {
    let containers = json!([{"name": "c", "image": "busybox"}]);
    let capacity =
        json!({"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/data"}});
    let claim = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    let attachment = json!({"attacher": "csi.example.com", "nodeName": "n", "source": {"persistentVolumeName": "pv"}});
    let devices = json!({"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "d"}}]}});
    let storage = "storage.k8s.io";
    let resource = "resource.k8s.io";
    vec![
        ("", "v1", "ConfigMap", "configmaps", true, json!({"data": {"a": "b"}}), None),
        ("", "v1", "Secret", "secrets", true, json!({"stringData": {"a": "b"}}), None),
        ("", "v1", "Pod", "pods", true, json!({"spec": {"containers": containers}}), Some(json!({"phase": "Running"}))),
        (
            "",
            "v1",
            "PodTemplate",
            "podtemplates",
            true,
            json!({"template": {"spec": {"containers": containers}}}),
            None,
        ),
        ("", "v1", "Node", "nodes", false, json!({"spec": {"unschedulable": true}}), Some(json!({"phase": "Running"}))),
        (
            "",
            "v1",
            "PersistentVolume",
            "persistentvolumes",
            false,
            json!({"spec": capacity}),
            Some(json!({"phase": "Available"})),
        ),
        (
            "",
            "v1",
            "PersistentVolumeClaim",
            "persistentvolumeclaims",
            true,
            json!({"spec": claim}),
            Some(json!({"phase": "Bound"})),
        ),
        (
            "coordination.k8s.io",
            "v1",
            "Lease",
            "leases",
            true,
            json!({"spec": {"holderIdentity": "me", "leaseDurationSeconds": 30}}),
            None,
        ),
        (
            "node.k8s.io",
            "v1",
            "RuntimeClass",
            "runtimeclasses",
            false,
            json!({"handler": "runc", "overhead": {"podFixed": {"cpu": "10m"}}}),
            None,
        ),
        (storage, "v1", "StorageClass", "storageclasses", false, json!({"provisioner": "csi.example.com"}), None),
        (storage, "v1", "CSIDriver", "csidrivers", false, json!({"spec": {"attachRequired": false}}), None),
        (
            storage,
            "v1",
            "CSINode",
            "csinodes",
            false,
            json!({"spec": {"drivers": [{"name": "csi.example.com", "nodeID": "n"}]}}),
            None,
        ),
        (
            storage,
            "v1",
            "CSIStorageCapacity",
            "csistoragecapacities",
            true,
            json!({"storageClassName": "fast", "capacity": "1Gi"}),
            None,
        ),
        (
            storage,
            "v1",
            "VolumeAttachment",
            "volumeattachments",
            false,
            json!({"spec": attachment}),
            Some(json!({"attached": true})),
        ),
        (
            storage,
            "v1",
            "VolumeAttributesClass",
            "volumeattributesclasses",
            false,
            json!({"driverName": "csi.example.com", "parameters": {"iops": "1"}}),
            None,
        ),
        (resource, "v1", "DeviceClass", "deviceclasses", false, json!({"spec": {"selectors": []}}), None),
        (
            resource,
            "v1",
            "ResourceClaim",
            "resourceclaims",
            true,
            json!({"spec": devices}),
            Some(json!({"reservedFor": []})),
        ),
        (
            resource,
            "v1",
            "ResourceClaimTemplate",
            "resourceclaimtemplates",
            true,
            json!({"spec": {"spec": devices}}),
            None,
        ),
        (
            resource,
            "v1",
            "ResourceSlice",
            "resourceslices",
            false,
            json!({"spec": {"driver": "d", "nodeName": "n", "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}}}),
            None,
        ),
    ]
}

#[tokio::test]
async fn objects_of_every_kind_run_through_their_lifecycle() {
    let (_server, client, _dir) = server().await;
    futures::future::join_all(rows().into_iter().map(|row| lifecycle(client.clone(), row))).await;
}

async fn lifecycle(client: Client, row: Row) {
    let (group, version, kind, plural, namespaced, body, status) = row;
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural);
    let all: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let api = if namespaced { Api::default_namespaced_with(client.clone(), &resource) } else { all.clone() };
    let ours = ListParams::default().labels("run=conformance");
    let object = |name: &str| -> DynamicObject {
        let mut object = body.clone();
        object["apiVersion"] = resource.api_version.clone().into();
        object["kind"] = kind.into();
        object["metadata"] = json!({"name": name, "labels": {"run": "conformance"}});
        serde_json::from_value(object).unwrap()
    };
    let names = async || -> Vec<String> {
        all.list(&ours).await.unwrap().items.iter().map(kube::ResourceExt::name_any).collect()
    };
    let start = api.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let created = api.create(&PostParams::default(), &object("one")).await.unwrap_or_else(|e| panic!("{kind}: {e}"));
    assert!(created.uid().is_some() && created.resource_version().is_some(), "{kind}");
    assert!(api.create(&PostParams::default(), &object("one")).await.is_err(), "{kind}: twice");
    assert_eq!(api.get("one").await.unwrap().uid(), created.uid(), "{kind}");
    assert_eq!(names().await, ["one"], "{kind}");

    let label = Patch::Merge(json!({"metadata": {"labels": {"patched": "yes"}}}));
    let patched = api.patch("one", &PatchParams::default(), &label).await.unwrap();
    assert_eq!(patched.labels()["patched"], "yes", "{kind}");
    let mut replaced = patched.clone();
    replaced.annotations_mut().insert("replaced".into(), "yes".into());
    let replaced =
        api.replace("one", &PostParams::default(), &replaced).await.unwrap_or_else(|e| panic!("{kind}: {e}"));
    assert_eq!(replaced.annotations()["replaced"], "yes", "{kind}");
    assert!(api.replace("one", &PostParams::default(), &patched).await.is_err(), "{kind}: an old version");

    if let Some(status) = &status {
        let change = Patch::Merge(json!({"status": status}));
        let changed = api.patch_status("one", &PatchParams::default(), &change).await.unwrap();
        let (field, value) = status.as_object().unwrap().iter().next().unwrap();
        assert_eq!(&changed.data["status"][field], value, "{kind}");
        assert_eq!(changed.data["spec"], replaced.data["spec"], "{kind}: the status changes nothing else");
        let mut whole = api.get("one").await.unwrap();
        whole.data["status"]["extra"] = Value::Null;
        whole.annotations_mut().insert("by-status".into(), "yes".into());
        api.replace_status("one", &PostParams::default(), &whole).await.unwrap_or_else(|e| panic!("{kind}: {e}"));
        let unchanged = Patch::Merge(json!({"status": {field: null}}));
        let kept = api.patch("one", &PatchParams::default(), &unchanged).await.unwrap();
        assert_eq!(&kept.data["status"][field], value, "{kind}: only its subresource changes the status");
    }

    api.delete("one", &DeleteParams::default().grace_period(0)).await.unwrap();
    assert!(api.get_opt("one").await.unwrap().is_none(), "{kind}");
    for name in ["two", "three"] {
        api.create(&PostParams::default(), &object(name)).await.unwrap();
    }
    assert_eq!(names().await.len(), 2, "{kind}");
    api.delete_collection(&DeleteParams::default().grace_period(0), &ours).await.unwrap();
    assert_eq!(names().await, Vec::<String>::new(), "{kind}");

    let watch = api.watch(&WatchParams::default().labels("run=conformance").timeout(1), &start).await.unwrap();
    let events: Vec<&str> = watch
        .try_filter_map(|event| async move {
            Ok(match event {
                WatchEvent::Added(_) => Some("added"),
                WatchEvent::Modified(_) => Some("modified"),
                WatchEvent::Deleted(_) => Some("deleted"),
                _ => None,
            })
        })
        .try_collect()
        .await
        .unwrap();
    assert_eq!(&events[..3], ["added", "modified", "modified"], "{kind}");
    let count = |what: &str| events.iter().filter(|e| **e == what).count();
    assert_eq!((count("added"), count("deleted")), (3, 3), "{kind}");
}

#[tokio::test]
async fn what_is_fixed_or_wrong_is_refused() {
    let (_server, client, _dir) = server().await;
    let post = PostParams::default();
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let secrets: Api<Secret> = Api::default_namespaced(client.clone());
    let map = |body: Value| serde_json::from_value::<ConfigMap>(body).unwrap();
    let secret = |body: Value| serde_json::from_value::<Secret>(body).unwrap();
    let empty = maps.create(&post, &map(json!({"metadata": {"name": "e"}, "data": {"": "v"}}))).await.unwrap_err();
    assert!(empty.to_string().contains("a valid config key must consist of"), "{empty}");
    assert!(secrets.create(&post, &secret(json!({"metadata": {"name": "e"}, "data": {"": "dg=="}}))).await.is_err());

    let fixed = json!({"metadata": {"name": "fixed"}, "immutable": true});
    maps.create(&post, &map(fixed.clone())).await.unwrap();
    secrets.create(&post, &secret(fixed)).await.unwrap();
    let merge = PatchParams::default();
    for (change, fine) in [
        (json!({"data": {"a": "Yg=="}}), false),
        (json!({"immutable": false}), false),
        (json!({"immutable": null}), false),
        (json!({"metadata": {"labels": {"a": "b"}}}), true),
    ] {
        let patch = Patch::Merge(change.clone());
        assert_eq!(maps.patch("fixed", &merge, &patch).await.is_ok(), fine, "{change}");
        assert_eq!(secrets.patch("fixed", &merge, &patch).await.is_ok(), fine, "{change}");
    }
    maps.delete("fixed", &DeleteParams::default()).await.unwrap();
    // It can become immutable later.
    maps.create(&post, &map(json!({"metadata": {"name": "later"}, "data": {"a": "b"}}))).await.unwrap();
    maps.patch("later", &merge, &Patch::Merge(json!({"immutable": true}))).await.unwrap();
    assert!(maps.patch("later", &merge, &Patch::Merge(json!({"data": {"a": "c"}}))).await.is_err());
}

fn pod(name: &str, fields: Value) -> Pod {
    let mut spec = json!({"containers": [{"name": "c", "image": "busybox:1"}]});
    for (field, value) in fields.as_object().unwrap() {
        spec[field] = value.clone();
    }
    serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
}

#[tokio::test]
async fn the_generation_of_a_pod_counts_its_updates() {
    let (_server, client, _dir) = server().await;
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let mut first = pod("p", json!({"nodeName": "n", "activeDeadlineSeconds": 100_000}));
    first.metadata.generation = Some(100);
    let created = pods.create(&PostParams::default(), &first).await.unwrap();
    assert_eq!(created.metadata.generation, Some(1), "the client does not choose it");
    let generation = async |patch: Value| {
        pods.patch("p", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap().metadata.generation
    };
    assert_eq!(generation(json!({"metadata": {"annotations": {"a": "b"}}})).await, Some(1));
    assert_eq!(generation(json!({"metadata": {"generation": 50}})).await, Some(1));
    assert_eq!(generation(json!({"spec": {"activeDeadlineSeconds": 99_999}})).await, Some(2));
    let status = Patch::Merge(json!({"status": {"phase": "Running", "observedGeneration": 2}}));
    let told = pods.patch_status("p", &PatchParams::default(), &status).await.unwrap();
    assert_eq!((told.metadata.generation, told.status.unwrap().observed_generation), (Some(2), Some(2)));
    for i in 1..=MANY_UPDATES {
        let change = json!({"spec": {"activeDeadlineSeconds": 99_999 - i}});
        assert_eq!(generation(change).await, Some(2 + i));
    }
    let deleted = pods.delete("p", &DeleteParams::default()).await.unwrap().left().unwrap();
    assert_eq!(deleted.metadata.generation, Some(3 + MANY_UPDATES), "a graceful deletion is an update");
}

#[tokio::test]
async fn pods_have_a_class_and_keep_any_volume() {
    let (_server, client, _dir) = server().await;
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let same = json!({"cpu": "100m", "memory": "10Mi"});
    for (name, resources, class) in [
        ("guaranteed", json!({"requests": same, "limits": same}), "Guaranteed"),
        ("limits-only", json!({"limits": same}), "Guaranteed"),
        ("burstable", json!({"requests": {"cpu": "1"}}), "Burstable"),
        ("best-effort", json!({}), "BestEffort"),
    ] {
        let containers = json!([{"name": "c", "image": "busybox:1", "resources": resources}]);
        let created = pods.create(&PostParams::default(), &pod(name, json!({"containers": containers}))).await.unwrap();
        assert_eq!(created.status.unwrap().qos_class.as_deref(), Some(class), "{name}");
    }
    let csi =
        json!([{"name": "v", "csi": {"driver": "csi.example.com", "volumeAttributes": {"a": "b"}, "readOnly": true}}]);
    let created = pods.create(&PostParams::default(), &pod("csi", json!({"volumes": csi}))).await.unwrap();
    let kept = pods.get("csi").await.unwrap().spec.unwrap().volumes.unwrap()[0].csi.clone().unwrap();
    assert_eq!((kept.driver.as_str(), kept.read_only), ("csi.example.com", Some(true)));
    assert_eq!(kept, created.spec.unwrap().volumes.unwrap()[0].csi.clone().unwrap());
}

#[tokio::test]
async fn ephemeral_containers_come_through_their_subresource() {
    let (_server, client, _dir) = server().await;
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    pods.create(&PostParams::default(), &pod("p", json!({}))).await.unwrap();
    let debug = json!([{"name": "debug", "image": "busybox:1"}]);
    let change = Patch::Strategic(json!({"spec": {"ephemeralContainers": debug}}));
    assert!(pods.patch("p", &PatchParams::default(), &change).await.is_err(), "not with the pod itself");
    let params = PatchParams::default();
    let patched: Pod = pods.patch_subresource("ephemeralcontainers", "p", &params, &change).await.unwrap();
    let names = |pod: &Pod| -> Vec<String> {
        let list = pod.spec.as_ref().and_then(|s| s.ephemeral_containers.clone()).unwrap_or_default();
        list.into_iter().map(|c| c.name).collect()
    };
    assert_eq!(names(&patched), ["debug"]);
    let more = Patch::Strategic(json!({"spec": {"ephemeralContainers": [{"name": "more", "image": "busybox:1"}]}}));
    let patched: Pod = pods.patch_subresource("ephemeralcontainers", "p", &params, &more).await.unwrap();
    let mut both = names(&patched);
    both.sort();
    assert_eq!(both, ["debug", "more"], "an update keeps what is there");
    assert_eq!(patched.metadata.generation, Some(3));
    for wrong in [
        json!([{"name": "debug", "image": "busybox:2"}]),
        json!([{"name": "c", "image": "busybox:1"}]),
        json!([{"name": "no-image"}]),
        json!([{"name": "debug", "$patch": "delete"}]),
    ] {
        let change = Patch::Strategic(json!({"spec": {"ephemeralContainers": wrong}}));
        let refused = pods.patch_subresource("ephemeralcontainers", "p", &params, &change);
        assert!(refused.await.is_err(), "{wrong}");
    }
}

#[tokio::test]
async fn resources_change_through_the_resize_subresource() {
    let (_server, client, _dir) = server().await;
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let containers = |cpu: [&str; 3]| -> Value {
        let one = |name: &str, cpu: &str| {
            let amounts = json!({"cpu": cpu, "memory": "64Mi"});
            json!({"name": name, "image": "busybox:1", "resources": {"requests": amounts, "limits": amounts}})
        };
        json!([one("c1", cpu[0]), one("c2", cpu[1]), one("c3", cpu[2])])
    };
    let first = pod("p", json!({"containers": containers(["100m", "100m", "100m"])}));
    pods.create(&PostParams::default(), &first).await.unwrap();
    let params = PatchParams::default();
    let cpu = |pod: &Pod| -> Vec<String> {
        let all = &pod.spec.as_ref().unwrap().containers;
        all.iter().map(|c| c.resources.as_ref().unwrap().limits.as_ref().unwrap()["cpu"].0.clone()).collect()
    };
    // Some up, some down, in one patch.
    let change = json!({"spec": {"containers": containers(["200m", "50m", "300m"])}});
    assert!(pods.patch("p", &params, &Patch::Strategic(&change)).await.is_err(), "not with the pod itself");
    let changed: Pod = pods.patch_subresource("resize", "p", &params, &Patch::Strategic(&change)).await.unwrap();
    assert_eq!(cpu(&changed), ["200m", "50m", "300m"]);
    assert_eq!(
        (changed.metadata.generation, changed.status.clone().unwrap().qos_class.unwrap().as_str()),
        (Some(2), "Guaranteed")
    );
    // The same amount in other words changes what is written, and no more.
    let same = json!({"spec": {"containers": containers(["0.2", "0.05", "0.3"])}});
    let equal: Pod = pods.patch_subresource("resize", "p", &params, &Patch::Strategic(&same)).await.unwrap();
    assert_eq!(cpu(&equal), ["0.2", "0.05", "0.3"]);
    // A whole object: only the resources of it count.
    let mut whole = equal.clone();
    let spec = whole.spec.as_mut().unwrap();
    spec.containers = serde_json::from_value(containers(["400m", "50m", "300m"])).unwrap();
    spec.containers[0].image = Some("other:1".into());
    let replaced: Pod = pods.replace_subresource("resize", "p", &PostParams::default(), &whole).await.unwrap();
    assert_eq!(cpu(&replaced), ["400m", "50m", "300m"]);
    assert_eq!(replaced.spec.unwrap().containers[0].image.as_deref(), Some("busybox:1"));

    for (resources, why) in [
        (json!({"requests": {"cpu": "100m"}}), "Pod QOS Class may not change"),
        (json!({"limits": {"cpu": null}}), "cannot be removed"),
        (json!({"requests": {"example.com/gpu": "1"}, "limits": {"example.com/gpu": "1"}}), "only cpu and memory"),
        (json!({"requests": {"cpu": "lots"}, "limits": {"cpu": "lots"}}), "must be a quantity"),
    ] {
        let change = Patch::Strategic(json!({"spec": {"containers": [{"name": "c1", "resources": resources}]}}));
        let refused = pods.patch_subresource("resize", "p", &params, &change).await.unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
    }
}
