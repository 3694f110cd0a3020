//! Name servers that lead back to this node.

use std::time::Instant;

use skerry_mesh_dns::{Config, ServerState};

use crate::dig::dig;
use crate::server::{PATIENCE, Server, loopback, start, start_with, table};
use crate::upstream::{Reply, address, upstream};

async fn until_loop(server: &Server) {
    let begin = Instant::now();
    while server.handle.servers()[0].state != ServerState::Loop {
        assert!(begin.elapsed() < PATIENCE);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn its_own_address_is_never_asked() {
    let own = loopback(1, 5300);
    let good = upstream(|question, _| Reply::Send(vec![address(question, 60, 1)])).await;
    let config = Config { listen: vec![own], upstream: vec![own, good.address], ..Config::default() };
    let server = start_with(config, Some(table()));
    assert_eq!(server.handle.servers()[0].state, ServerState::Loop);
    assert_eq!(dig(server.address, "www.example").await.status, "NOERROR");
    assert_eq!(server.count("loops"), 0, "not even once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_asks_us_is_found() {
    // The way of the host: its resolver was told to ask us, and we ask the resolver.
    let own = loopback(1, 5300);
    let host = start(&[own]);
    let good = upstream(|question, _| Reply::Send(vec![address(question, 60, 1)])).await;
    let upstream = vec![host.address, good.address];
    let config = Config { listen: vec![own], upstream, ..Config::default() };
    let ours = start_with(config, Some(table()));
    until_loop(&ours).await;
    assert!(ours.count("loops") >= 1);
    assert_eq!(ours.handle.servers()[1].state, ServerState::Up, "the control");
    let asked = host.count("upstream_queries");
    assert_eq!(dig(ours.address, "www.example").await.status, "NOERROR");
    assert_eq!(host.count("upstream_queries"), asked, "it is not asked any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_that_is_not_found_yet_ends_in_itself() {
    // Two of us that know only each other, before either has looked.
    let (one, other) = (loopback(1, 5300), loopback(2, 5300));
    let config = |listen, upstream| Config { listen: vec![listen], upstream: vec![upstream], ..Config::default() };
    let (first, second) =
        (start_with(config(one, other), Some(table())), start_with(config(other, one), Some(table())));
    let found = dig(one, "www.example").await;
    assert_eq!(found.status, "SERVFAIL", "{}", found.text);
    // The question went round once, with its repetitions, and met itself.
    assert!(first.count("upstream_queries") + second.count("upstream_queries") <= 30);
}
