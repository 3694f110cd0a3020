//! Credentials for registries, from the pull secrets of a pod. Pure.
//!
//! Keys of a secret are registries, with or without a path, with `*` for parts of a host's name:
//! `https://index.docker.io/v1/`, `registry.example.org:5000/team`, `*.example.org`. As in the
//! kubelet, all keys that fit an image are tried, the longest first. Credentials are never logged.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use k8s_openapi::api::core::v1::Secret;
use serde::Deserialize;
use skerry_proto::cri::v1::AuthConfig;
use std::collections::BTreeMap;

use super::reference::{DEFAULT_REGISTRY, Reference};

/// Under which Docker Hub has its credentials.
const HUB: &str = "index.docker.io";
/// Docker writes padding, other tools do not.
const DECODER: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// One entry of a Docker configuration.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
    registrytoken: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct DockerConfig {
    auths: BTreeMap<String, Entry>,
}

/// See the module documentation.
#[derive(Default)]
pub(super) struct Keyring {
    keys: Vec<(String, AuthConfig)>,
}

impl Keyring {
    /// Takes what a secret holds.
    ///
    /// # Errors
    /// Why it holds no credentials; the text has nothing of the secret's content.
    pub(super) fn add(&mut self, secret: &Secret) -> Result<(), String> {
        let data = |key: &str| secret.data.as_ref().and_then(|d| d.get(key)).map(|b| b.0.as_slice());
        let entries = match secret.type_.as_deref() {
            Some("kubernetes.io/dockerconfigjson") => {
                let bytes = data(".dockerconfigjson").ok_or("it has no key .dockerconfigjson")?;
                serde_json::from_slice::<DockerConfig>(bytes).map(|c| c.auths)
            }
            Some("kubernetes.io/dockercfg") => {
                let bytes = data(".dockercfg").ok_or("it has no key .dockercfg")?;
                serde_json::from_slice::<BTreeMap<String, Entry>>(bytes)
            }
            other => return Err(format!("its type {} is not one for pull secrets", other.unwrap_or("Opaque"))),
        };
        for (server, entry) in entries.map_err(|_| "it is not a Docker configuration")? {
            self.keys.push((key_of(&server), credentials(entry)));
        }
        // Longest first, and among equals those that came first.
        self.keys.sort_by(|a, b| b.0.cmp(&a.0));
        Ok(())
    }

    /// Credentials to try for an image, best first; none: pull without.
    pub(super) fn find(&self, image: &Reference) -> Vec<AuthConfig> {
        let hub = image.registry == DEFAULT_REGISTRY;
        let full = format!("{}/{}", image.registry, image.path);
        let fits = |key: &str| key_fits(key, &full) || (hub && key_fits(key, &format!("{HUB}/{}", image.path)));
        let mut found: Vec<AuthConfig> = Vec::new();
        for (_, auth) in self.keys.iter().filter(|(key, _)| fits(key)) {
            if !found.contains(auth) {
                found.push(auth.clone());
            }
        }
        found
    }
}

/// Host and path of a key, without scheme and the version of the API.
fn key_of(server: &str) -> String {
    let rest = server.split_once("://").map_or(server, |(_, rest)| rest);
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let path = path.trim_end_matches('/');
    let path = match path.split_once('/') {
        Some(("v1" | "v2", rest)) => rest,
        None if matches!(path, "v1" | "v2") => "",
        _ => path,
    };
    if path.is_empty() { host.to_owned() } else { format!("{host}/{path}") }
}

fn credentials(entry: Entry) -> AuthConfig {
    let decoded = DECODER.decode(entry.auth.trim()).ok().and_then(|b| String::from_utf8(b).ok());
    let pair = decoded.as_deref().and_then(|t| t.trim_end_matches('\0').split_once(':'));
    let (username, password) = pair.map_or((entry.username, entry.password), |(u, p)| (u.to_owned(), p.to_owned()));
    AuthConfig {
        username,
        password,
        identity_token: entry.identitytoken,
        registry_token: entry.registrytoken,
        ..AuthConfig::default()
    }
}

