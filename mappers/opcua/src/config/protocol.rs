//! `protocol.configData`: the server, how the line to it is protected, and who the mapper is there.
//!
//! Two ways of writing it are known, and may be mixed: flat keys, and those of mappers-go, which are in `opcua`
//! and `common.customizedValues`. A Device can be read by many, so it has no secrets: it names files.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use opcua::core::comms::url::hostname_port_from_url;
use opcua::crypto::SecurityPolicy;
use opcua::types::MessageSecurityMode;
use serde_json::{Map, Value};
use skerry_mapper_sdk::{ConfigError, Keys};

/// Port of OPC UA.
const DEFAULT_PORT: u16 = 4840;
/// Longest wait for one answer where the Device says none: many times what a slow controller needs.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// Seconds that a timeout may be.
const TIMEOUTS: std::ops::RangeInclusive<f64> = 0.1..=60.0;
/// The specification's limit of an endpoint's URL.
const MAX_URL: usize = 4096;
/// Names are shown to people; a path of Linux is at most so long.
const MAX_TEXT: usize = 4096;
/// Hexadecimal digits of a fingerprint.
const FINGERPRINT_DIGITS: usize = 64;

const POLICIES: &[(&str, SecurityPolicy)] = &[
    ("None", SecurityPolicy::None),
    ("Basic256Sha256", SecurityPolicy::Basic256Sha256),
    ("Aes128Sha256RsaOaep", SecurityPolicy::Aes128Sha256RsaOaep),
    ("Aes256Sha256RsaPss", SecurityPolicy::Aes256Sha256RsaPss),
    // As they are in the specification's URIs.
    ("Aes128_Sha256_RsaOaep", SecurityPolicy::Aes128Sha256RsaOaep),
    ("Aes256_Sha256_RsaPss", SecurityPolicy::Aes256Sha256RsaPss),
];
const MODES: &[(&str, MessageSecurityMode)] = &[
    ("None", MessageSecurityMode::None),
    ("Sign", MessageSecurityMode::Sign),
    ("SignAndEncrypt", MessageSecurityMode::SignAndEncrypt),
];

/// A session that devices share when all of this is the same.
#[derive(Debug, Clone, PartialEq)]
pub struct ProtocolConfig {
    /// `url`: where the server is, `opc.tcp://host:port/path`.
    pub url: String,
    /// How the line is protected.
    pub security: Security,
    /// Who the mapper is for the server.
    pub user: User,
    /// `timeout`: longest wait for one answer.
    pub timeout: Duration,
    /// `subscribe`: whether the server tells of changes by itself.
    pub subscribe: bool,
}

/// How the line to a server is protected.
#[derive(Debug, Clone, PartialEq)]
pub struct Security {
    /// `securityPolicy`.
    pub policy: SecurityPolicy,
    /// `securityMode`; none exactly where there is no policy.
    pub mode: MessageSecurityMode,
    /// `certificate` and `privateKey`: who the mapper is as an application; without them its own are used.
    pub own: Option<KeyFiles>,
    /// `remoteCertificate`: the one certificate that the server must have; without it those in the folder
    /// `trusted` are.
    pub server: Option<ServerCertificate>,
    /// `allowExpiredCertificate`: whether a certificate that is trusted remains so when it is out of date.
    pub allow_expired: bool,
}

/// A certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFiles {
    /// DER or PEM.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

/// Which certificate a server must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerCertificate {
    /// The one in this file, DER or PEM.
    File(PathBuf),
    /// The one with this SHA-256 digest.
    Fingerprint([u8; 32]),
}

/// Who the mapper is for a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum User {
    /// Nobody.
    Anonymous,
    /// `userName` and `password`.
    Password {
        /// Its name.
        name: String,
        /// File with its password.
        file: PathBuf,
    },
    /// `userCertificate` and `userPrivateKey`.
    Certificate(KeyFiles),
}

