//! One session: the chain from a node over a hub to a replica of the source and to the sink.
//!
//! A hub passes messages on and keeps nothing: each direction is two queues, node–hub and
//! hub–cloud, and a slow or paused hub is one that does not move them. Queues are streams: nothing
//! overtakes inside one, anything between two. A cut loses the end of what is on the way and is
//! noticed by the two ends at different times, so an old session lives on in the cloud beside the
//! new one. When one leg ends the hub ends the other: a stream of a node is never attached to a
//! second stream towards the cloud.

use std::collections::VecDeque;

use skerry_common::Key;
use skerry_proto::sync::v1 as proto;
use skerry_sync::Publisher;

use crate::rng::Rng;

/// Messages on one leg; a full leg stops its sender.
pub(crate) const LEG: usize = 4;

#[derive(Debug, Clone)]
pub(crate) enum Down {
    Delta(proto::Delta),
    InSync(proto::InSync),
}

/// Upwards on `Sink.Report`.
#[derive(Debug, Clone)]
pub(crate) enum Rep {
    Hello,
    Report(Box<proto::Report>),
}

/// Two queues in a row. The first is at the sender.
#[derive(Debug)]
pub(crate) struct Pipe<T> {
    pub(crate) legs: [VecDeque<T>; 2],
}

impl<T> Pipe<T> {
    fn new() -> Self {
        Self { legs: [VecDeque::new(), VecDeque::new()] }
    }

    pub(crate) fn has_room(&self) -> bool {
        self.legs[0].len() < LEG
    }

    /// The hub passes one message on.
    fn relay(&mut self) -> bool {
        if self.legs[1].len() >= LEG {
            return false;
        }
        match self.legs[0].pop_front() {
            None => false,
            Some(message) => {
                self.legs[1].push_back(message);
                true
            }
        }
    }

    /// The leg is cut: a random end of it is lost.
    fn lose(&mut self, leg: usize, rng: &mut Rng) {
        let keep = rng.below(self.legs[leg].len() + 1);
        self.legs[leg].truncate(keep);
    }
}

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: u64,
    pub(crate) node: usize,
    /// The session number that the fence compares.
    pub(crate) number: u64,
    pub(crate) hub: usize,
    pub(crate) replica: usize,
    /// The leg between node and hub is cut: what is sent into it is lost.
    pub(crate) cut: bool,
    /// The hub has not ended the session.
    pub(crate) hub_up: bool,
    /// Source and sink have not ended the session.
    pub(crate) cloud_up: bool,
    /// This session moves ten times slower than others.
    pub(crate) slow: bool,
    pub(crate) down: Pipe<Down>,
    pub(crate) up: Pipe<proto::SubscribeRequest>,
    pub(crate) rep: Pipe<Rep>,
    pub(crate) out: Pipe<proto::Outcome>,
    pub(crate) publisher: Option<Publisher>,
    /// The API's state when the source saw `Open`.
    pub(crate) barrier: u64,
    /// Planted: the queue of changes that should not exist.
    pub(crate) backlog: VecDeque<Key>,
}

impl Session {
    pub(crate) fn new(id: u64, node: usize, number: u64, hub: usize, replica: usize, slow: bool) -> Self {
        Self {
            id,
            node,
            number,
            hub,
            replica,
            cut: false,
            hub_up: true,
            cloud_up: true,
            slow,
            down: Pipe::new(),
            up: Pipe::new(),
            rep: Pipe::new(),
            out: Pipe::new(),
            publisher: None,
            barrier: 0,
            backlog: VecDeque::new(),
        }
    }

    /// The node sends; false if the leg is full. Into a cut leg everything goes, and is lost.
    pub(crate) fn send_report(&mut self, message: Rep) -> bool {
        if self.cut || !self.hub_up {
            return true;
        }
        if !self.rep.has_room() {
            return false;
        }
        self.rep.legs[0].push_back(message);
        true
    }

    /// Requests and acknowledgements: bounded by the list of held objects and the window.
    pub(crate) fn send_up(&mut self, message: proto::subscribe_request::Message) {
        if !self.cut && self.hub_up {
            self.up.legs[0].push_back(proto::SubscribeRequest { message: Some(message) });
        }
    }

    /// The hub moves one message in one of the four directions.
    pub(crate) fn relay(&mut self, direction: usize) -> bool {
        if !self.hub_up {
            return false;
        }
        match direction {
            0 => self.up.relay(),
            1 => self.rep.relay(),
            // What goes towards the node is lost on a cut leg.
            2 if self.cut => self.down.legs[0].pop_front().is_some(),
            3 if self.cut => self.out.legs[0].pop_front().is_some(),
            2 => self.down.relay(),
            _ => self.out.relay(),
        }
    }

    /// The network between node and hub fails, silently.
    pub(crate) fn cut(&mut self, rng: &mut Rng) {
        self.cut = true;
        self.up.lose(0, rng);
        self.rep.lose(0, rng);
        self.down.lose(1, rng);
        self.out.lose(1, rng);
    }

    /// The hub ends the session: because it noticed the cut, because the cloud's end went away, or
    /// because it restarted.
    pub(crate) fn end_hub(&mut self, rng: &mut Rng) {
        self.hub_up = false;
        self.cut = true;
        for leg in [0, 1] {
            self.up.lose(leg, rng);
            self.rep.lose(leg, rng);
            self.down.lose(leg, rng);
            self.out.lose(leg, rng);
        }
        self.up.legs[0].clear();
        self.rep.legs[0].clear();
        self.down.legs[0].clear();
        self.out.legs[0].clear();
    }

    /// Source and sink end the session, or are gone.
    pub(crate) fn end_cloud(&mut self) {
        self.cloud_up = false;
        self.publisher = None;
        self.backlog.clear();
        self.up.legs[1].clear();
        self.rep.legs[1].clear();
    }
}
