//! From the configuration to a [`Login`]: the password, the certificates and the key.
//!
//! The files are read for each connection, so that new ones are used when they are there.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::error::Ended;
use super::options::{Mqtt, MqttTls};
use super::wire::Login;

/// Who the node is to its broker. `fallback_id` is its name there where the configuration has none.
pub(super) async fn login(options: &Mqtt, fallback_id: &str) -> Result<Login, Ended> {
    let server = options.parse().map_err(Ended::Options)?;
    let id = if options.client_id.is_empty() { fallback_id } else { &options.client_id };
    let user = match (&options.username, &options.password_file) {
        (Some(user), Some(path)) => {
            let mut password = read(path).await?;
            let end = password.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r')).map_or(0, |at| at + 1);
            password.truncate(end);
            Some((user.clone(), Some(password)))
        }
        (Some(user), None) => Some((user.clone(), None)),
        (None, _) => None,
    };
    let tls = match &options.tls {
        Some(tls) => Some(Arc::new(tls_config(tls).await?)),
        None => None,
    };
    Ok(Login {
        client_id: id.to_owned(),
        host: server.host,
        port: server.port,
        user,
        tls,
        keep_alive_seconds: options.keep_alive_seconds,
    })
}

async fn tls_config(tls: &MqttTls) -> Result<rustls::ClientConfig, Ended> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates(&tls.ca_file).await? {
        roots.add(certificate).map_err(Ended::Tls)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().map_err(Ended::Tls)?.with_root_certificates(roots);
    match (&tls.cert_file, &tls.key_file) {
        (Some(certificate), Some(key)) => {
            let chain = certificates(certificate).await?;
            let pem = read(key).await?;
            let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| unreadable(key, error))?;
            builder.with_client_auth_cert(chain, key).map_err(Ended::Tls)
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

async fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Ended> {
    let pem = read(path).await?;
    CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(|error| unreadable(path, error))
}

async fn read(path: &Path) -> Result<Vec<u8>, Ended> {
    tokio::fs::read(path).await.map_err(|source| Ended::File { path: path.display().to_string(), source })
}

fn unreadable(path: &Path, error: pem::Error) -> Ended {
    let source = std::io::Error::new(std::io::ErrorKind::InvalidData, error);
    Ended::File { path: path.display().to_string(), source }
}
