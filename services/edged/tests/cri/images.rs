//! Pulls from a registry, and the removal of images that nobody uses.

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::{Value, json};
use skerry_common::kinds;
use skerry_edged::private_runtime::{FileContent, Image, ImageFile};
use skerry_test_support::{Layers, Registry};

use crate::node::{IMAGE, Node, wait};

/// `user:secret`.
const AUTHORIZATION: &str = "Basic dXNlcjpzZWNyZXQ=";

fn pod(image: &str, secrets: &[&str]) -> Value {
    let secrets: Vec<Value> = secrets.iter().map(|s| json!({ "name": s })).collect();
    json!({
        "terminationGracePeriodSeconds": 0, "imagePullSecrets": secrets,
        "containers": [{"name": "c", "image": image, "command": ["/bin/sleep", "1000"]}]
    })
}

fn waiting(status: &Value) -> (&str, &str) {
    let waiting = &status["containerStatuses"][0]["state"]["waiting"];
    (waiting["reason"].as_str().unwrap_or_default(), waiting["message"].as_str().unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_image_needs_the_secret_of_its_registry() {
    let node = Node::start().await;
    let registry = Registry::start().await.unwrap();
    registry.require(AUTHORIZATION);
    let image = registry.offer("team/app", "1", Layers::Whole).unwrap();
    let host = image.split('/').next().unwrap();
    let config = |user: &str, password: &str| {
        let auths = json!({"auths": {format!("http://{host}/team"): {"username": user, "password": password}}});
        encoded(&auths.to_string())
    };
    let secret = |data: String| json!({"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": data}});
    node.hub.put(kinds::SECRET, "test", "wrong", secret(config("user", "guess")));
    node.hub.put(kinds::SECRET, "test", "right", secret(config("user", "secret")));
    node.put_pod("none", "uid-none", pod(&image, &["missing"]));
    let status = node
        .until("uid-none", "refused", |s| waiting(s).0.ends_with("Pull") || waiting(s).0.ends_with("BackOff"))
        .await;
    assert!(waiting(&status).1.contains("401"), "{status:#}");
    node.until_event("uid-none", "FailedToRetrieveImagePullSecret", "(missing)").await;
    // Of two secrets for the registry the one that works is found.
    node.put_pod("both", "uid-both", pod(&image, &["wrong", "right"]));
    let status = node.until_running("uid-both").await;
    let id = status["containerStatuses"][0]["imageID"].as_str().unwrap();
    assert!(id.contains("@sha256:"), "{id}");
    node.until_event("uid-both", "Pulling", &image).await;
    node.until_event("uid-both", "Pulled", "Image size: ").await;
    let said = format!("{:?}", node.all_events());
    assert!(!said.contains("guess") && !said.contains("secret\""), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_pull_says_what_is_wrong() {
    let node = Node::start().await;
    let registry = Registry::start().await.unwrap();
    let corrupt = registry.offer("corrupt", "1", Layers::Corrupt).unwrap();
    let host = corrupt.split('/').next().unwrap().to_owned();
    let closed = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let cases = [
        ("corrupt", corrupt.clone(), "ErrImagePull", "corrupt"),
        ("none", format!("{host}/none:1"), "ErrImagePull", "not found"),
        ("down", format!("{closed}/app:1"), "RegistryUnavailable", "the registry is unavailable"),
        ("name", "NOT-A-NAME".to_owned(), "InvalidImageName", "invalid reference format"),
    ];
    for (name, image, _, _) in &cases {
        node.put_pod(name, &format!("uid-{name}"), pod(image, &[]));
    }
    for (name, _, reason, message) in &cases {
        let uid = format!("uid-{name}");
        // The reason may have become the back-off's, which repeats it.
        let seen = |s: &Value| {
            let (now, text) = waiting(s);
            (now == *reason || (now == "ImagePullBackOff" && text.contains(reason))) && text.contains(message)
        };
        node.until(&uid, message, seen).await;
    }
    node.until("uid-corrupt", "back-off", |s| waiting(s).0 == "ImagePullBackOff").await;
    registry.mend();
    node.until_running("uid-corrupt").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_hangs_is_given_up_and_holds_up_nobody() {
    let node = Node::start_with(|config| {
        config.serialize_image_pulls = false;
        config.max_parallel_image_pulls = 2;
        config.image_pull_progress_deadline = SignedDuration::from_secs(8);
    })
    .await;
    let registry = Registry::start().await.unwrap();
    let stalled = registry.offer("stalled", "1", Layers::Stalled).unwrap();
    let good = registry.offer("good", "1", Layers::Whole).unwrap();
    node.put_pod("stalled", "uid-stalled", pod(&stalled, &[]));
    node.until_event("uid-stalled", "Pulling", &stalled).await;
    node.put_pod("good", "uid-good", pod(&good, &[]));
    node.until_running("uid-good").await;
    node.until_event("uid-stalled", "Failed", "pulling made no progress for 8s").await;
    registry.mend();
    node.until_running("uid-stalled").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_nobody_uses_go_when_the_disk_is_full() {
    let mut node = Node::without_agent(|config| {
        // Any disk is fuller than this.
        config.image_gc_high_threshold_percent = 1;
        config.image_gc_low_threshold_percent = 0;
        config.image_minimum_gc_age = SignedDuration::ZERO;
        config.container_log_max_size = Quantity("1Mi".into());
    })
    .await;
    let mut unused = Image::busybox("skerry.test/unused:1");
    unused.files.push(ImageFile { path: "x".into(), mode: 0o644, content: FileContent::Bytes(b"x".to_vec()) });
    let mut known = Image::busybox("skerry.test/known:1");
    known.files.push(ImageFile { path: "y".into(), mode: 0o644, content: FileContent::Bytes(b"y".to_vec()) });
    node.containerd.runtime().unwrap().import(vec![unused, known]).await.unwrap();
    node.put_pod("runs", "uid-runs", pod(IMAGE, &[]));
    // It cannot start yet, and its image must be there when it can.
    let mut waits = pod("skerry.test/known:1", &[]);
    waits["containers"][0]["env"] =
        json!([{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}}]);
    node.put_pod("waits", "uid-waits", waits);
    node.start_agent().await;
    let images = || node.ctr(&["images", "ls", "-q"]);
    wait("the removal", || !images().contains("unused"), images).await;
    for image in ["skerry.test/pause:", "skerry.test/known:1", IMAGE] {
        assert!(images().contains(image), "{image}: {}", images());
    }
    node.until_running("uid-runs").await;
    node.hub.put(kinds::CONFIG_MAP, "test", "cm", json!({"data": {"k": "v"}}));
    node.until_running("uid-waits").await;
    node.until_event(&node.name, "FreeDiskSpaceFailed", "Failed to garbage collect required amount of images").await;
}

fn encoded(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}
