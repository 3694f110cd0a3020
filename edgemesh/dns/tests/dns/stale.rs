//! The link is gone: what was known is still answered, what is new is refused soon, and all comes back by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::dig::dig;
use crate::server::{PATIENCE, start};
use crate::upstream::{Reply, Upstream, address, nothing, upstream};

/// A server whose link can be cut.
async fn link() -> (Arc<AtomicBool>, Upstream) {
    let up = Arc::new(AtomicBool::new(true));
    let is_up = up.clone();
    let server = upstream(move |question, _| match is_up.load(Ordering::SeqCst) {
        true if question.queries[0].name().to_ascii().starts_with("nothing") => {
            Reply::Send(vec![nothing(question, Some(1))])
        }
        true => Reply::Send(vec![address(question, 1, 1)]),
        false => Reply::Silence,
    })
    .await;
    (up, server)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_known_is_answered_while_the_link_is_gone() {
    let (up, upstream) = link().await;
    let server = start(&[upstream.address]);
    assert_eq!(dig(server.address, "www.example").await.status, "NOERROR");
    assert_eq!(dig(server.address, "nothing.example").await.status, "NXDOMAIN");
    up.store(false, Ordering::SeqCst);
    let begin = Instant::now();
    let stale = loop {
        let found = dig(server.address, "www.example").await;
        assert_eq!(found.status, "NOERROR", "{}", found.text);
        if found.explanation.starts_with("3 (Stale Answer)") {
            break found;
        }
        assert!(begin.elapsed() < PATIENCE);
    };
    assert_eq!(stale.answers, ["www.example. 30 IN A 192.0.2.1"], "with the time of RFC 8767");
    let nothing = dig(server.address, "nothing.example").await;
    assert_eq!(nothing.status, "NXDOMAIN");
    assert!(nothing.explanation.starts_with("19 (Stale NXDOMAIN Answer)"), "{}", nothing.text);
    assert!(server.count("answers_stale") >= 2);
    // Names of the cluster do not notice.
    assert_eq!(dig(server.address, "orders.shop.svc.cluster.local").await.status, "NOERROR");
    // The link is back: a new name finds that out, and the old one is fresh within its recheck time.
    up.store(true, Ordering::SeqCst);
    assert_eq!(dig(server.address, "new.example").await.status, "NOERROR");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_known_is_refused_before_the_client_gives_up() {
    let (up, upstream) = link().await;
    up.store(false, Ordering::SeqCst);
    let server = start(&[upstream.address]);
    // dig gives up after five seconds, as the C library does.
    let found = dig(server.address, "www.example").await;
    assert_eq!(found.status, "SERVFAIL", "{}", found.text);
    assert!(found.explanation.starts_with("22 (No Reachable Authority)"), "{}", found.text);
    assert!(server.count("answers_failed") >= 1);
    up.store(true, Ordering::SeqCst);
    let begin = Instant::now();
    while dig(server.address, "www.example").await.status != "NOERROR" {
        assert!(begin.elapsed() < Duration::from_secs(10), "a failure is not kept");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_used_is_asked_for_before_it_ends() {
    let upstream = upstream(|question, _| Reply::Send(vec![address(question, 5, 1)])).await;
    let server = start(&[upstream.address]);
    dig(server.address, "www.example").await;
    let begin = Instant::now();
    while upstream.asked() < 2 {
        assert!(begin.elapsed() < PATIENCE);
        let found = dig(server.address, "www.example").await;
        assert_eq!(found.status, "NOERROR");
    }
    assert!(server.count("prefetches") >= 1);
    assert_eq!(server.count("answers_upstream"), 1, "no client waited for it");
}