impl ProtocolConfig {
    /// Reads the configuration of a device.
    ///
    /// # Errors
    /// Names the key and what would be right, and never shows what may be a secret.
    pub fn parse(object: Map<String, Value>) -> Result<Self, ConfigError> {
        let mut keys = Keys::new(object)?;
        for inner in ["opcua", "common", "customizedValues"] {
            keys.absorb(inner)?;
        }
        let url = url(&mut keys)?;
        let security = security(&mut keys)?;
        let user = user(&mut keys, &security)?;
        let timeout = match keys.number("timeout")? {
            None => DEFAULT_TIMEOUT,
            Some(seconds) if TIMEOUTS.contains(&seconds) => Duration::from_secs_f64(seconds),
            Some(seconds) => {
                let (low, high) = (TIMEOUTS.start(), TIMEOUTS.end());
                return Err(ConfigError::invalid("timeout", format!("{seconds} is not {low} to {high} seconds")));
            }
        };
        let subscribe = keys.boolean("subscribe")?.unwrap_or(false);
        keys.finish()?;
        Ok(Self { url, security, user, timeout, subscribe })
    }
}

/// The name of the session: what it depends on, and nothing that is secret.
impl fmt::Display for ProtocolConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url, security, user, timeout, subscribe: _ } = self;
        write!(f, "{url}")?;
        if security.is_on() {
            write!(f, " {} {}", policy_name(security.policy), security.mode)?;
        }
        if let Some(KeyFiles { certificate, key }) = &security.own {
            write!(f, " as {} with {}", certificate.display(), key.display())?;
        }
        match &security.server {
            None => {}
            Some(ServerCertificate::File(path)) => write!(f, " to {}", path.display())?,
            Some(ServerCertificate::Fingerprint(digest)) => write!(f, " to {}", hex::encode(digest))?,
        }
        if security.allow_expired {
            write!(f, " also expired")?;
        }
        match user {
            User::Anonymous => {}
            User::Password { name, file } => write!(f, " user {name:?} with {}", file.display())?,
            User::Certificate(KeyFiles { certificate, key }) => {
                write!(f, " user {} with {}", certificate.display(), key.display())?;
            }
        }
        if *timeout == DEFAULT_TIMEOUT { Ok(()) } else { write!(f, " within {timeout:?}") }
    }
}

/// A policy as a Device names it.
pub(crate) fn policy_name(policy: SecurityPolicy) -> &'static str {
    POLICIES.iter().find(|(_, known)| *known == policy).map_or("unknown", |(name, _)| name)
}

impl Security {
    /// Whether messages are signed at least, and the server is known by its certificate.
    pub fn is_on(&self) -> bool {
        self.policy != SecurityPolicy::None
    }
}

fn url(keys: &mut Keys) -> Result<String, ConfigError> {
    let fix = "the server's address, as in opc.tcp://192.168.0.10:4840";
    let url = keys.text("url")?.ok_or(ConfigError::Missing { key: "url", fix })?;
    // A password in it would end up in every log; it is not shown.
    let authority = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest).split('/').next();
    if authority.is_some_and(|authority| authority.contains('@')) {
        return Err(ConfigError::invalid("url", "has a user in it; use userName and password"));
    }
    if url.len() > MAX_URL || hostname_port_from_url(&url, DEFAULT_PORT).is_err() {
        return Err(ConfigError::invalid("url", format!("is not {fix}")));
    }
    Ok(url)
}

fn security(keys: &mut Keys) -> Result<Security, ConfigError> {
    let policy = match keys.text("securityPolicy")? {
        None => SecurityPolicy::None,
        Some(text) => {
            let name = text.rsplit_once('#').map_or(text.as_str(), |(_, name)| name);
            let known = POLICIES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
            known.map(|(_, policy)| *policy).ok_or_else(|| {
                let names = "None, Basic256Sha256, Aes128Sha256RsaOaep, Aes256Sha256RsaPss";
                let why = match name {
                    "Basic128Rsa15" | "Basic256" => " (it is withdrawn, because it can be broken)",
                    _ => "",
                };
                ConfigError::invalid("securityPolicy", format!("`{name}` is none of {names}{why}"))
            })?
        }
    };
    let on = policy != SecurityPolicy::None;
    let strongest = if on { MessageSecurityMode::SignAndEncrypt } else { MessageSecurityMode::None };
    let mode = keys.word("securityMode", MODES)?.unwrap_or(strongest);
    if on != (mode != MessageSecurityMode::None) {
        let problem = format!("{mode} does not go with securityPolicy {}", policy_name(policy));
        return Err(ConfigError::invalid("securityMode", problem));
    }
    let own = key_files(keys, "certificate", "privateKey")?;
    let server = match keys.text("remoteCertificate")? {
        None => None,
        Some(text) => Some(fingerprint(&text).map_or_else(
            || path("remoteCertificate", &text, "or a SHA-256 fingerprint").map(ServerCertificate::File),
            |digest| Ok(ServerCertificate::Fingerprint(digest)),
        )?),
    };
    if server.is_some() && !on {
        let problem = "nobody looks at it without a securityPolicy; add one, or remove this";
        return Err(ConfigError::invalid("remoteCertificate", problem));
    }
    let allow_expired = keys.boolean("allowExpiredCertificate")?.unwrap_or(false);
    Ok(Security { policy, mode, own, server, allow_expired })
}

