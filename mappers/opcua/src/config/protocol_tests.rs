//! What the keys of a server mean, and what is refused.

use super::*;
use serde_json::json;

fn parse(json: serde_json::Value) -> Result<ProtocolConfig, ConfigError> {
    let serde_json::Value::Object(object) = json else { panic!("an object") };
    ProtocolConfig::parse(object)
}

const URL: &str = "opc.tcp://10.0.0.1:4840";

#[test]
fn mappers_gos_sample_is_understood() {
    // kubeedge/mappers-go, build/crd-samples/devices/opcua-device.yaml
    let config = parse(json!({
        "opcua": {
            "url": "opc.tcp://192.168.56.103:4840", "userName": "testuser", "password": "/ca/pass",
            "certificate": "/ca/clientcert.pem", "privateKey": "/ca/clientkey.pem",
            "securityMode": "Sign", "securityPolicy": "Basic256Sha256"
        },
        "common": { "customizedValues": { "remoteCertificate": "/ca/servercert.pem" } }
    }));
    let config = config.unwrap();
    assert_eq!(config.url, "opc.tcp://192.168.56.103:4840");
    assert_eq!(config.user, User::Password { name: "testuser".into(), file: "/ca/pass".into() });
    let Security { policy, mode, own, server, allow_expired } = config.security;
    assert_eq!((policy, mode), (SecurityPolicy::Basic256Sha256, MessageSecurityMode::Sign));
    assert_eq!(own.unwrap(), KeyFiles { certificate: "/ca/clientcert.pem".into(), key: "/ca/clientkey.pem".into() });
    assert_eq!(server, Some(ServerCertificate::File("/ca/servercert.pem".into())));
    assert!(!allow_expired && !config.subscribe);
    assert_eq!(config.timeout, DEFAULT_TIMEOUT);
}

#[test]
fn a_url_is_enough() {
    let config = parse(json!({ "URL": URL })).unwrap();
    assert_eq!((config.user.clone(), config.security.is_on()), (User::Anonymous, false));
    assert_eq!(config.to_string(), URL);
}

#[test]
fn our_own_keys_are_understood() {
    let digest = "AB:".repeat(31) + "ab";
    let config = parse(json!({
        "url": URL, "securityPolicy": "http://opcfoundation.org/UA/SecurityPolicy#Aes256_Sha256_RsaPss",
        "remoteCertificate": digest, "userCertificate": "/u/c.pem", "userPrivateKey": "/u/k.pem", "timeout": "1.5",
        "subscribe": "true", "allowExpiredCertificate": true
    }));
    let config = config.unwrap();
    assert_eq!(config.security.policy, SecurityPolicy::Aes256Sha256RsaPss);
    assert_eq!(config.security.mode, MessageSecurityMode::SignAndEncrypt, "the strongest where none is said");
    assert_eq!(config.security.server, Some(ServerCertificate::Fingerprint([0xAB; 32])));
    assert!(config.subscribe && config.security.allow_expired);
    assert_eq!(config.timeout, Duration::from_millis(1500));
    assert!(matches!(config.user, User::Certificate(_)));
}

#[test]
fn devices_share_a_session_when_it_would_be_the_same() {
    let name = |json: serde_json::Value| parse(json).unwrap().to_string();
    assert_eq!(name(json!({ "url": URL })), name(json!({ "url": URL, "subscribe": true, "securityPolicy": "None" })));
    let user =
        |user: &str, file: &str| json!({ "url": URL, "userName": user, "password": file, "plaintextPassword": true });
    let secure = |mode: &str, digest: &str| json!({ "url": URL, "securityPolicy": "Basic256Sha256", "securityMode": mode, "remoteCertificate": digest });
    let others = [
        json!({ "url": URL }),
        json!({ "url": URL, "timeout": 1 }),
        user("a", "/p"),
        user("b", "/p"),
        user("a", "/q"),
        secure("Sign", "/p"),
        secure("SignAndEncrypt", "/p"),
        secure("Sign", &"0".repeat(64)),
    ];
    let names: std::collections::BTreeSet<String> = others.iter().cloned().map(name).collect();
    assert_eq!(names.len(), others.len(), "{names:?}");
}

#[test]
fn mistakes_are_refused_with_the_key_and_the_fix() {
    let with = |more: serde_json::Value| {
        let mut config = json!({ "url": URL });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    };
    let table = [
        (json!({}), "`url` is missing: the server's address"),
        (json!({ "url": "http://10.0.0.1" }), "`url`: is not the server's address"),
        (json!({ "url": "opc.tcp://" }), "`url`: is not the server's address"),
        (json!({ "url": "opc.tcp://me:hunter2@host:4840" }), "`url`: has a user in it; use userName"),
        (with(json!({ "securityPolicy": "Basic256" })), "`securityPolicy`: `Basic256` is none of None, Basic256Sha256"),
        (with(json!({ "securityPolicy": "Basic256" })), "it is withdrawn"),
        (with(json!({ "securityMode": "Sign" })), "`securityMode`: Sign does not go with securityPolicy None"),
        (
            with(json!({ "securityPolicy": "Basic256Sha256", "securityMode": "None" })),
            "`securityMode`: None does not go with securityPolicy Basic256Sha256",
        ),
        (with(json!({ "certificate": "/c" })), "`privateKey` is missing: the path of the certificate's key"),
        (with(json!({ "userPrivateKey": "/k" })), "`userCertificate` is missing"),
        (with(json!({ "certificate": "c", "privateKey": "/k" })), "`certificate`: is not the path of a file"),
        (with(json!({ "remoteCertificate": "/c" })), "`remoteCertificate`: nobody looks at it"),
        (
            with(json!({ "securityPolicy": "Basic256Sha256", "remoteCertificate": "abc" })),
            "`remoteCertificate`: is not the path of a file, from / on or a SHA-256 fingerprint",
        ),
        (with(json!({ "userName": "a" })), "`password` is missing"),
        (with(json!({ "password": "/p" })), "`userName` is missing"),
        (with(json!({ "userName": "a", "password": "/p" })), "`userName`: without a securityPolicy whoever"),
        (
            with(json!({ "userName": "a", "password": "/p", "userCertificate": "/c", "userPrivateKey": "/k" })),
            "`userName`: userCertificate says who",
        ),
        (
            with(json!({ "userCertificate": "/c", "userPrivateKey": "/k" })),
            "`userCertificate`: without a securityPolicy",
        ),
        (with(json!({ "timeout": 0 })), "`timeout`: 0 is not 0.1 to 60 seconds"),
        (with(json!({ "ulr": 0 })), "unknown key `ulr`; known here: opcua, common, customizedValues, url"),
    ];
    for (config, expected) in table {
        let problem = parse(config.clone()).unwrap_err().to_string();
        assert!(problem.contains(expected), "{config}: {problem}");
    }
}

#[test]
fn a_password_in_a_device_is_refused_and_not_shown() {
    for secret in [json!("hunter2"), json!({ "inner": "hunter2" }), json!(["hunter2"])] {
        let config = json!({
            "url": URL, "userName": "a", "password": secret, "securityPolicy": "Basic256Sha256"
        });
        let problem = parse(config).unwrap_err().to_string();
        assert!(problem.contains("`password`: is not the path of a file") && !problem.contains("hunter2"), "{problem}");
    }
    let url = parse(json!({ "url": "opc.tcp://me:hunter2@host" })).unwrap_err().to_string();
    assert!(!url.contains("hunter2"), "{url}");
}
