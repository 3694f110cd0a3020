//! The process of an exec, so that it ends with its client.
//!
//! The runtime starts the process and never ends it: when a client is killed, its `sleep` or its shell
//! stays in the container for good. So the process is looked up when it starts, and its group is killed
//! when the stream ends first, whatever ended it. Processes that have left the group (`setsid`) stay, as
//! does what a command left in the background before it ended by itself.
//!
//! A process is found as a child of the container's shim in the container's control group, that was not
//! there before and has the words of the command. Two equal commands that start in one container at the
//! same moment cannot be told apart, so equal ones start one after another; one that waits longer than
//! [`TURN`] starts all the same, and while it lasts none like it is claimed. Doubt means that nothing is
//! killed. Limits: [`SEEN`].

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long an equal command may keep others from starting.
const TURN: Duration = Duration::from_secs(2);
/// A process that is not there by then is not waited for any more.
const SEEN: Duration = Duration::from_secs(30);
/// How often it is looked for. Nobody waits for the result but equal commands.
const LOOK: Duration = Duration::from_millis(20);

/// Container and words.
type Command = (String, Vec<String>);

/// Equal commands of a container.
#[derive(Debug, Default)]
struct Starting {
    /// One of them has its turn.
    taken: bool,
    /// It cannot be known whose a new process is.
    muddled: bool,
    /// So many of them started without a turn.
    loose: usize,
}

/// Commands that are starting.
#[derive(Debug, Clone, Default)]
pub(crate) struct Claims(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    starting: Mutex<HashMap<Command, Starting>>,
    free: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<Command, Starting>> {
        self.starting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The turn of one command, before it is started.
#[derive(Debug)]
pub(super) struct Turn {
    held: Held,
    /// What ran before. `None`: there is nothing to claim by.
    before: Option<(Container, BTreeSet<Process>)>,
}

/// A turn, or a start without one, that ends with this value.
#[derive(Debug)]
struct Held {
    claims: Claims,
    command: Command,
    loose: bool,
}

impl Claims {
    /// Waits for the turn of a command in a container whose main process is `init`.
    pub(super) async fn turn(&self, container: &str, command: &[String], init: Option<i32>) -> Turn {
        let command = (container.to_owned(), command.to_vec());
        let until = Instant::now() + TURN;
        let mut held = Held { claims: self.clone(), command: command.clone(), loose: false };
        loop {
            let free = self.0.free.notified();
            tokio::pin!(free);
            // Before the look, so that an end in between is not missed.
            free.as_mut().enable();
            {
                let mut starting = self.0.lock();
                let equal = starting.entry(command.clone()).or_default();
                if !equal.taken {
                    equal.taken = true;
                    equal.muddled = equal.loose > 0;
                    break;
                }
                if Instant::now() >= until {
                    equal.muddled = true;
                    equal.loose += 1;
                    held.loose = true;
                    return Turn { held, before: None };
                }
            }
            let _ = tokio::time::timeout_at(until, free).await;
        }
        let look = move || {
            let container = Container::of(init?)?;
            let before = container.processes(None);
            Some((container, before))
        };
        let before = tokio::task::spawn_blocking(look).await.ok().flatten();
        Turn { held, before }
    }
}

impl Turn {
    /// Looks for the process until it is there. What is returned ends it when it is dropped.
    pub(super) async fn claim(self) -> Claim {
        let Self { held, before } = self;
        let Some((container, before)) = before else { return Claim { process: None, _loose: Some(held) } };
        let until = Instant::now() + SEEN;
        let container = Arc::new(container);
        let mut process = None;
        while process.is_none() && Instant::now() < until {
            let (look, words) = (Arc::clone(&container), held.command.1.clone());
            let found = tokio::task::spawn_blocking(move || look.processes(Some(&words))).await.unwrap_or_default();
            let mut new = found.difference(&before);
            match (new.next(), new.next()) {
                (Some(only), None) => process = Some(*only),
                _ => tokio::time::sleep(LOOK).await,
            }
        }
        Claim { process: process.filter(|_| !held.is_muddled()), _loose: None }
    }
}

impl Held {
    fn is_muddled(&self) -> bool {
        self.claims.0.lock().get(&self.command).is_none_or(|equal| equal.muddled)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut starting = self.claims.0.lock();
        if let Some(equal) = starting.get_mut(&self.command) {
            if self.loose {
                equal.loose -= 1;
            } else {
                equal.taken = false;
            }
            if !equal.taken && equal.loose == 0 {
                starting.remove(&self.command);
            }
        }
        drop(starting);
        self.claims.0.free.notify_waiters();
    }
}

/// A process that ends with this value.
#[derive(Debug)]
pub(super) struct Claim {
    process: Option<Process>,
    _loose: Option<Held>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let Some(Process { pid, start }) = self.process else { return };
        // Its number may be another's by now; its start tells.
        if stat(pid).is_some_and(|s| s.start == start) {
            tracing::debug!(pid, "process of an exec outlived its client; killing its group");
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Process {
    pid: i32,
    /// Clock ticks after boot.
    start: u64,
}

/// A container as the host sees it.
#[derive(Debug)]
struct Container {
    shim: i32,
    cgroup: String,
}

impl Container {
    fn of(init: i32) -> Option<Self> {
        let shim = stat(init)?.parent;
        // Without a shim every process of the machine would be a candidate.
        (shim > 1).then_some(Self { shim, cgroup: cgroup(init)? })
    }

    /// The shim's children in the container: all, or those that run a command as leaders of a group.
    fn processes(&self, words: Option<&[String]>) -> BTreeSet<Process> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.shim)).into_iter().flatten().flatten();
        let children = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
        let pids: Vec<i32> =
            children.flat_map(|text| text.split(' ').filter_map(|p| p.parse().ok()).collect::<Vec<i32>>()).collect();
        let mut found = BTreeSet::new();
        for pid in pids {
            let Some(stat) = stat(pid) else { continue };
            let runs = words.is_none_or(|words| stat.group == pid && is_command(&cmdline(pid), words));
            if runs && cgroup(pid).as_ref() == Some(&self.cgroup) {
                found.insert(Process { pid, start: stat.start });
            }
        }
        found
    }
}

struct Stat {
    parent: i32,
    group: i32,
    start: u64,
}

fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, also spaces and brackets; after it there are only numbers.
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    if state == "Z" {
        return None;
    }
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    // state ppid pgrp are fields 3 to 5; the start is field 22.
    let start = fields.nth(16)?.parse().ok()?;
    Some(Stat { parent, group, start })
}

