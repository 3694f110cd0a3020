//! Service account tokens: signed JWTs bound to a service account and perhaps to a pod.
//!
//! Issued by the `serviceaccounts/token` subresource; verified for bearer authentication and TokenReview.
//! Invariants: a token is good only while its service account, and its pod if it has one, exist with the
//! same uid; only ES256 with this server's key is accepted; the audience must be one that the verifier wants.
//! Limits: [`MAX_LIFETIME`], [`MIN_LIFETIME`]. Nothing is stored: after a restart old tokens verify with the same key.

use super::User;
use crate::storage::Storage;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use skerry_apimachinery::{ApiError, ObjectKey};

/// Longest lifetime of a token, in seconds: what a request asks beyond it is cut.
pub(crate) const MAX_LIFETIME: i64 = 24 * 3600;
/// Shortest lifetime that may be asked for, in seconds, as in Kubernetes.
pub(crate) const MIN_LIFETIME: i64 = 600;
/// Clock difference that is forgiven, in seconds.
const LEEWAY: u64 = 10;

/// A named and identified object.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct Bound {
    pub(crate) name: String,
    pub(crate) uid: String,
}

/// The private claims of Kubernetes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Kubernetes {
    pub(crate) namespace: String,
    pub(crate) serviceaccount: Bound,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pod: Option<Bound>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<Bound>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) secret: Option<Bound>,
}

/// All claims.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Claims {
    pub(crate) iss: String,
    pub(crate) sub: String,
    pub(crate) aud: Vec<String>,
    pub(crate) exp: i64,
    pub(crate) iat: i64,
    pub(crate) nbf: i64,
    pub(crate) jti: String,
    #[serde(rename = "kubernetes.io")]
    pub(crate) kubernetes: Kubernetes,
}

impl Claims {
    /// The identity.
    pub(crate) fn user(&self) -> User {
        let groups =
            ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{}", self.kubernetes.namespace)];
        let mut user = User::new(&self.sub, &groups.each_ref().map(String::as_str));
        user.uid.clone_from(&self.kubernetes.serviceaccount.uid);
        user
    }
}

/// What a token shall say.
pub(crate) struct Wanted {
    pub(crate) audiences: Vec<String>,
    pub(crate) lifetime: i64,
    pub(crate) kubernetes: Kubernetes,
    pub(crate) id: String,
}

/// Signs and verifies.
pub(crate) struct Tokens {
    issuer: String,
    key_id: String,
    encoding: EncodingKey,
    decoding: DecodingKey,
}

impl Tokens {
    /// From the PEM of a P-256 private key and its public key.
    pub(crate) fn new(issuer: &str, key_id: &str, private_pem: &str, public_pem: &str) -> Result<Self, String> {
        Ok(Self {
            issuer: issuer.to_owned(),
            key_id: key_id.to_owned(),
            encoding: EncodingKey::from_ec_pem(private_pem.as_bytes()).map_err(|e| e.to_string())?,
            decoding: DecodingKey::from_ec_pem(public_pem.as_bytes()).map_err(|e| e.to_string())?,
        })
    }

    /// The issuer, which is also the audience of this API.
    pub(crate) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Signs a token; answers it with its expiry.
    pub(crate) fn issue(&self, wanted: Wanted, now: jiff::Timestamp) -> Result<(String, jiff::Timestamp), ApiError> {
        let issued = now.as_second();
        let expires = issued + wanted.lifetime.clamp(MIN_LIFETIME, MAX_LIFETIME);
        let claims = Claims {
            iss: self.issuer.clone(),
            sub: format!(
                "system:serviceaccount:{}:{}",
                wanted.kubernetes.namespace, wanted.kubernetes.serviceaccount.name
            ),
            aud: if wanted.audiences.is_empty() { vec![self.issuer.clone()] } else { wanted.audiences },
            exp: expires,
            iat: issued,
            nbf: issued,
            jti: wanted.id,
            kubernetes: wanted.kubernetes,
        };
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.key_id.clone());
        let token = jsonwebtoken::encode(&header, &claims, &self.encoding)
            .map_err(|e| ApiError::Internal(format!("cannot sign a token: {e}")))?;
        let expires = jiff::Timestamp::from_second(expires).map_err(|e| ApiError::Internal(e.to_string()))?;
        Ok((token, expires))
    }

    /// Verifies a token for one of `audiences` (this API when `None`), and that what it is bound to exists.
    pub(crate) fn verify(
        &self,
        token: &str,
        storage: &Storage,
        now: jiff::Timestamp,
        audiences: Option<&[String]>,
    ) -> Result<Claims, String> {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_issuer(&[&self.issuer]);
        match audiences {
            Some(list) if !list.is_empty() => validation.set_audience(list),
            _ => validation.set_audience(&[&self.issuer]),
        }
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        // The times are checked below against the server's own clock.
        validation.validate_exp = false;
        validation.leeway = LEEWAY;
        let claims =
            jsonwebtoken::decode::<Claims>(token, &self.decoding, &validation).map_err(|e| e.to_string())?.claims;
        let (now, leeway) = (now.as_second(), LEEWAY.cast_signed());
        if claims.exp + leeway < now {
            return Err("service account token has expired".into());
        }
        if claims.nbf > now + leeway {
            return Err("service account token is not valid yet".into());
        }
        let k = &claims.kubernetes;
        let bound = |storage_name: &str, namespace: &str, bound: &Bound| {
            let found = storage.cache(storage_name).get(&ObjectKey::new(namespace, &bound.name));
            if found.is_some_and(|entry| *entry.uid == *bound.uid) {
                Ok(())
            } else {
                Err(format!("the object that the token is bound to is gone: {storage_name} {namespace}/{}", bound.name))
            }
        };
        bound("/serviceaccounts", &k.namespace, &k.serviceaccount)?;
        if let Some(pod) = &k.pod {
            bound("/pods", &k.namespace, pod)?;
        }
        if let Some(secret) = &k.secret {
            bound("/secrets", &k.namespace, secret)?;
        }
        Ok(claims)
    }
}
