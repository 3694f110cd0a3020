//! The keys of the API: CA, serving certificate, client certificates, service account signing key.
//!
//! `Config::build` calls [`Pki::load`]. Invariants: the CA and the signing key are made once, written with
//! mode 0600 and never overwritten (hard link of a finished temporary file); serving certificates live in
//! memory only and are made anew at start and at two thirds of their life.
//! Limits: lifetimes below. A crash while a key is written leaves a temporary file and no key.

use crate::error::ServerError;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Serving and client certificates.
const LEAF_LIFETIME: Duration = Duration::from_secs(365 * 86_400);
/// Certificates are valid from a little in the past, for clocks that are behind.
const BACKDATE: Duration = Duration::from_secs(300);
const CA_FILE: &str = "ca.pem";
const SIGNING_FILE: &str = "service-account.pem";

/// The CA and the signing key.
pub(crate) struct Pki {
    ca_pem: String,
    ca_der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    signing: KeyPair,
}

fn failed(file: &str) -> impl Fn(rcgen::Error) -> ServerError {
    move |error| ServerError::Pki { file: file.to_owned(), why: error.to_string() }
}

impl Pki {
    /// Loads the keys from `dir`, making them when they are not there.
    pub(crate) fn load(dir: &Path) -> Result<Self, ServerError> {
        std::fs::create_dir_all(dir).map_err(ServerError::io(dir))?;
        let ca = keep(dir, CA_FILE, || {
            let key = KeyPair::generate()?;
            let mut params = named("skerry-api-ca", &[]);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages =
                vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
            set_validity(&mut params, CA_LIFETIME);
            let certificate = params.self_signed(&key)?;
            Ok(certificate.pem() + &key.serialize_pem())
        })?;
        let bad = |why: &str| ServerError::Pki { file: CA_FILE.into(), why: why.to_owned() };
        let at = ca.find("-----BEGIN PRIVATE KEY-----").ok_or_else(|| bad("no private key"))?;
        let (certificate, key) = ca.split_at(at);
        let key = KeyPair::from_pem(key).map_err(failed(CA_FILE))?;
        let issuer = Issuer::from_ca_cert_pem(certificate, key).map_err(failed(CA_FILE))?;
        let ca_der = <CertificateDer<'_> as rustls::pki_types::pem::PemObject>::from_pem_slice(certificate.as_bytes())
            .map_err(|e| bad(&e.to_string()))?;
        let signing = keep(dir, SIGNING_FILE, || KeyPair::generate().map(|key| key.serialize_pem()))?;
        let signing = KeyPair::from_pem(&signing).map_err(failed(SIGNING_FILE))?;
        Ok(Self { ca_pem: certificate.to_owned(), ca_der, issuer, signing })
    }

    /// The CA certificate as PEM.
    pub(crate) fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The CA certificate.
    pub(crate) fn ca_der(&self) -> CertificateDer<'static> {
        self.ca_der.clone()
    }

    /// Private and public PEM of the service account signing key.
    pub(crate) fn signing_pems(&self) -> (String, String) {
        (self.signing.serialize_pem(), self.signing.public_key_pem())
    }

    /// Public key point of the signing key (uncompressed).
    pub(crate) fn signing_point(&self) -> &[u8] {
        self.signing.public_key_raw()
    }

    /// A client certificate and its key, as PEM.
    pub(crate) fn issue_client(&self, user: &str, groups: &[&str]) -> Result<(String, String), ServerError> {
        let mut params = named(user, groups);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let (certificate, key) = self.issue(params).map_err(failed("client certificate"))?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    fn issue(&self, mut params: CertificateParams) -> Result<(rcgen::Certificate, KeyPair), rcgen::Error> {
        let key = KeyPair::generate()?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.serial_number = Some(SerialNumber::from_slice(&rand::random::<[u8; 16]>()));
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, LEAF_LIFETIME);
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok((certificate, key))
    }

    fn issue_serving(&self, names: &[String]) -> Result<Arc<CertifiedKey>, ServerError> {
        const FILE: &str = "serving certificate";
        let mut params = CertificateParams::new(names).map_err(failed(FILE))?;
        params.distinguished_name.push(DnType::CommonName, "skerry-apiserver");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let (certificate, key) = self.issue(params).map_err(failed(FILE))?;
        let chain = vec![certificate.der().clone(), self.ca_der()];
        let key = PrivateKeyDer::try_from(key.serialize_der())
            .map_err(|why| ServerError::Pki { file: FILE.into(), why: why.to_owned() })?;
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key)
            .map_err(|e| ServerError::Pki { file: FILE.into(), why: e.to_string() })?;
        Ok(Arc::new(CertifiedKey::new(chain, key)))
    }
}

