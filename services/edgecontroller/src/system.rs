//! What Skerry keeps in the cluster, in the namespace [`NAMESPACE`]: the CA, its public bundle, revocations.
//!
//! Used at start and by the CLI. Every creation has a precondition (create; what exists is read), so any
//! number of replicas may start at once and end with one CA. Nothing here is ever overwritten.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use kube::Client;
use kube::api::DynamicObject;
use serde_json::{Value, json};
use skerry_common::Key;
use skerry_identity::{Ca, Credentials, DEFAULT_SERVICE_LIFETIME, TrustDomain};
use skerry_kubesync::{ApiError, Kind, KubeApi};

use crate::error::ControllerError;
use crate::lease;

/// What the API server sees as the writer.
pub(crate) const MANAGER: &str = "skerry-edgecontroller";

/// The namespace of Skerry's own objects.
pub const NAMESPACE: &str = "skerry-system";

/// Secret with the CA's certificate and key. Only EdgeController may read it.
pub const CA_SECRET: &str = "skerry-ca";

/// ConfigMap with the CA's certificate, for everybody.
pub const CA_BUNDLE: &str = "skerry-ca-bundle";

const CERTIFICATE_FIELD: &str = "ca.crt";
const KEY_FIELD: &str = "ca.key";

/// Reads the installation's CA, or makes it when there is none. Safe to be called by many at once.
///
/// # Errors
/// When the API cannot be used, or the Secret is damaged: it is never repaired by making another CA, which
/// would lock every node out.
pub async fn ca(client: Client, trust_domain: &TrustDomain) -> Result<Ca, ControllerError> {
    ensure_ca(&KubeApi::detached(client, MANAGER), trust_domain).await
}

/// Reads the installation's CA; `None` when there is none yet.
///
/// # Errors
/// As [`ca`].
pub async fn existing_ca(client: Client) -> Result<Option<Ca>, ControllerError> {
    read_ca(&KubeApi::detached(client, MANAGER)).await
}

/// A new key and certificate for one of Skerry's services. `names` are further DNS names or addresses.
///
/// # Errors
/// For a name that is none, or a CA that has expired.
pub fn issue_service_credentials(ca: &Ca, service: &str, names: &[String]) -> Result<Credentials, ControllerError> {
    ca.service_credentials(service, names, DEFAULT_SERVICE_LIFETIME, jiff::Timestamp::now())
        .map_err(ControllerError::identity("cannot issue a service certificate"))
}

pub(crate) async fn ensure_ca(api: &KubeApi, trust_domain: &TrustDomain) -> Result<Ca, ControllerError> {
    for namespace in [NAMESPACE, lease::NAMESPACE] {
        ensure_namespace(api, namespace).await?;
    }
    let ca = match read_ca(api).await? {
        Some(ca) => ca,
        None => create_ca(api, trust_domain).await?,
    };
    ensure_bundle(api, &ca).await?;
    Ok(ca)
}

async fn ensure_namespace(api: &KubeApi, name: &str) -> Result<(), ControllerError> {
    let key = Key::new("", name);
    match api.get(Kind::Namespace, &key).await {
        Ok(Some(_)) => return Ok(()),
        Ok(None) => {}
        // Without the right to look, creating is worth a try.
        Err(ApiError::Refused { code: 403, .. }) => {}
        Err(error) => return Err(ControllerError::api(format!("read the namespace {name}"))(error)),
    }
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    match api.create(Kind::Namespace, "", namespace).await {
        Ok(_) | Err(ApiError::AlreadyExists) => Ok(()),
        Err(error) => Err(ControllerError::api(format!("create the namespace {name}"))(error)),
    }
}

async fn read_ca(api: &KubeApi) -> Result<Option<Ca>, ControllerError> {
    let key = Key::new(NAMESPACE, CA_SECRET);
    let secret = api.get(Kind::Secret, &key).await.map_err(ControllerError::api("read the CA"))?;
    secret.map(|secret| parse_ca(&secret)).transpose()
}

fn parse_ca(secret: &DynamicObject) -> Result<Ca, ControllerError> {
    let data = secret_data(secret);
    let field = |name: &str| -> Result<&str, ControllerError> {
        data.get(name).and_then(|bytes| std::str::from_utf8(bytes).ok()).ok_or_else(|| ControllerError::Damaged {
            object: format!("Secret {NAMESPACE}/{CA_SECRET}"),
            reason: format!("{name} is missing; restore the Secret from a backup"),
        })
    };
    Ca::from_pem(field(CERTIFICATE_FIELD)?, field(KEY_FIELD)?)
        .map_err(ControllerError::identity("the stored CA is not usable"))
}

async fn create_ca(api: &KubeApi, trust_domain: &TrustDomain) -> Result<Ca, ControllerError> {
    let ca = Ca::generate(trust_domain).map_err(ControllerError::identity("cannot make a CA"))?;
    let data = [(CERTIFICATE_FIELD, ca.certificate_pem()), (KEY_FIELD, ca.key_pem())];
    let secret = secret(CA_SECRET, "skerry.io/ca", data.map(|(name, text)| (name.to_owned(), text.into_bytes())));
    match api.create(Kind::Secret, NAMESPACE, secret).await {
        Ok(_) => {
            tracing::info!(fingerprint = ca.spki_hash(), "made the CA of this installation");
            Ok(ca)
        }
        // Another replica was faster: its CA is the one.
        Err(ApiError::AlreadyExists) => read_ca(api).await?.ok_or_else(|| ControllerError::Damaged {
            object: format!("Secret {NAMESPACE}/{CA_SECRET}"),
            reason: "it vanished after it was created".to_owned(),
        }),
        Err(error) => Err(ControllerError::api("create the CA")(error)),
    }
}

async fn ensure_bundle(api: &KubeApi, ca: &Ca) -> Result<(), ControllerError> {
    let bundle = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": CA_BUNDLE, "namespace": NAMESPACE},
        "data": {CERTIFICATE_FIELD: ca.certificate_pem(), "trustDomain": ca.trust_domain().to_string()},
    });
    match api.create(Kind::ConfigMap, NAMESPACE, bundle).await {
        Ok(_) | Err(ApiError::AlreadyExists) => Ok(()),
        Err(error) => Err(ControllerError::api("publish the CA's certificate")(error)),
    }
}

/// A Secret as JSON.
pub(crate) fn secret(name: &str, r#type: &str, data: impl IntoIterator<Item = (String, Vec<u8>)>) -> Value {
    let data: BTreeMap<String, ByteString> = data.into_iter().map(|(k, v)| (k, ByteString(v))).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "type": r#type,
        "data": data,
    })
}

/// The decoded data of a Secret; empty when it has none.
pub(crate) fn secret_data(secret: &DynamicObject) -> BTreeMap<String, Vec<u8>> {
    let data = secret.data.get("data").cloned().unwrap_or(Value::Null);
    let data: BTreeMap<String, ByteString> = serde_json::from_value(data).unwrap_or_default();
    data.into_iter().map(|(name, bytes)| (name, bytes.0)).collect()
}
