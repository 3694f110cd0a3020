//! The private runtime starts, offers its images and leaves nothing behind.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::fs;

use skerry_test_support::Containerd;

#[tokio::test]
async fn it_leaves_nothing_behind() {
    let mut containerd = Containerd::start().await.unwrap();
    let dir = containerd.dir().to_owned();
    assert!(containerd.socket().exists());
    assert!(containerd.runtime().unwrap().is_running());
    containerd.runtime().unwrap().kill_daemon(nix::sys::signal::Signal::SIGKILL);
    containerd.runtime().unwrap().start_daemon().unwrap();
    drop(containerd);
    assert!(!dir.exists());
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(dir.to_str().unwrap()));
}
