//! Finds name servers that lead back to this node.
//!
//! A resolver of the host may have been told to ask us, or the server of the site may ask the host; then each question
//! would go round until its deadline. So each server is asked, when the list changes and from time to time, for a name
//! that nobody else can know. If that question arrives here, the server that it was given to is a loop.
//!
//! What goes round before that was noticed ends at the first turn: equal questions join each other
//! ([`super::forward`]).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::exchange::{self, Question};
use super::forward::Forwarder;
use crate::query::{Name, number};

/// Between two looks at every server: a question of a hundred bytes.
pub(crate) const EVERY: Duration = Duration::from_secs(900);
/// A loop closes within this, or it is too slow to hurt.
const DEADLINE: Duration = Duration::from_secs(2);

/// Names that are on their way, with whether each has come back. As many as there are servers.
type Names = HashMap<Box<[u8]>, bool>;

/// See the module documentation.
#[derive(Debug, Default)]
pub(crate) struct Probes(Mutex<Names>);

impl Probes {
    /// Whether this question is one of ours, which came back.
    pub(crate) fn came_back(&self, name: &Name, kind: u16) -> bool {
        // Nothing else is asked for so rarely: others do not wait for the lock.
        kind == number::HINFO && self.lock().get_mut(name.wire()).map(|came_back| *came_back = true).is_some()
    }

    /// Asks every server that may lead back for a name of its own, and tells the forwarder what came back.
    pub(crate) async fn look(&self, forwarder: &Forwarder) {
        let one = |server: SocketAddr| async move {
            // Two labels below the root, as CoreDNS does: a local answer for a reserved domain would hide the loop.
            let text = format!("{:016x}.{:016x}", rand::random::<u64>(), rand::random::<u64>());
            let Some(name) = Name::from_text(&text) else {
                return;
            };
            self.lock().insert(name.wire().into(), false);
            let question = Question { name, kind: number::HINFO, dnssec_ok: false, checking_disabled: false };
            // What it answers does not matter: only whether the question arrives here.
            let answered = tokio::time::timeout(DEADLINE, exchange::ask(server, &question)).await;
            let came_back = self.lock().remove(name.wire()).unwrap_or_default();
            // Silence proves nothing: what was a loop stays one until the server says something without us.
            if came_back || matches!(answered, Ok(Ok(_))) {
                forwarder.set_loop(server, came_back);
            }
        };
        futures::future::join_all(forwarder.suspects().into_iter().map(one)).await;
    }

    fn lock(&self) -> MutexGuard<'_, Names> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