fn key_fits(key: &str, image: &str) -> bool {
    let (key_host, key_path) = key.split_once('/').unwrap_or((key, ""));
    let (host, path) = image.split_once('/').unwrap_or((image, ""));
    host_fits(key_host, host) && path.starts_with(key_path)
}

/// Part by part; a star stands for any number of characters of one part.
fn host_fits(key: &str, host: &str) -> bool {
    let split = |text: &str| -> (Vec<String>, String) {
        let (name, port) = text.rsplit_once(':').unwrap_or((text, ""));
        (name.split('.').map(str::to_owned).collect(), port.to_owned())
    };
    let ((key, key_port), (host, port)) = (split(key), split(host));
    key_port == port && key.len() == host.len() && key.iter().zip(&host).all(|(k, h)| part_fits(k, h))
}

fn part_fits(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut last = None;
    for piece in pieces {
        if let Some(piece) = last.replace(piece) {
            let Some((_, after)) = rest.split_once(piece) else { return false };
            rest = after;
        }
    }
    last.map_or(rest.is_empty(), |end| rest.ends_with(end))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use k8s_openapi::ByteString;

    fn secret(kind: &str, json: &str) -> Secret {
        let key = if kind.ends_with("dockercfg") { ".dockercfg" } else { ".dockerconfigjson" };
        Secret {
            type_: Some(format!("kubernetes.io/{kind}")),
            data: Some(BTreeMap::from([(key.to_owned(), ByteString(json.as_bytes().to_vec()))])),
            ..Secret::default()
        }
    }

    fn users(keyring: &Keyring, image: &str) -> Vec<String> {
        keyring.find(&Reference::parse(image).unwrap()).into_iter().map(|a| a.username).collect()
    }

    #[test]
    fn all_keys_that_fit_are_tried_the_longest_first() {
        let mut keyring = Keyring::default();
        keyring
            .add(&secret(
                "dockerconfigjson",
                r#"{"auths": {
                    "https://index.docker.io/v1/": {"username": "hub", "password": "p"},
                    "r.example.org": {"username": "host"},
                    "r.example.org/team": {"username": "team"},
                    "*.example.org": {"username": "star"},
                    "r.example.org:5000": {"username": "port"},
                    "http://other.org/v2/": {"auth": "dXNlcjpwYTpzcw"}
                }}"#,
            ))
            .unwrap();
        keyring.add(&secret("dockercfg", r#"{"old.org": {"username": "old", "email": "x"}}"#)).unwrap();
        for (image, want) in [
            ("r.example.org/team/app:1", vec!["team", "host", "star"]),
            ("r.example.org/app", vec!["host", "star"]),
            ("x.example.org/app", vec!["star"]),
            ("a.b.example.org/app", vec![]),
            ("r.example.org:5000/app", vec!["port"]),
            ("nginx", vec!["hub"]),
            ("docker.io/me/app", vec!["hub"]),
            ("old.org/a", vec!["old"]),
            ("other.org/a", vec!["user"]),
            ("none.org/a", vec![]),
        ] {
            assert_eq!(users(&keyring, image), want, "{image}");
        }
        let auth = keyring.find(&Reference::parse("other.org/a").unwrap()).remove(0);
        assert_eq!(auth.password, "pa:ss");
    }

    #[test]
    fn a_secret_without_credentials_says_so_and_nothing_more() {
        let mut keyring = Keyring::default();
        let error = keyring.add(&secret("dockerconfigjson", "{\"auths\": \"hunter2\"}")).unwrap_err();
        assert!(!error.contains("hunter2"));
        assert!(keyring.add(&Secret::default()).unwrap_err().contains("Opaque"));
        assert!(keyring.add(&Secret { type_: Some("kubernetes.io/dockercfg".into()), ..Secret::default() }).is_err());
    }

    #[test]
    fn stars_stay_within_a_part() {
        for (pattern, text, want) in [
            ("*", "abc", true),
            ("a*c", "abbc", true),
            ("a*c", "ac", true),
            ("a*b*c", "a-b-c", true),
            ("a*c", "ab", false),
            ("abc", "abcd", false),
        ] {
            assert_eq!(part_fits(pattern, text), want, "{pattern} {text}");
        }
    }
}
