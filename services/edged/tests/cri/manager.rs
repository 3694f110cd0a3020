//! What a service manager does for the agent: it holds the connections that it is given (`FDSTORE=1`), so that
//! the runtime finishes what a killed agent had asked.

use std::io::{IoSliceMut, Read as _};
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use serde_json::json;

use skerry_test_support::Hub;

/// A receiver of notifications, with a thread that holds the files which come with them.
pub(crate) struct Manager {
    socket: PathBuf,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.thread.take().into_iter().for_each(|t| drop(t.join()));
    }
}

impl Manager {
    pub(crate) fn start(socket: &Path) -> Self {
        let receiver = UnixDatagram::bind(socket).unwrap();
        receiver.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let over = Arc::<AtomicBool>::default();
        let end = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            let mut held: Vec<RawFd> = Vec::new();
            while !end.load(Ordering::Relaxed) {
                held.extend(receive(&receiver));
            }
            held.into_iter().for_each(|file| nix::unistd::close(file).unwrap());
        });
        Self { socket: socket.to_owned(), over, thread: Some(thread) }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }
}

fn receive(receiver: &UnixDatagram) -> Vec<RawFd> {
    let (mut text, mut space) = ([0; 4096], nix::cmsg_space!([RawFd; 4]));
    let mut parts = [IoSliceMut::new(&mut text)];
    let Ok(got) = recvmsg::<()>(receiver.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC) else {
        return Vec::new();
    };
    let rights = got.cmsgs().unwrap().map(|c| if let ControlMessageOwned::ScmRights(f) = c { f } else { Vec::new() });
    rights.flatten().collect()
}

/// What the runtime sees of its connection after the agent was killed: whether it is still open, and whether
/// it is when the manager has let go of it too.
async fn open_after_a_kill(held: bool) -> (bool, bool) {
    let dir = tempfile::tempdir().unwrap();
    let (_hub, _hub_stop) = Hub::start_at(&dir.path().join("hub.sock")).await;
    let manager = Manager::start(&dir.path().join("notify"));
    let runtime = UnixListener::bind(dir.path().join("cri.sock")).unwrap();
    let config = dir.path().join("edged.yaml");
    let text = json!({
        "nodeName": "held", "rootDir": dir.path().join("edged"), "podLogDir": dir.path().join("logs"),
        "runtimeEndpoint": dir.path().join("cri.sock"), "edgehub": dir.path().join("hub.sock"),
        "cgroupRoot": format!("held{}", std::process::id()),
    });
    std::fs::write(&config, text.to_string()).unwrap();
    let mut agent = Command::new(env!("CARGO_BIN_EXE_skerry-edged"));
    agent.args(["--admin", "127.0.0.1:0", "--config"]).arg(&config).stdin(Stdio::null()).stdout(Stdio::null());
    agent.stderr(Stdio::null()).env_remove("NOTIFY_SOCKET");
    if held {
        agent.env("NOTIFY_SOCKET", manager.socket());
    }
    let mut agent = agent.spawn().unwrap();
    let (mut connection, _) = runtime.accept().unwrap();
    // The first bytes of HTTP/2 come after the connection was given away.
    connection.read_exact(&mut [0; 24]).unwrap();
    agent.kill().unwrap();
    agent.wait().unwrap();
    let mut is_open = || {
        connection.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        match std::io::copy(&mut connection, &mut std::io::sink()) {
            Ok(_) => false,
            Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
        }
    };
    let after_the_kill = is_open();
    drop(manager);
    (after_the_kill, is_open())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_connection_of_a_killed_agent_stays_open_for_what_it_had_asked() {
    assert_eq!(open_after_a_kill(true).await, (true, false));
}

/// The control: without a service manager the runtime sees the end, and gives up what is under way.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_service_manager_it_is_closed() {
    assert_eq!(open_after_a_kill(false).await, (false, false));
}
