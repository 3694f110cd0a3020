//! `/run` and `/configz`: a command with its output at once, and what the agent was configured with.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use serde_json::json;

use super::answer::{Answer, json, text};
use super::find::{self, Refusal};
use super::route::ContainerPath;
use crate::config::Config;
use crate::context::Context;

/// A command that takes longer is for exec.
const LONGEST: Duration = Duration::from_secs(120);

/// Runs a command, words separated by spaces, and answers with its output.
pub(super) async fn run(context: &Arc<Context>, path: &ContainerPath, query: &str) -> Result<Answer, Refusal> {
    let command = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "cmd").map(|(_, value)| value);
    let words: Vec<String> = command.unwrap_or_default().split(' ').map(str::to_owned).collect();
    if words.first().is_none_or(String::is_empty) {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "you must specify a command in cmd"));
    }
    let (_, container) = find::container(context, path).await?;
    let done = context.cri.exec_sync(&container.id, words, LONGEST).await?;
    let output = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
    let code = done.exit_code;
    if code == 0 {
        Ok(text(StatusCode::OK, output))
    } else {
        let why = format!("command exited with {code}: {output}");
        Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, why))
    }
}

/// The configuration in the kubelet's words, as far as it has some for it.
pub(super) fn configz(config: &Config) -> Answer {
    let dns: Vec<String> = config.node.cluster_dns.iter().map(ToString::to_string).collect();
    let api = config.api.as_ref();
    json(&json!({"kubeletconfig": {
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "address": api.map(|api| api.listen.ip().to_string()),
        "port": api.map(|api| api.listen.port()),
        "authentication": {
            "x509": {"clientCAFile": api.and_then(|api| api.client_ca_file.as_ref())},
            "webhook": {"enabled": true},
            "anonymous": {"enabled": false},
        },
        "authorization": {"mode": "Webhook"},
        "clusterDNS": dns,
        "clusterDomain": config.node.cluster_domain,
        "maxPods": config.node.max_pods,
        "podPidsLimit": config.node.pod_pids_limit,
        "allowedUnsafeSysctls": config.node.allowed_unsafe_sysctls,
        "memoryThrottlingFactor": config.node.memory_throttling_factor,
        "podLogsDir": config.pod_log_dir,
    }}))
}