fn cgroup(pid: i32) -> Option<String> {
    fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("cgroup")).ok().filter(|text| !text.is_empty())
}

fn cmdline(pid: i32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    text.strip_suffix('\0').unwrap_or(&text).split('\0').map(str::to_owned).collect()
}

/// Whether a process runs the command: with its words, or as a script with its interpreter before them.
fn is_command(running: &[String], words: &[String]) -> bool {
    if running == words {
        return true;
    }
    let Some((program, rest)) = words.split_first() else { return false };
    let Some(before) = running.strip_suffix(rest) else { return false };
    let name = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    before.len() > 1 && before.last().is_some_and(|script| name(script) == name(program))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn commands_and_scripts() {
        assert!(is_command(&words("sleep 5"), &words("sleep 5")));
        assert!(is_command(&words("/bin/sh -e /opt/run.sh a b"), &words("run.sh a b")));
        assert!(is_command(&words("/bin/sh ./run.sh"), &words("./run.sh")));
        for (running, wanted) in [
            ("runc init", "sleep 5"),
            ("sleep 50", "sleep 5"),
            ("/bin/sh other.sh a", "run.sh a"),
            ("sleep 5", "sleep"),
            ("", "sleep 5"),
        ] {
            assert!(!is_command(&words(running), &words(wanted)), "{running} {wanted}");
        }
    }

    #[test]
    fn this_process_is_read() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let own = stat(pid).unwrap();
        assert_eq!(own.parent, nix::unistd::getppid().as_raw());
        assert_eq!(own.group, nix::unistd::getpgrp().as_raw());
        assert!(own.start > 0 && !cmdline(pid).is_empty());
        assert!(stat(i32::MAX).is_none());
    }

    #[test]
    fn a_group_ends_with_its_claim_and_only_its_own() {
        use std::os::unix::process::CommandExt as _;
        let mut child = std::process::Command::new("sleep").arg("1000").process_group(0).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let start = stat(pid).unwrap().start;
        drop(Claim { process: Some(Process { pid, start: start + 1 }), _loose: None });
        assert!(child.try_wait().unwrap().is_none(), "a number that is another's by now is left alone");
        drop(Claim { process: Some(Process { pid, start }), _loose: None });
        assert!(!child.wait().unwrap().success());
    }

    #[tokio::test(start_paused = true)]
    async fn equal_commands_take_turns_and_what_is_in_doubt_is_not_claimed() {
        let claims = Claims::default();
        let sleep = words("sleep 5");
        let key = ("c".to_owned(), sleep.clone());
        let muddled = |claims: &Claims| claims.0.lock().get(&key).map(|equal| equal.muddled);
        let first = claims.turn("c", &sleep, None).await;
        // Others do not wait.
        drop(claims.turn("c", &words("sleep 6"), None).await);
        drop(claims.turn("d", &sleep, None).await);
        assert_eq!(muddled(&claims), Some(false));
        let begin = Instant::now();
        let loose = claims.turn("c", &sleep, None).await;
        assert_eq!(begin.elapsed(), TURN);
        assert_eq!(muddled(&claims), Some(true), "the first cannot tell its process any more");
        drop(first);
        let claim = loose.claim().await;
        assert!(claim.process.is_none());
        let third = claims.turn("c", &sleep, None).await;
        assert_eq!(muddled(&claims), Some(true), "nor can another while the loose one runs");
        drop((third, claim));
        assert!(claims.0.lock().is_empty());
    }

    #[tokio::test]
    async fn a_waiting_command_goes_on_when_the_turn_ends() {
        let claims = Claims::default();
        let sleep = words("sleep 5");
        let first = claims.turn("c", &sleep, None).await;
        let next = tokio::spawn({
            let (claims, sleep) = (claims.clone(), sleep.clone());
            async move { claims.turn("c", &sleep, None).await.held.loose }
        });
        tokio::task::yield_now().await;
        drop(first);
        assert!(!next.await.unwrap());
    }
}
