//! Certificates, policies and users.

use std::path::{Path, PathBuf};

use super::*;
use crate::peer::with;
use crate::values::subscribe;

const POLICIES: [&str; 3] = ["Basic256Sha256", "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss"];

async fn value(driver: &OpcUa, protocol: Json) -> Result<Value, Fault> {
    let mut line = Line::open(driver, &definition(protocol, &[("i", DataType::Int, node("Int32"))])).await?;
    let samples = line.read().await?;
    line.connection.close().await;
    Ok(samples.into_iter().next().and_then(|sample| sample.value).expect("a good value"))
}

/// The words of a server that cannot be used. It is tried again: what is wrong can be put right elsewhere.
fn refused(result: Result<Value, Fault>, expected: &str) -> String {
    match result {
        Err(Fault::Lost(words)) if words.contains(expected) => words,
        other => panic!("{expected}: {other:?}"),
    }
}

fn secret(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join(format!("secret-{text}"));
    std::fs::write(&path, format!("{text}\n")).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_trusted_when_somebody_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let peer = Peer::start(folder.path(), &["secure=yes"]);
    let pki = folder.path().join("pki");
    let driver = OpcUa::new(&pki);
    let protocol = peer.with(json!({ "securityPolicy": "Basic256Sha256" }));
    let words = refused(value(&driver, protocol.clone()).await, "is not trusted");
    let kept: Vec<_> = std::fs::read_dir(pki.join("rejected")).unwrap().map(|file| file.unwrap().path()).collect();
    let [kept] = kept.as_slice() else { panic!("{kept:?}") };
    assert!(words.contains(&kept.display().to_string()) && words.contains("peer of skerry"), "{words}");
    assert!(!pki.join("trusted").read_dir().unwrap().any(|_| true), "nothing trusts itself");
    // The fingerprint in the words is what a Device can say.
    let fingerprint = kept.file_stem().unwrap().to_str().unwrap().to_owned();
    let named = peer.with(json!({ "securityPolicy": "Basic256Sha256", "remoteCertificate": fingerprint }));
    assert_eq!(value(&driver, named).await.unwrap(), Value::Int(-70_000));
    refused(value(&driver, protocol.clone()).await, "is not trusted");
    std::fs::rename(kept, pki.join("trusted/peer.der")).unwrap();
    assert_eq!(value(&driver, protocol).await.unwrap(), Value::Int(-70_000));
    let other = peer.with(json!({ "securityPolicy": "Basic256Sha256", "remoteCertificate": "0".repeat(64) }));
    refused(value(&driver, other).await, "remoteCertificate names another one");
    // The server has no endpoint without security, and says what it has.
    let words = refused(value(&driver, peer.url()).await, "no endpoint with securityPolicy None");
    assert!(words.contains("Basic256Sha256/SignAndEncrypt"), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_policy_and_mode() {
    let folder = tempfile::tempdir().unwrap();
    let peer = Peer::start(folder.path(), &[]);
    let driver = OpcUa::new(folder.path().join("pki"));
    let server = folder.path().join("server.der");
    for policy in POLICIES {
        for mode in ["Sign", "SignAndEncrypt"] {
            let security = json!({ "securityPolicy": policy, "securityMode": mode, "remoteCertificate": server });
            let read =
                value(&driver, peer.with(security)).await.unwrap_or_else(|fault| panic!("{policy} {mode}: {fault}"));
            assert_eq!(read, Value::Int(-70_000));
        }
    }
    // Their own certificate is the same for all of them.
    let own = std::fs::read_dir(folder.path().join("pki/own")).unwrap().count();
    assert_eq!(own, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_trusts_the_mapper_when_it_is_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let clients = folder.path().join("clients");
    std::fs::create_dir(&clients).unwrap();
    let mut peer = Peer::start(folder.path(), &[&format!("clients={}", clients.display())]);
    let pki = folder.path().join("pki");
    let driver = OpcUa::new(&pki);
    let server = folder.path().join("server.der");
    let protocol = peer.with(json!({ "securityPolicy": "Basic256Sha256", "remoteCertificate": server }));
    let words = refused(value(&driver, protocol.clone()).await, "does not accept the mapper's certificate");
    let own = pki.join("own/cert.der");
    assert!(words.contains("BadCertificateUntrusted") && words.contains(&own.display().to_string()), "{words}");
    // Its uses, its names and its times are what a server may ask for.
    std::fs::copy(own, clients.join("mapper.der")).unwrap();
    peer.tell(&json!({ "reload": true }));
    assert_eq!(value(&driver, protocol).await.unwrap(), Value::Int(-70_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_goes_through_an_encrypted_session() {
    let folder = tempfile::tempdir().unwrap();
    let peer = Peer::start(folder.path(), &["secure=yes"]);
    let server = folder.path().join("server.der");
    let security = json!({ "securityPolicy": "Basic256Sha256", "remoteCertificate": server, "subscribe": true });
    let driver = OpcUa::new(folder.path().join("pki"));
    let device = definition(peer.with(security), &[("s", DataType::String, node("String"))]);
    let mut line = Line::open(&driver, &device).await.unwrap();
    let mut told = subscribe(&mut line).await;
    told.until("the first value", |last| last.get("s").is_some_and(|s| s.value == Some("skerry".into()))).await;
    line.write("s", "changed").await.unwrap();
    told.until("the change", |last| last["s"].value == Some("changed".into())).await;
    line.connection.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_is_known_by_the_password_of_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let mut peer = Peer::start(folder.path(), &["password=tide"]);
    let driver = OpcUa::new(folder.path().join("pki"));
    let server = folder.path().join("server.der");
    let url = peer.url();
    let user = |name: &str, file: PathBuf, mode: &str| {
        with(
            &url,
            json!({
                "securityPolicy": "Aes256Sha256RsaPss", "securityMode": mode, "remoteCertificate": server,
                "userName": name, "password": file
            }),
        )
    };
    let right = secret(folder.path(), "tide");
    for mode in ["Sign", "SignAndEncrypt"] {
        assert_eq!(value(&driver, user("operator", right.clone(), mode)).await.unwrap(), Value::Int(-70_000));
    }
    let wrong = secret(folder.path(), "ebb");
    let words =
        refused(value(&driver, user("operator", wrong.clone(), "Sign")).await, "does not accept the password of user");
    assert!(words.contains("operator") && words.contains("BadUserAccessDenied") && !words.contains("ebb"), "{words}");
    // The same one is not shown again at once: servers lock accounts. Another one is.
    let begun = std::time::Instant::now();
    let again = refused(value(&driver, user("operator", wrong.clone(), "Sign")).await, "does not accept the password");
    assert!(again == words && peer.refusals() == 1, "{again} after {:?}", begun.elapsed());
    // A Secret that was put right counts at once.
    std::fs::write(&wrong, "tide").unwrap();
    assert_eq!(value(&driver, user("operator", wrong, "Sign")).await.unwrap(), Value::Int(-70_000));
    let words = refused(value(&driver, user("operator", folder.path().join("missing"), "Sign")).await, "cannot use");
    assert!(words.contains("missing: No such file"), "{words}");
    // Without security only where the Device says that it may be so.
    let open = json!({ "userName": "operator", "password": right, "plaintextPassword": true });
    assert_eq!(value(&driver, peer.with(open)).await.unwrap(), Value::Int(-70_000));
    let words = refused(value(&driver, peer.url()).await, "the server takes no anonymous users");
    assert!(words.contains("UserName"), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_is_known_by_a_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    let params = rcgen::CertificateParams::new(vec!["operator".to_owned()]).unwrap();
    let (certificate, key_file) = (folder.path().join("user.pem"), folder.path().join("user-key.pem"));
    std::fs::write(&certificate, params.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    let peer = Peer::start(folder.path(), &[&format!("user={}", certificate.display())]);
    let driver = OpcUa::new(folder.path().join("pki"));
    let server = folder.path().join("server.der");
    let user = |certificate: &Path, key: &Path| {
        peer.with(json!({
            "securityPolicy": "Basic256Sha256", "remoteCertificate": server,
            "userCertificate": certificate, "userPrivateKey": key
        }))
    };
    assert_eq!(value(&driver, user(&certificate, &key_file)).await.unwrap(), Value::Int(-70_000));
    let pki = folder.path().join("pki");
    let other = user(&pki.join("own/cert.der"), &pki.join("private/key.pem"));
    refused(value(&driver, other).await, "does not accept the user's certificate");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mapper_s_certificate_may_be_given() {
    let folder = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    let mut params = rcgen::CertificateParams::default();
    let nameless = params.self_signed(&key).unwrap();
    params.subject_alt_names = vec![rcgen::SanType::URI("urn:plant:mapper".to_owned().try_into().unwrap())];
    // As a Secret of certificates names them.
    let file = |name: &str, text: String| {
        std::fs::write(folder.path().join(name), text).unwrap();
        folder.path().join(name)
    };
    let certificate = file("tls.crt", params.self_signed(&key).unwrap().pem());
    let (nameless, key) = (file("nameless.crt", nameless.pem()), file("tls.key", key.serialize_pem()));
    let peer = Peer::start(folder.path(), &["secure=yes"]);
    let own = |certificate: &Path| {
        peer.with(json!({
            "securityPolicy": "Basic256Sha256", "remoteCertificate": folder.path().join("server.der"),
            "certificate": certificate, "privateKey": key
        }))
    };
    let pki = folder.path().join("pki");
    let driver = OpcUa::new(&pki);
    assert_eq!(value(&driver, own(&certificate)).await.unwrap(), Value::Int(-70_000));
    assert!(!pki.join("own").exists(), "none is made that nobody needs");
    refused(value(&driver, own(&folder.path().join("none.pem"))).await, "none.pem: No such file");
    refused(value(&driver, own(&nameless)).await, "nameless.crt: the certificate has no application URI");
}

/// Everything that is logged, in all detail.
#[derive(Clone, Default)]
struct Logs(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Logs {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_log_has_a_secret_in_it() {
    let logs = Logs::default();
    let writer = logs.clone();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone());
    tracing::subscriber::set_global_default(subscriber.finish()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let peer = Peer::start(folder.path(), &["password=low-water"]);
    let password = secret(folder.path(), "low-water");
    let driver = OpcUa::new(folder.path().join("pki"));
    let protocol = peer.with(json!({
        "securityPolicy": "Basic256Sha256", "remoteCertificate": folder.path().join("server.der"),
        "userName": "operator", "password": password
    }));
    assert_eq!(value(&driver, protocol).await.unwrap(), Value::Int(-70_000));
    let logs = String::from_utf8_lossy(&logs.0.lock().unwrap()).into_owned();
    assert!(logs.contains("the mapper has a certificate now"), "it is logged at all: {logs}");
    // The library's details: session keys, and messages before they are encrypted.
    for forbidden in ["Derived", "nonce =", "Chunk before padding"] {
        assert!(!logs.contains(forbidden), "{forbidden}");
    }
    let without_path = logs.replace(&password.display().to_string(), "");
    assert!(!without_path.contains("low-water"), "{without_path}");
}
