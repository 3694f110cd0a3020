//! Who may use the socket, and for which mapper a process speaks.
//!
//! The socket's file mode lets in root and one group; here the kernel's word about the peer is compared again:
//! root, the user that we run as, configured users, members of the socket's group. What is looked up about a
//! process (its groups, its container) is kept for its connection. Limits: [`MAX_KNOWN`] connections are
//! remembered.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use skerry_rpc::Identity;
use tonic::{Request, Status};

use crate::fleet::Caller;

/// Connections of which the caller is remembered; all are forgotten at more.
const MAX_KNOWN: usize = 1024;
/// Digits of a container's id.
const CONTAINER_ID: usize = 64;

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Access {
    uids: Vec<u32>,
    group: Option<u32>,
    known: Mutex<HashMap<u64, Arc<Caller>>>,
}

impl Access {
    pub(crate) fn new(mut uids: Vec<u32>, group: Option<u32>) -> Self {
        uids.extend([0, nix::unistd::geteuid().as_raw()]);
        Self { uids, group, known: Mutex::default() }
    }

    /// The process that calls.
    ///
    /// # Errors
    /// `PERMISSION_DENIED` when it may not use the socket.
    pub(crate) fn caller<T>(&self, request: &Request<T>) -> Result<Arc<Caller>, Status> {
        let peer = skerry_rpc::peer(request)?;
        let Identity::Local { uid, pid } = peer.identity else {
            return Err(Status::permission_denied("only processes of this machine may call this"));
        };
        let id = peer.connection.id();
        if let Some(known) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&id) {
            return Ok(Arc::clone(known));
        }
        if !self.admits(uid, pid) {
            return Err(Status::permission_denied(format!(
                "the user {uid} may not use this socket: add it to dmi.allowedUids, or to the socket's group"
            )));
        }
        let container = pid.and_then(|pid| read(pid, "cgroup")).map(|text| container(&text)).unwrap_or_default();
        let caller = Arc::new(Caller { uid, pid, container });
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(id, Arc::clone(&caller));
        Ok(caller)
    }

    fn admits(&self, uid: u32, pid: Option<i32>) -> bool {
        self.uids.contains(&uid)
            || self.group.is_some_and(|group| {
                pid.and_then(|pid| read(pid, "status")).is_some_and(|status| groups(&status).contains(&group))
            })
    }
}

fn read(pid: i32, file: &str) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok()
}

/// The groups in `/proc/<pid>/status`: the effective one and the supplementary ones.
fn groups(status: &str) -> Vec<u32> {
    let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    let effective = line("Gid:").split_whitespace().nth(1);
    effective.into_iter().chain(line("Groups:").split_whitespace()).filter_map(|gid| gid.parse().ok()).collect()
}

/// The control group in `/proc/<pid>/cgroup` if it is that of a container, else nothing: processes of one
/// session share a group, and are not one mapper.
fn container(cgroups: &str) -> String {
    let paths = cgroups.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let is_container = |path: &&str| {
        let last = path.rsplit('/').next().unwrap_or_default();
        last.split(|c: char| !c.is_ascii_hexdigit()).any(|part| part.len() == CONTAINER_ID)
    };
    paths.into_iter().find(is_container).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_a_process() {
        let status = "Name:\tx\nUid:\t7\t7\t7\t7\nGid:\t10\t20\t10\t10\nGroups:\t30 40 \n";
        assert_eq!(groups(status), [20, 30, 40]);
        assert!(groups("").is_empty());
    }

    #[test]
    fn only_a_container_has_a_group_of_its_own() {
        let id = "a1".repeat(32);
        assert_eq!(container(&format!("0::/kubepods/pod1/{id}\n")), format!("/kubepods/pod1/{id}"));
        let scope = format!("/kubepods.slice/cri-containerd-{id}.scope");
        assert_eq!(container(&format!("1:name=systemd:{scope}\n0::/\n")), scope);
        assert_eq!(container("0::/user.slice/session-1.scope\n"), "");
        assert_eq!(container(""), "");
    }

    #[test]
    fn who_is_let_in() {
        let own = i32::try_from(std::process::id()).ok();
        let access = Access::new(vec![1000], None);
        assert!(access.admits(0, None) && access.admits(1000, None));
        assert!(!access.admits(1001, own));
        let by_group = Access::new(Vec::new(), Some(nix::unistd::getegid().as_raw()));
        assert!(by_group.admits(1001, own));
        assert!(!by_group.admits(1001, None));
        assert!(!Access::new(Vec::new(), Some(u32::MAX - 1)).admits(1001, own));
    }
}
