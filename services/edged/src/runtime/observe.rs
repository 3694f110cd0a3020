//! Looks at one pod in the runtime.
//!
//! Called by the pod's worker before each decision. Lists are asked for every time; the status of a
//! container only when its state changed, since an ended container does not change any more. An
//! error means that nothing was seen, never that nothing is there. Termination messages are read
//! here, bounded as in the kubelet.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use k8s_openapi::api::core::v1::{self as api, ContainerUser};
use skerry_proto::cri::v1::{
    Container as ListedContainer, ContainerState, ContainerStatus, LinuxContainerUser, PodSandbox, PodSandboxState,
    PodSandboxStatus,
};
use tonic::Status;

use super::Cri;
use crate::pod::labels;
use crate::pod::observed::{Container, Observed, Sandbox, State};

/// Longest termination message in bytes.
const MAX_MESSAGE: u64 = 4096;
/// What is taken from the log instead, in bytes and lines.
const MAX_LOG_BYTES: usize = 2048;
const MAX_LOG_LINES: usize = 80;
/// The end of the log that is looked at: 80 short lines with their time stamps, or one long line.
const LOG_WINDOW: u64 = 16 << 10;
/// A line of the log is `<time> <stream> <flag> <text>`; the flag `P` says that the line goes on.
const LOG_PREFIX_FIELDS: usize = 4;

/// One pod's view of the runtime, with its cache.
#[derive(Debug, Default)]
pub(crate) struct Observer {
    containers: HashMap<String, (i32, Container)>,
    /// By sandbox that is ready.
    ips: HashMap<String, Vec<String>>,
}

impl Observer {
    /// See the module documentation.
    ///
    /// # Errors
    /// When any of the calls failed; what was seen before is not used instead.
    pub(crate) async fn observe(&mut self, cri: &Cri, uid: &str) -> Result<Observed, Status> {
        let (sandboxes, containers) = tokio::try_join!(cri.sandboxes(Some(uid)), cri.containers(Some(uid)))?;
        let mut seen = Observed::default();
        for sandbox in sandboxes {
            seen.sandboxes.push(self.sandbox(cri, sandbox).await?);
        }
        for container in containers {
            seen.containers.extend(self.container(cri, container).await?);
        }
        let ids: HashSet<&str> = seen.containers.iter().map(|c| c.id.as_str()).collect();
        self.containers.retain(|id, _| ids.contains(id.as_str()));
        let ready: HashSet<&str> = seen.sandboxes.iter().filter(|s| s.ready).map(|s| s.id.as_str()).collect();
        self.ips.retain(|id, _| ready.contains(id.as_str()));
        seen.sandboxes.sort_by_key(|s| (std::cmp::Reverse(s.attempt), std::cmp::Reverse(s.created_ms)));
        seen.containers.sort_by_key(|c| (std::cmp::Reverse(c.created_ms), std::cmp::Reverse(c.restart_count)));
        Ok(seen)
    }

    async fn sandbox(&mut self, cri: &Cri, listed: PodSandbox) -> Result<Sandbox, Status> {
        let mut ready = listed.state == PodSandboxState::SandboxReady as i32;
        let mut ips = Vec::new();
        if ready {
            match self.ips.get(&listed.id) {
                Some(known) => ips = known.clone(),
                None => match cri.sandbox_status(&listed.id).await? {
                    Some(status) if status.id != listed.id => return Err(another("sandbox")),
                    Some(status) => {
                        ips = ips_of(&status);
                        self.ips.insert(listed.id.clone(), ips.clone());
                    }
                    None => ready = false,
                },
            }
        }
        Ok(Sandbox {
            id: listed.id,
            attempt: listed.metadata.map(|m| m.attempt).unwrap_or_default(),
            ready,
            created_ms: listed.created_at / 1_000_000,
            ips,
        })
    }

    async fn container(&mut self, cri: &Cri, listed: ListedContainer) -> Result<Option<Container>, Status> {
        if let Some((state, known)) = self.containers.get(&listed.id)
            && *state == listed.state
        {
            return Ok(Some(known.clone()));
        }
        // Gone between the list and this: as if it had not been listed.
        let Some(status) = cri.container_status(&listed.id).await?.and_then(|r| r.status) else { return Ok(None) };
        // A reply about another container must not decide about this one.
        if status.id != listed.id {
            return Err(another("container"));
        }
        let state = status.state;
        let container = container_of(&listed, status);
        self.containers.insert(listed.id, (state, container.clone()));
        Ok(Some(container))
    }
}

fn another(what: &str) -> Status {
    Status::internal(format!("the runtime answered with another {what} than asked for"))
}

fn ips_of(status: &PodSandboxStatus) -> Vec<String> {
    let Some(network) = &status.network else { return Vec::new() };
    let all = std::iter::once(&network.ip).chain(network.additional_ips.iter().map(|i| &i.ip));
    all.filter(|ip| ip.parse::<std::net::IpAddr>().is_ok()).cloned().collect()
}

