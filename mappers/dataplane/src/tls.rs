//! TLS to sinks: with the CAs of the system, and with one more file that the operator may name.
//!
//! Made when the first sink needs it, since the CAs of a system are hundreds; a mapper without such a sink has none.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

/// Whom we believe. Clones share what was made.
#[derive(Debug, Clone)]
pub(crate) struct Tls {
    ca_file: Option<PathBuf>,
    made: Arc<OnceLock<Arc<ClientConfig>>>,
}

impl Tls {
    pub(crate) fn new(ca_file: Option<PathBuf>) -> Self {
        Self { ca_file, made: Arc::default() }
    }

    /// The certificates of all CAs.
    ///
    /// # Errors
    /// When the operator's file cannot be used, in words.
    pub(crate) fn roots(&self) -> Result<Vec<CertificateDer<'static>>, String> {
        // What cannot be read of the system's is no reason to believe nobody.
        let mut roots = rustls_native_certs::load_native_certs().certs;
        if let Some(path) = &self.ca_file {
            let unusable = |error: &dyn std::fmt::Display| format!("ca_file {}: {error}", path.display());
            let more = CertificateDer::pem_file_iter(path).map_err(|error| unusable(&error))?;
            for certificate in more {
                roots.push(certificate.map_err(|error| unusable(&error))?);
            }
        }
        Ok(roots)
    }

    /// The operator's file, for libraries that know the system's CAs themselves.
    ///
    /// # Errors
    /// As [`Tls::roots`].
    #[cfg(feature = "redis")]
    pub(crate) fn own_pem(&self) -> Result<Option<Vec<u8>>, String> {
        let read = |path| std::fs::read(path).map_err(|error| format!("ca_file: {error}"));
        self.ca_file.as_ref().map(read).transpose()
    }

    /// As rustls wants it.
    ///
    /// # Errors
    /// As [`Tls::roots`].
    pub(crate) fn config(&self) -> Result<Arc<ClientConfig>, String> {
        if let Some(made) = self.made.get() {
            return Ok(Arc::clone(made));
        }
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(self.roots()?);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
        let config = Arc::new(builder.with_root_certificates(store).with_no_client_auth());
        Ok(Arc::clone(self.made.get_or_init(|| config)))
    }
}