fn named(user: &str, groups: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, user);
    for group in groups {
        params.distinguished_name.push(DnType::OrganizationName, *group);
    }
    params
}

fn set_validity(params: &mut CertificateParams, lifetime: Duration) {
    let now = SystemTime::now();
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + lifetime).into();
}

/// Reads `dir/file`, or makes it. The first process that finishes wins; nothing is overwritten.
fn keep(dir: &Path, file: &str, make: impl FnOnce() -> Result<String, rcgen::Error>) -> Result<String, ServerError> {
    let path = dir.join(file);
    match std::fs::read_to_string(&path) {
        Ok(text) => return Ok(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(ServerError::io(path)(error)),
    }
    let text = make().map_err(failed(file))?;
    let temporary = dir.join(format!(".{file}.{}", uuid::Uuid::new_v4()));
    write_private(&temporary, &text)?;
    let linked = std::fs::hard_link(&temporary, &path);
    std::fs::remove_file(&temporary).map_err(ServerError::io(&temporary))?;
    match linked {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(ServerError::io(path)(error)),
    }
    std::fs::File::open(dir).and_then(|d| d.sync_all()).map_err(ServerError::io(dir))?;
    std::fs::read_to_string(&path).map_err(ServerError::io(path))
}

/// Writes a new file with mode 0600 and syncs it.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<(), ServerError> {
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(ServerError::io(path))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(ServerError::io(path))
}

/// Gives the serving certificate to each handshake, renewed at two thirds of its life.
pub(crate) struct Serving {
    pki: Arc<Pki>,
    names: Vec<String>,
    current: Mutex<(Arc<CertifiedKey>, SystemTime)>,
}

impl std::fmt::Debug for Serving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Serving").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Serving {
    pub(crate) fn new(pki: Arc<Pki>, names: Vec<String>) -> Result<Self, ServerError> {
        let first = pki.issue_serving(&names)?;
        Ok(Self { pki, names, current: Mutex::new((first, SystemTime::now())) })
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let age = current.1.elapsed().unwrap_or_default();
        if age > LEAF_LIFETIME * 2 / 3 {
            match self.pki.issue_serving(&self.names) {
                Ok(fresh) => *current = (fresh, SystemTime::now()),
                Err(error) => tracing::error!(%error, "cannot renew the serving certificate"),
            }
        }
        Some(current.0.clone())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn keys_are_made_once_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let first = Pki::load(dir.path()).unwrap();
        let second = Pki::load(dir.path()).unwrap();
        assert_eq!(first.ca_pem(), second.ca_pem());
        assert_eq!(first.signing_pems(), second.signing_pems());
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            assert_eq!(entry.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_client_certificate_says_who() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::load(dir.path()).unwrap();
        let (pem, _) = pki.issue_client("ann", &["team-a", "team-b"]).unwrap();
        let der = <CertificateDer<'_> as rustls::pki_types::pem::PemObject>::from_pem_slice(pem.as_bytes()).unwrap();
        let user = crate::auth::user_of_certificate(&der).unwrap();
        assert_eq!(user.name, "ann");
        assert!(user.is_in("team-b") && user.is_in("system:authenticated") && !user.is_in("system:masters"));
    }
}