fn user(keys: &mut Keys, security: &Security) -> Result<User, ConfigError> {
    let name = keys.text("userName")?;
    let certificate = key_files(keys, "userCertificate", "userPrivateKey")?;
    let plaintext = keys.boolean("plaintextPassword")?.unwrap_or(false);
    let fix = "of a file with the password, such as a mounted Secret: a Device can be read by many";
    // Whatever is there may be the password itself.
    let password =
        keys.text("password").map_err(|_| ConfigError::invalid("password", format!("is not the path {fix}")))?;
    let user = match (name, certificate) {
        (Some(_), Some(_)) => {
            return Err(ConfigError::invalid("userName", "userCertificate says who the user is too; keep one of them"));
        }
        (None, Some(files)) => User::Certificate(files),
        (None, None) => User::Anonymous,
        (Some(name), None) => {
            let Some(file) = &password else {
                return Err(ConfigError::Missing { key: "password", fix: "the path of the file with it" });
            };
            if !file.starts_with('/') || file.len() > MAX_TEXT {
                return Err(ConfigError::invalid("password", format!("is not the path {fix}")));
            }
            User::Password { name, file: file.into() }
        }
    };
    match user {
        User::Anonymous if password.is_some() => {
            Err(ConfigError::Missing { key: "userName", fix: "with `password`, whose it is" })
        }
        User::Password { .. } if !security.is_on() && !plaintext => {
            let problem = "without a securityPolicy whoever is on the network can get the password; add a policy, or \
                           say plaintextPassword: true";
            Err(ConfigError::invalid("userName", problem))
        }
        User::Certificate(_) if !security.is_on() => {
            let problem = "without a securityPolicy the server cannot be known; add one";
            Err(ConfigError::invalid("userCertificate", problem))
        }
        user => Ok(user),
    }
}

fn key_files(keys: &mut Keys, first: &'static str, second: &'static str) -> Result<Option<KeyFiles>, ConfigError> {
    match (keys.text(first)?, keys.text(second)?) {
        (None, None) => Ok(None),
        (Some(certificate), Some(key)) => {
            let (certificate, key) = (path(first, &certificate, "")?, path(second, &key, "")?);
            Ok(Some(KeyFiles { certificate, key }))
        }
        (Some(_), None) => Err(ConfigError::Missing { key: second, fix: "the path of the certificate's key" }),
        (None, Some(_)) => Err(ConfigError::Missing { key: first, fix: "the path of the key's certificate" }),
    }
}

/// A path that does not depend on where the mapper was started. The text is not shown: it may be a key.
fn path(key: &'static str, text: &str, or: &str) -> Result<PathBuf, ConfigError> {
    if text.starts_with('/') && text.len() <= MAX_TEXT && !text.contains('\0') {
        return Ok(text.into());
    }
    Err(ConfigError::invalid(key, format!("is not the path of a file, from / on {or}").trim_end().to_owned()))
}

/// 64 hexadecimal digits, as sha256sum writes them, or in pairs with colons, as openssl does.
fn fingerprint(text: &str) -> Option<[u8; 32]> {
    let digits: String = text.chars().filter(|c| *c != ':').take(FINGERPRINT_DIGITS + 1).collect();
    hex::decode(digits).ok()?.try_into().ok()
}

#[cfg(test)]
#[path = "protocol_tests.rs"]
mod tests;