fn container_of(listed: &ListedContainer, status: ContainerStatus) -> Container {
    let ms = |ns: i64| ns.max(0) / 1_000_000;
    let annotation = |name: &str| status.annotations.get(name).map(String::as_str);
    let state = match ContainerState::try_from(status.state) {
        Ok(ContainerState::ContainerCreated) => State::Created,
        Ok(ContainerState::ContainerRunning) => State::Running,
        Ok(ContainerState::ContainerExited) => State::Exited,
        _ => State::Unknown,
    };
    let message = match state {
        State::Exited => termination_message(&status).unwrap_or_else(|| status.message.clone()),
        _ => String::new(),
    };
    let name = status.labels.get(labels::CONTAINER_NAME).cloned();
    Container {
        id: status.id.clone(),
        name: name.or_else(|| status.metadata.as_ref().map(|m| m.name.clone())).unwrap_or_default(),
        sandbox_id: listed.pod_sandbox_id.clone(),
        restart_count: annotation(labels::RESTART_COUNT).and_then(|t| t.parse().ok()).unwrap_or_default(),
        state,
        created_ms: ms(status.created_at),
        started_ms: ms(status.started_at),
        finished_ms: ms(status.finished_at),
        exit_code: status.exit_code,
        reason: status.reason.clone(),
        message,
        image: status.image.as_ref().map(|i| i.image.clone()).unwrap_or_default(),
        image_id: if status.image_ref.is_empty() { listed.image_ref.clone() } else { status.image_ref.clone() },
        hash: annotation(labels::HASH).unwrap_or_default().to_owned(),
        resources: annotation(labels::RESOURCES).unwrap_or_default().to_owned(),
        user: status.user.as_ref().and_then(|u| u.linux.as_ref()).map(user),
        grace_s: annotation(labels::GRACE).and_then(|t| t.parse().ok()),
    }
}

fn user(linux: &LinuxContainerUser) -> ContainerUser {
    let supplemental_groups = Some(linux.supplemental_groups.clone()).filter(|groups| !groups.is_empty());
    let user = api::LinuxContainerUser { uid: linux.uid, gid: linux.gid, supplemental_groups };
    ContainerUser { linux: Some(user) }
}

/// What the container wrote for us, or the end of its log if it failed and the policy says so.
fn termination_message(status: &ContainerStatus) -> Option<String> {
    let path = status.annotations.get(labels::MESSAGE_PATH)?;
    let host = status.mounts.iter().find(|m| m.container_path == *path).map(|m| m.host_path.clone());
    let text = host.and_then(|h| read_end(Path::new(&h), MAX_MESSAGE)).filter(|t| !t.is_empty());
    if text.is_some() {
        return text;
    }
    let fallback = status.annotations.get(labels::MESSAGE_POLICY).is_some_and(|p| p == "FallbackToLogsOnError");
    if !fallback || status.exit_code == 0 || status.log_path.is_empty() {
        return None;
    }
    Some(last_lines(&read_end(Path::new(&status.log_path), LOG_WINDOW)?)).filter(|t| !t.is_empty())
}

/// What the container printed last, without the log's own columns.
fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let mut text = String::new();
    for line in lines.get(lines.len().saturating_sub(MAX_LOG_LINES)..).unwrap_or_default() {
        let mut fields = line.splitn(LOG_PREFIX_FIELDS, ' ').skip(2);
        // The first line may have been cut.
        let (Some(flag @ ("F" | "P")), Some(content)) = (fields.next(), fields.next()) else { continue };
        text.push_str(content);
        if flag == "F" {
            text.push('\n');
        }
    }
    let mut from = text.len().saturating_sub(MAX_LOG_BYTES);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    text.split_off(from)
}

/// The last bytes of a file.
fn read_end(path: &Path, limit: u64) -> Option<String> {
    // The container may have put anything in place of the file: only a plain file is read.
    let meta = std::fs::symlink_metadata(path).ok()?;
    if !meta.is_file() {
        return None;
    }
    let mut file = std::fs::File::open(path).ok()?;
    file.seek(SeekFrom::Start(meta.len().saturating_sub(limit))).ok()?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_is_bounded_and_without_columns() {
        let line = |flag: &str, text: &str| format!("2030-01-01T00:00:00Z stdout {flag} {text}\n");
        assert_eq!(last_lines(&line("F", "DONE")), "DONE\n");
        assert_eq!(last_lines(&line("P", "DONE")), "DONE");
        assert_eq!(last_lines(&(line("P", "a ") + &line("F", "b"))), "a b\n");
        assert_eq!(last_lines(&("00:00Z stdo".to_owned() + "\n" + &line("F", "x"))), "x\n");
        let many: String = (0..100).map(|i| line("F", &i.to_string())).collect();
        assert!(last_lines(&many).starts_with("20\n") && last_lines(&many).ends_with("99\n"));
        let long = last_lines(&line("F", &"ä".repeat(3000)));
        assert!(long.len() <= MAX_LOG_BYTES && long.len() > MAX_LOG_BYTES - 4, "{}", long.len());
    }
}
