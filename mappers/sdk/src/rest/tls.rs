//! TLS of the REST server: 1.3 only, with client certificates where a CA for them is named.
//!
//! The files are looked at with each connection, and read when they have changed: certificates are renewed while a
//! mapper runs. Files that cannot be used are said once, and what was read before holds.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use crate::config::Rest;
use crate::error::Error;

/// When a file was written, its length and its inode; nothing where it is not.
type Stamp = Option<(i64, i64, u64, u64)>;

/// See the module documentation.
pub(crate) struct Tls {
    files: Files,
    current: Mutex<([Stamp; 3], TlsAcceptor)>,
}

#[derive(Debug, Clone)]
struct Files {
    cert: PathBuf,
    key: PathBuf,
    ca: Option<PathBuf>,
}

impl Tls {
    /// What the options ask for; nothing without certificates.
    pub(super) fn new(options: &Rest) -> Result<Option<Self>, Error> {
        let (Some(cert), Some(key)) = (options.cert_file.clone(), options.key_file.clone()) else {
            return Ok(None);
        };
        let files = Files { cert, key, ca: options.ca_file.clone() };
        let stamps = files.stamps();
        let acceptor = files.acceptor()?;
        Ok(Some(Self { files, current: Mutex::new((stamps, acceptor)) }))
    }

    /// With what the files hold now.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        let stamps = self.files.stamps();
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let (read, acceptor) = &mut *current;
        if *read != stamps {
            *read = stamps;
            match self.files.acceptor() {
                Ok(new) => {
                    tracing::info!("rest: certificates read again");
                    *acceptor = new;
                }
                Err(error) => {
                    tracing::warn!(error = crate::fault::chain(&error), "rest: the new certificates cannot be used");
                }
            }
        }
        acceptor.clone()
    }
}

impl Files {
    fn stamps(&self) -> [Stamp; 3] {
        let stamp = |path: &Path| {
            let meta = std::fs::metadata(path).ok()?;
            Some((meta.mtime(), meta.mtime_nsec(), meta.size(), meta.ino()))
        };
        [stamp(&self.cert), stamp(&self.key), self.ca.as_deref().and_then(stamp)]
    }

    fn acceptor(&self) -> Result<TlsAcceptor, Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let wrong = |what: &dyn std::fmt::Display| Error::Certificates(what.to_string());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| wrong(&error))?;
        let builder = match &self.ca {
            Some(ca) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(ca)? {
                    roots.add(certificate).map_err(|error| wrong(&error))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().map_err(|error| wrong(&error))?)
            }
            None => builder.with_no_client_auth(),
        };
        let key = PrivateKeyDer::from_pem_file(&self.key);
        let key = key.map_err(|error| wrong(&format!("{}: {error}", self.key.display())))?;
        let mut config = builder.with_single_cert(certificates(&self.cert)?, key).map_err(|error| wrong(&error))?;
        // A client that was let in before need not be let in now.
        config.send_tls13_tickets = 0;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let wrong = |error| Error::Certificates(format!("{}: {error}", path.display()));
    CertificateDer::pem_file_iter(path).map_err(wrong)?.collect::<Result<_, _>>().map_err(wrong)
}
