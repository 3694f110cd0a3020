//! What form the client wants: JSON, a table, or metadata only.
//!
//! Called once per request. Invariant: clients that prefer protobuf and accept JSON get JSON; a client
//! that accepts only what is not served gets a 406. Limits: [`MAX_RANGES`]. Stateless.

use http::HeaderMap;
use skerry_apimachinery::ApiError;

/// Media ranges of one Accept header that are looked at.
const MAX_RANGES: usize = 32;

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// The object.
    Json,
    /// `meta.k8s.io/v1` Table.
    Table,
    /// `meta.k8s.io/v1` PartialObjectMetadata(List).
    Metadata,
    /// `apidiscovery.k8s.io/v2`.
    Discovery,
}

pub(crate) fn form(headers: &HeaderMap) -> Result<Form, ApiError> {
    let accept = headers.get(http::header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
    if accept.trim().is_empty() {
        return Ok(Form::Json);
    }
    for range in accept.split(',').take(MAX_RANGES) {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or("");
        if !matches!(media, "application/json" | "*/*" | "application/*" | "application/yaml") {
            continue;
        }
        let (mut kind, mut version, mut group) = ("", "", "");
        for parameter in parts {
            match parameter.split_once('=') {
                Some(("as", value)) => kind = value,
                Some(("v", value)) => version = value,
                Some(("g", value)) => group = value,
                _ => {}
            }
        }
        match (kind, group, version) {
            ("", _, _) => return Ok(Form::Json),
            ("Table", "meta.k8s.io", "v1") => return Ok(Form::Table),
            ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", "v1") => return Ok(Form::Metadata),
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") => return Ok(Form::Discovery),
            _ => {}
        }
    }
    Err(ApiError::NotAcceptable)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn accept_headers() {
        let ask = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(http::header::ACCEPT, accept.parse().unwrap());
            form(&headers).ok()
        };
        assert_eq!(ask("*/*"), Some(Form::Json));
        assert_eq!(ask("application/vnd.kubernetes.protobuf,application/json"), Some(Form::Json));
        assert_eq!(ask("application/vnd.kubernetes.protobuf"), None);
        assert_eq!(ask("application/json;as=Table;v=v1;g=meta.k8s.io,application/json"), Some(Form::Table));
        assert_eq!(ask("application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"), Some(Form::Json));
        assert_eq!(ask("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"), Some(Form::Metadata));
        assert_eq!(form(&HeaderMap::new()).ok(), Some(Form::Json));
    }
}
