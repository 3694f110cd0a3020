//! TLS: a server whose CA the operator named is believed, and no other.

use std::path::PathBuf;
use std::sync::Arc;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::PrivateKeyDer;
use serde_json::json;
use skerry_mapper_dataplane::Secrets;
use skerry_mapper_sdk::{DataPlaneConfig, DataType};
use tokio_rustls::TlsAcceptor;

use crate::server::behind;
use crate::support::{Fixture, device};

#[tokio::test]
async fn only_a_server_that_is_known_gets_values() {
    let folder = tempfile::tempdir().unwrap();
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, key.cert.pem()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let private = PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], private)
        .unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (router, got) = behind();
    let accept = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (accept, router) = (accept.clone(), router.clone());
            tokio::spawn(async move {
                if let Ok(stream) = accept.accept(stream).await {
                    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).await;
                }
            });
        }
    });
    let fixture = |name: &str, ca_file: Option<PathBuf>| {
        let folder = Some(folder.path().join(name));
        Fixture::with(DataPlaneConfig { folder, ca_file, ..DataPlaneConfig::default() }, Secrets::default())
    };
    let push = json!({"http": {"hostName": "https://localhost", "port": port, "requestPath": "/"}});
    let counter = device("counter", DataType::Int, &push);
    let stranger = fixture("stranger", None);
    stranger.define(&counter);
    stranger.record(&counter, 0..1);
    stranger.until("failures", 1).await;
    assert!(got.lock().unwrap().is_empty());
    let known = fixture("known", Some(ca_file));
    known.define(&counter);
    known.record(&counter, 0..1);
    known.until("delivered", 1).await;
    assert_eq!(got.lock().unwrap().len(), 1);
}
