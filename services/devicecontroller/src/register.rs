//! Tells the API server about the webhook: one ValidatingWebhookConfiguration.
//!
//! One task, when a URL is configured; in a cluster whose operator manages such objects, leave it out and
//! apply [`configuration`]'s like. Written once the certificate is there, and when the CA or the URL is
//! another. A server that does not serve the kind, or forbids it, is asked again later.

use std::time::Duration;

use serde_json::{Value, json};
use skerry_common::Key;
use skerry_identity::CredentialWatch;
use skerry_kubesync::{ApiError, KubeApi, Other};

/// Name of the object.
const NAME: &str = "skerry-devices";

/// How soon an attempt that failed is repeated, and how often the object is looked at.
const RETRY: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_secs(300);

/// How long the API server waits for an answer, seconds: it is given from memory.
const TIMEOUT: u32 = 3;

/// Registers until cancelled.
pub(crate) async fn run(api: KubeApi, url: String, mut credentials: CredentialWatch) {
    loop {
        credentials.ready().await;
        let Some(own) = credentials.current() else { continue };
        let ca = own.ca().pem();
        let wait = match register(&api, &url, &ca).await {
            Ok(()) => LOOK,
            Err(error) => {
                tracing::warn!(error = skerry_common::chain(&error), "the admission webhook is not registered");
                RETRY
            }
        };
        tokio::time::sleep(wait).await;
    }
}

async fn register(api: &KubeApi, url: &str, ca: &str) -> Result<(), ApiError> {
    let wanted = configuration(url, ca);
    let key = Key::new("", NAME);
    match api.get(Other::WebhookConfiguration, &key).await? {
        None => match api.create(Other::WebhookConfiguration, "", wanted).await {
            Ok(_) | Err(ApiError::AlreadyExists) => Ok(()),
            Err(error) => Err(error),
        },
        Some(found) => {
            let client = |object: &Value| object.pointer("/webhooks/0/clientConfig").cloned();
            if client(&found.data) == client(&wanted) {
                return Ok(());
            }
            let patch = json!({"metadata": {"resourceVersion": found.metadata.resource_version},
                "webhooks": wanted.get("webhooks")});
            api.merge(Other::WebhookConfiguration, &key, &patch).await.map(drop)
        }
    }
}

/// The object. It asks for Devices and DeviceModels, and lets them pass when nobody answers.
fn configuration(url: &str, ca: &str) -> Value {
    use base64::prelude::{BASE64_STANDARD, Engine as _};
    let rule = |operations: &[&str], resource: &str| {
        json!({"apiGroups": ["devices.kubeedge.io"], "apiVersions": ["v1beta1"], "operations": operations,
            "resources": [resource], "scope": "Namespaced"})
    };
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": NAME},
        "webhooks": [{
            "name": "devices.skerry.io",
            "clientConfig": {"url": url, "caBundle": BASE64_STANDARD.encode(ca)},
            "rules": [rule(&["CREATE", "UPDATE"], "devices"), rule(&["CREATE", "UPDATE", "DELETE"], "devicemodels")],
            "failurePolicy": "Ignore",
            "matchPolicy": "Equivalent",
            "sideEffects": "None",
            "timeoutSeconds": TIMEOUT,
            "admissionReviewVersions": ["v1"],
        }],
    })
}
