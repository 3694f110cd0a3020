//! Looking into bodies before they are stored.
//!
//! The store and the services of the node must never hold what is not JSON, or an object whose name
//! is another than its key says; a hub that sends such a thing gets it refused by name, and what the
//! node holds stays.

use std::io::Read as _;

use serde::Deserialize;
use skerry_common::{Encoding, Key};

/// Largest body after decompression. Kubernetes refuses objects over 1.5 MiB; the rest is room.
const MAX_JSON_BYTES: u64 = 8 << 20;

/// Why a body was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the body cannot be decompressed")]
    Zstd(#[source] std::io::Error),
    #[error("the body is larger than {MAX_JSON_BYTES} bytes")]
    TooLarge,
    #[error("the body is not JSON")]
    Json(#[source] serde_json::Error),
    #[error("the body is not a JSON object")]
    NoObject,
    #[error("the body is of {0}, its key names another object")]
    OtherObject(String),
}

#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    metadata: Option<Metadata>,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    namespace: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    uid: Option<String>,
}

/// The JSON of a body.
pub(crate) fn json(body: &[u8], encoding: Encoding) -> Result<Vec<u8>, BodyError> {
    let mut json = Vec::new();
    match encoding {
        Encoding::Identity => json.extend_from_slice(body),
        Encoding::Zstd => {
            let decoder = zstd::stream::Decoder::new(body).map_err(BodyError::Zstd)?;
            decoder.take(MAX_JSON_BYTES + 1).read_to_end(&mut json).map_err(BodyError::Zstd)?;
        }
    }
    if json.len() as u64 > MAX_JSON_BYTES { Err(BodyError::TooLarge) } else { Ok(json) }
}

/// Checks a body and returns the object's uid, empty where it has none.
pub(crate) fn check(key: &Key, body: &[u8], encoding: Encoding) -> Result<String, BodyError> {
    let json = json(body, encoding)?;
    // serde would also read a struct from an array.
    if json.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err(BodyError::NoObject);
    }
    let head: Head = serde_json::from_slice(&json).map_err(BodyError::Json)?;
    let Some(metadata) = head.metadata else { return Ok(String::new()) };
    if let Some(name) = metadata.name {
        let named = Key::new(metadata.namespace.unwrap_or_default(), name);
        if named != *key {
            return Err(BodyError::OtherObject(named.to_string()));
        }
    }
    Ok(metadata.uid.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_json_of_the_named_object_is_taken() {
        let key = Key::new("default", "web");
        let good = br#"{"metadata":{"namespace":"default","name":"web","uid":"u1"}}"#;
        assert_eq!(check(&key, good, Encoding::Identity).unwrap(), "u1");
        let packed = zstd::encode_all(&good[..], 3).unwrap();
        assert_eq!(check(&key, &packed, Encoding::Zstd).unwrap(), "u1");
        assert_eq!(check(&key, b"{\"token\":\"t\"}", Encoding::Identity).unwrap(), "");

        let other = br#"{"metadata":{"namespace":"default","name":"other"}}"#;
        for (body, encoding) in [
            (&other[..], Encoding::Identity),
            (b"", Encoding::Identity),
            (b"null", Encoding::Identity),
            (b"[]", Encoding::Identity),
            (&good[..40], Encoding::Identity),
            (&good[..], Encoding::Zstd),
            (&packed[..10], Encoding::Zstd),
        ] {
            assert!(check(&key, body, encoding).is_err(), "{body:?}");
        }
    }

    #[test]
    fn a_bomb_is_refused_at_the_limit() {
        let bomb = zstd::encode_all(&vec![b' '; 64 << 20][..], 3).unwrap();
        assert!(matches!(json(&bomb, Encoding::Zstd), Err(BodyError::TooLarge)));
        // The control: without the limit a few kilobytes become all of it.
        assert!(bomb.len() < 16 << 10);
        assert_eq!(zstd::decode_all(&bomb[..]).unwrap().len(), 64 << 20);
    }

    /// The control: a parser alone takes what is another object, and what is none.
    #[test]
    fn control_json_alone_takes_what_is_not_the_object() {
        let other = br#"{"metadata":{"namespace":"default","name":"other"}}"#;
        for body in [&other[..], b"[]", b"{}"] {
            assert!(serde_json::from_slice::<Head>(body).is_ok(), "{body:?}");
        }
    }
}
