//! Join tokens in the cluster: one Secret `skerry-token-<id>` each.
//!
//! Used by the CLI ([`create`], [`list`], [`revoke`]) and by the issuer ([`load`], [`store`]). A use is
//! counted by replacing the Secret with the resource version that it was read with, so exactly as many
//! machines join as the token allows, however many replicas issue. The Secret also names the keys that
//! joined, so a machine whose answer was lost may ask again without costing a second use.

use std::collections::BTreeMap;

use kube::Client;
use kube::api::DynamicObject;
use skerry_common::Key;
use skerry_identity::{Token, TokenRecord, TokenRequest};
use skerry_kubesync::{ApiError, Kind, KubeApi};

use crate::error::ControllerError;
use crate::system::{self, MANAGER, NAMESPACE, secret, secret_data};

/// Type of the Secret.
const SECRET_TYPE: &str = "skerry.io/join-token";

/// Start of the Secret's name.
const PREFIX: &str = "skerry-token-";

const RECORD_FIELD: &str = "record";
const JOINED_FIELD: &str = "joined";

/// Attempts against concurrent joins with the same token.
const ATTEMPTS: usize = 16;

/// A token as it is stored, with the Secret that it came from.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) record: TokenRecord,
    /// Node name to the fingerprint of the key that joined.
    pub(crate) joined: BTreeMap<String, String>,
    secret: DynamicObject,
}

/// Makes a join token for the installation's CA and stores its record.
///
/// # Errors
/// When there is no CA yet, or the API refuses.
pub async fn create(client: Client, request: TokenRequest) -> Result<(Token, TokenRecord), ControllerError> {
    let api = KubeApi::detached(client.clone(), MANAGER);
    let ca = system::existing_ca(client).await?.ok_or_else(|| ControllerError::Damaged {
        object: format!("Secret {NAMESPACE}/{}", system::CA_SECRET),
        reason: "there is no CA yet; start edgecontroller first".to_owned(),
    })?;
    let (token, record) = Token::generate(ca.spki_hash(), request, jiff::Timestamp::now())
        .map_err(ControllerError::identity("cannot make a token"))?;
    let object = secret(&name(token.id()), SECRET_TYPE, encode(&record, &BTreeMap::new()));
    api.create(Kind::Secret, NAMESPACE, object).await.map_err(ControllerError::api("store the token"))?;
    Ok((token, record))
}

/// All tokens that are stored. Damaged records are left out.
///
/// # Errors
/// When the API refuses.
pub async fn list(client: Client) -> Result<Vec<TokenRecord>, ControllerError> {
    let api = KubeApi::detached(client, MANAGER);
    let secrets = api.list(Kind::Secret, NAMESPACE).await.map_err(ControllerError::api("list tokens"))?;
    let ours = secrets.into_iter().filter(|s| s.metadata.name.as_deref().is_some_and(|n| n.starts_with(PREFIX)));
    Ok(ours.filter_map(parse).map(|stored| stored.record).collect())
}

/// Revokes a token; nodes that joined with it stay. False when there is none of this id.
///
/// # Errors
/// When the API refuses.
pub async fn revoke(client: Client, id: &str) -> Result<bool, ControllerError> {
    let api = KubeApi::detached(client, MANAGER);
    for _ in 0..ATTEMPTS {
        let Some(mut stored) = load(&api, id).await.map_err(ControllerError::api("read the token"))? else {
            return Ok(false);
        };
        stored.record.revoked = true;
        match store(&api, stored).await {
            Ok(()) => return Ok(true),
            Err(ApiError::Conflict(_)) => {}
            Err(error) => return Err(ControllerError::api("store the token")(error)),
        }
    }
    Err(ControllerError::api("revoke the token")(ApiError::Conflict("the token is in heavy use".to_owned())))
}

/// Reads one token; `None` when there is none, or its record is damaged (a token fails closed).
pub(crate) async fn load(api: &KubeApi, id: &str) -> Result<Option<Stored>, ApiError> {
    let Ok(key) = Key::checked(NAMESPACE, &name(id)) else { return Ok(None) };
    Ok(api.get(Kind::Secret, &key).await?.and_then(parse))
}

/// Writes a token back, if nobody has since it was read.
pub(crate) async fn store(api: &KubeApi, stored: Stored) -> Result<(), ApiError> {
    let Stored { record, joined, mut secret } = stored;
    let key = Key::new(NAMESPACE, name(&record.id));
    let fresh = system::secret(&key.name, SECRET_TYPE, encode(&record, &joined));
    if let (Some(data), Some(new)) = (secret.data.as_object_mut(), fresh.get("data")) {
        data.insert("data".to_owned(), new.clone());
    }
    api.replace(Kind::Secret, &key, &secret).await.map(drop)
}

fn name(id: &str) -> String {
    format!("{PREFIX}{id}")
}

fn encode(record: &TokenRecord, joined: &BTreeMap<String, String>) -> [(String, Vec<u8>); 2] {
    [
        (RECORD_FIELD.to_owned(), serde_json::to_vec(record).unwrap_or_default()),
        (JOINED_FIELD.to_owned(), serde_json::to_vec(joined).unwrap_or_default()),
    ]
}

fn parse(secret: DynamicObject) -> Option<Stored> {
    let data = secret_data(&secret);
    let record: TokenRecord = serde_json::from_slice(data.get(RECORD_FIELD)?).ok()?;
    let joined = data.get(JOINED_FIELD).and_then(|bytes| serde_json::from_slice(bytes).ok()).unwrap_or_default();
    // The name decides which token it is.
    (secret.metadata.name.as_deref() == Some(&name(&record.id))).then_some(Stored { record, joined, secret })
}
