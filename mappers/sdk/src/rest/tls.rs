//! TLS of the REST server: 1.3 only, with client certificates where a CA for them is named.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use crate::config::Rest;
use crate::error::Error;

/// The acceptor that the options ask for; nothing without certificates.
pub(super) fn acceptor(options: &Rest) -> Result<Option<TlsAcceptor>, Error> {
    let (Some(cert), Some(key)) = (&options.cert_file, &options.key_file) else {
        return Ok(None);
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let wrong = |what: &dyn std::fmt::Display| Error::Certificates(what.to_string());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| wrong(&error))?;
    let builder = match &options.ca_file {
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
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(&format!("{}: {error}", key.display())))?;
    let config = builder.with_single_cert(certificates(cert)?, key).map_err(|error| wrong(&error))?;
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let wrong = |error| Error::Certificates(format!("{}: {error}", path.display()));
    CertificateDer::pem_file_iter(path).map_err(wrong)?.collect::<Result<_, _>>().map_err(wrong)
}
