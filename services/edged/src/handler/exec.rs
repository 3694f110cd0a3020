//! A command in the container, through the runtime.
//!
//! The runtime kills the command at its timeout. Should the runtime itself hang, its call is dropped a
//! little later (`Cri::exec_sync`), which ends the command too; then nothing is said about the container, so
//! that a runtime that hangs for a minute makes nobody unhealthy. Variables in the command are replaced by
//! those of the spec that have a plain value, as the kubelet does it; no shell is involved.

use std::time::Duration;

use k8s_openapi::api::core::v1::ExecAction;
use tokio::time::timeout;
use tonic::Code;

use super::{MAX_OUTPUT, Outcome, Purpose, Target, bounded, seconds};
use crate::env;

/// A runtime that works answers this question at once.
const ANSWERS: Duration = Duration::from_secs(2);

pub(super) async fn run(target: Target<'_>, exec: &ExecAction, purpose: Purpose, within: Duration) -> Outcome {
    let plain = |name: &str| {
        let named = target.container.env.iter().flatten().rev().find(|e| e.name == name)?;
        named.value.clone()
    };
    let command: Vec<String> = match purpose {
        Purpose::Probe => exec.command.iter().flatten().map(|word| env::expand(word, plain)).collect(),
        // Hooks get their command as it is written.
        Purpose::Hook => exec.command.iter().flatten().cloned().collect(),
    };
    let shown = command.join(" ");
    match target.cri.exec_sync(target.container_id, command, within).await {
        Ok(reply) if reply.exit_code == 0 => Outcome::Success,
        Ok(mut reply) => {
            // Either may have megabytes.
            reply.stdout.truncate(MAX_OUTPUT);
            reply.stderr.truncate(MAX_OUTPUT);
            let output = bounded(&[reply.stdout.as_slice(), reply.stderr.as_slice()].concat());
            Outcome::Failure(match purpose {
                Purpose::Probe => output,
                Purpose::Hook => format!("command '{shown}' exited with {}: {output}", reply.exit_code),
            })
        }
        Err(status) if status.code() == Code::DeadlineExceeded => match timeout(ANSWERS, target.cri.version()).await {
            Ok(Ok(_)) => Outcome::Failure(format!("command timed out: {shown:?} timed out after {}", seconds(within))),
            _ => Outcome::Unknown("the container runtime does not answer".into()),
        },
        Err(status) => Outcome::Unknown(format!("rpc error: code = {:?} desc = {}", status.code(), status.message())),
    }
}
