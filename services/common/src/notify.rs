//! Tells systemd how the process is (ready, alive, stopping), and gives it files to hold.
//!
//! The protocol (`sd_notify`, `sd_pid_notify_with_fds`) is one datagram to the socket in `NOTIFY_SOCKET`;
//! without it nothing happens. The watchdog is fed only while `healthy` says so, so that a process that
//! hangs is started again. A datagram that cannot be sent is no reason to stop.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sendmsg, socket as new_socket,
};

/// The first file that a service manager hands over (`SD_LISTEN_FDS_START`).
const FIRST_HANDED_OVER: RawFd = 3;
/// More than a unit may hold; what a wrong variable says is not believed.
const MOST_HANDED_OVER: RawFd = 1024;

/// Sends state lines such as `READY=1`.
pub fn notify(state: &str) {
    notify_with(state, &[]);
}

fn notify_with(state: &str, files: &[BorrowedFd<'_>]) {
    if let Some(socket) = std::env::var_os("NOTIFY_SOCKET")
        && let Err(error) = send(Path::new(&socket), state, files)
    {
        tracing::warn!(%error, state, "cannot notify the service manager");
    }
}

fn send(socket: &Path, state: &str, files: &[BorrowedFd<'_>]) -> nix::Result<()> {
    let datagram = new_socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // A leading `@` is an abstract socket, which has no file.
    let address = match socket.as_os_str().as_bytes().strip_prefix(b"@") {
        Some(name) => UnixAddr::new_abstract(name)?,
        None => UnixAddr::new(socket)?,
    };
    let numbers: Vec<RawFd> = files.iter().map(|f| f.as_fd().as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let control = if numbers.is_empty() { &rights[..0] } else { &rights[..] };
    let text = [IoSlice::new(state.as_bytes())];
    sendmsg(datagram.as_raw_fd(), &text, control, MsgFlags::empty(), Some(&address)).map(drop)
}

/// A connection that stays open when this process dies, because the service manager holds it too
/// (`FDSTORE=1`; a unit allows it with `FileDescriptorStoreMax=`).
///
/// So the peer finishes what it was asked, instead of giving up half-way. Nobody ever reads from the
/// connection again; [`Self::forget_older`] lets go of those of earlier processes.
#[derive(Debug)]
pub struct Held {
    name: &'static str,
    newest: Mutex<Option<OwnedFd>>,
}

impl Held {
    /// For connections of one kind; `name` is what the service manager shows (`FDNAME=`).
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self { name, newest: Mutex::new(None) }
    }

    /// Has the connection held. Called when it was made.
    pub fn hold(&self, connection: BorrowedFd<'_>) {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return;
        }
        match connection.try_clone_to_owned() {
            Ok(copy) => {
                self.store(copy.as_fd());
                *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(copy);
            }
            Err(error) => tracing::warn!(%error, name = self.name, "a connection is not held"),
        }
    }

    /// Lets go of all but the newest, when what they carried has ended.
    pub fn forget_older(&self) {
        notify(&format!("FDSTOREREMOVE=1\nFDNAME={}", self.name));
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(newest) = &*newest {
            self.store(newest.as_fd());
        }
    }

    fn store(&self, connection: BorrowedFd<'_>) {
        notify_with(&format!("FDSTORE=1\nFDNAME={}", self.name), &[connection]);
    }
}

/// Closes what the service manager handed over from an earlier process: it holds them itself, and here
/// nobody uses them. Once, at the start of the process.
pub fn close_handed_over() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<i64>().ok());
    if number("LISTEN_PID") != Some(i64::from(std::process::id())) {
        return;
    }
    let count = number("LISTEN_FDS").and_then(|n| RawFd::try_from(n).ok()).unwrap_or(0);
    for file in FIRST_HANDED_OVER..FIRST_HANDED_OVER + count.clamp(0, MOST_HANDED_OVER) {
        if let Err(error) = nix::unistd::close(file) {
            tracing::debug!(%error, file, "nothing was handed over here");
        }
    }
}

/// Half of the time within which systemd wants to hear from this process; `None` without a watchdog.
pub fn watchdog_interval() -> Option<Duration> {
    let micros: u64 = std::env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    let ours = std::env::var("WATCHDOG_PID").map_or(true, |pid| pid == std::process::id().to_string());
    (ours && micros > 0).then(|| Duration::from_micros(micros / 2))
}

/// Feeds the watchdog as long as `healthy` agrees. Ends never; drop it to stop.
pub async fn feed(healthy: impl AsyncFn() -> bool) {
    let Some(interval) = watchdog_interval() else {
        return std::future::pending().await;
    };
    let mut tick = tokio::time::interval(interval);
    loop {
        tick.tick().await;
        if healthy().await {
            notify("WATCHDOG=1");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::io::IoSliceMut;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use nix::sys::socket::{ControlMessageOwned, recvmsg};

    use super::*;

    #[test]
    fn a_state_is_one_datagram() {
        let dir = std::env::temp_dir().join(format!("skerry-notify-{}", std::process::id()));
        let receiver = UnixDatagram::bind(&dir).unwrap();
        let (ours, _theirs) = UnixStream::pair().unwrap();
        send(&dir, "READY=1", &[]).unwrap();
        send(&dir, "FDSTORE=1", &[ours.as_fd()]).unwrap();
        std::fs::remove_file(&dir).unwrap();
        let mut buffer = [0; 64];
        let length = receiver.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1");

        let (mut text, mut space) = ([0; 64], nix::cmsg_space!([RawFd; 2]));
        let mut parts = [IoSliceMut::new(&mut text)];
        let got = recvmsg::<()>(receiver.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty()).unwrap();
        let rights = got.cmsgs().unwrap().filter(|c| matches!(c, ControlMessageOwned::ScmRights(f) if f.len() == 1));
        assert_eq!((got.bytes, rights.count()), ("FDSTORE=1".len(), 1));
    }
}
