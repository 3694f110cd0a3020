//! A client for the binary: from a kubeconfig, the environment, or a pod's own account.
//!
//! Called once by `main`. Also finds the CA of the API server, which the controllers publish in every
//! namespace.

use std::path::Path;

use kube::config::{KubeConfigOptions, Kubeconfig};

use crate::error::Error;

/// A client for the cluster of `kubeconfig` (or the usual places without it), and the CA of its API
/// server as PEM; empty when the cluster is trusted through the system's CAs.
///
/// # Errors
/// When the kubeconfig cannot be read, names no usable cluster, or holds wrong keys.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<(kube::Client, String), Error> {
    let wrong = |e: kube::config::KubeconfigError| Error::Kubeconfig(Box::new(kube::Error::InferKubeconfig(e)));
    let config = match kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).map_err(wrong)?;
            kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(wrong)?
        }
        None => kube::Config::infer().await.map_err(|e| Error::Kubeconfig(Box::new(kube::Error::InferConfig(e))))?,
    };
    let ca = config.root_cert.iter().flatten().map(|der| pem(der)).collect();
    let client = kube::Client::try_from(config).map_err(|e| Error::Kubeconfig(Box::new(e)))?;
    Ok((client, ca))
}

/// A certificate as PEM.
fn pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at_checked(64).unwrap_or((rest, ""));
        out.push_str(line);
        out.push('\n');
        rest = tail;
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_has_lines_of_64() {
        let text = pem(&[7; 100]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 5);
        assert!(lines.iter().all(|l| l.len() <= 64));
    }

    #[tokio::test]
    async fn a_missing_kubeconfig_is_named() {
        let error = connect(Some(Path::new("/nowhere/kubeconfig"))).await.err().map(|e| skerry_common::chain(&e));
        assert!(error.is_some_and(|e| e.contains("/nowhere/kubeconfig")));
    }
}
