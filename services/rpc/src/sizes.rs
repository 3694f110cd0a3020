//! Sizes of what exists once per idle connection or stream, so that they cannot creep.

#[test]
fn an_idle_connection_stays_small() {
    let task = crate::server::task_size();
    let state = size_of::<crate::connection::ConnState>();
    let peer = size_of::<crate::Peer>();
    println!("connection task {task}, state {state}, peer {peer}");
    assert!(task <= 3072, "the task of a connection takes {task} bytes");
    assert!(state <= 256, "the state of a connection takes {state} bytes");
    assert!(peer <= 128, "a peer takes {peer} bytes");
}
