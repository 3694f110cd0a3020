//! What is answered: from the cluster's table, from a cache, or by a name server.
//!
//! Both listeners call [`Answerer::answer`] for every packet. Most are answered in place, without a task, a wait or an
//! allocation; the rest comes back as [`Later`], to be finished in a task of the listener's. Names of the cluster never
//! leave the node, and never wait for anything.
//!
//! Limits: tokens of each source ([`Sources`]); [`MAX_LATER`] questions that wait; [`MAX_ALIASES`] aliases in a row;
//! the caches. What is beyond a limit is answered with the reason, except what a source asks too much: that is
//! dropped, since an answer would cost as much as was saved.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::Message;
use skerry_mesh_core::names::{self, Answer};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::cache::{Cache, Limits};
use crate::config::Config;
use crate::error::DnsError;
use crate::metrics::Metrics;
use crate::packet::{Age, Explanation, Packet, write_error};
use crate::query::{Code, Echo, Key, Malformed, Name, Query, number};
use crate::sources::{Sources, UPSTREAM_COST};
use crate::store::{Known, Store};
use crate::upstream::exchange::Question;
use crate::upstream::forward::{End, Forwarder, NotAsked};
use crate::upstream::probe::Probes;
use crate::zone::{self, Zone};

/// Questions that wait for a name server: each is a task of a few kilobytes.
pub(crate) const MAX_LATER: usize = 1024;
/// Aliases that are followed within the cluster; a ring of them ends here.
pub(crate) const MAX_ALIASES: usize = 8;
/// Who has something stale waits so long for something better (RFC 8767 §5).
const CLIENT_PATIENCE: Duration = Duration::from_millis(1800);
/// Answers about the cluster that are kept ready: the names that the pods of a node really use.
const CLUSTER_ENTRIES: usize = 4096;
/// Memory of these.
const CLUSTER_BYTES: usize = 2 << 20;
/// They are ready for as long as the table is the same.
const CLUSTER_TTL: Duration = Duration::from_secs(24 * 3600);

/// Where names of addresses are.
const REVERSE: &str = "arpa";

/// What to do with a packet.
pub(crate) enum Verdict {
    /// Send what was written.
    Send,
    /// Nothing.
    Ignore,
    /// Wait for it.
    Later(Box<Later>),
}

/// A question that somebody else has to be asked about, with all that its answer needs.
pub(crate) struct Later {
    echo: Echo,
    section: Box<[u8]>,
    name: Name,
    kind: u16,
    alias: Option<Answer>,
    // One of `MAX_LATER`.
    _place: OwnedSemaphorePermit,
}

impl Later {
    pub(crate) fn echo(&self) -> &Echo {
        &self.echo
    }

    fn query(&self) -> Query<'_> {
        Query { echo: self.echo, section: &self.section, name: self.name, kind: self.kind, class: number::IN }
    }
}

/// Something to send.
struct Found {
    packet: Arc<Packet>,
    age: Age,
    why: Option<Explanation>,
}

/// See the module documentation.
pub(crate) struct Answerer {
    zone: Arc<dyn Zone>,
    domain: Name,
    reverse: Name,
    cluster: Cache,
    store: Arc<Store>,
    sources: Sources,
    later: Arc<Semaphore>,
    forwarder: Forwarder,
    probes: Arc<Probes>,
    metrics: Metrics,
}

impl Answerer {
    pub(crate) fn new(
        config: &Config,
        zone: Arc<dyn Zone>,
        forwarder: Forwarder,
        probes: Arc<Probes>,
        metrics: Metrics,
    ) -> Result<Self, DnsError> {
        let limits = Limits { entries: CLUSTER_ENTRIES, bytes: CLUSTER_BYTES, stale: Duration::ZERO };
        Ok(Self {
            zone,
            domain: config.check()?,
            reverse: Name::from_text(REVERSE).ok_or_else(|| DnsError::Config(REVERSE.into()))?,
            cluster: Cache::new(limits),
            store: Arc::new(Store::new(config, metrics.clone())),
            sources: Sources::new(config.queries_per_second),
            later: Arc::new(Semaphore::new(MAX_LATER)),
            forwarder,
            probes,
            metrics,
        })
    }

    /// Answers a packet into `out`, with at most `limit` bytes for what it says. `turn` grows by one with each.
    pub(crate) fn answer(
        &self,
        packet: &[u8],
        source: IpAddr,
        turn: usize,
        limit: impl Fn(&Echo) -> usize,
        out: &mut Vec<u8>,
    ) -> Verdict {
        let now = Instant::now();
        if !self.sources.take(source, 1, now) {
            self.metrics.limited.inc();
            return Verdict::Ignore;
        }
        let query = match Query::parse(packet) {
            Ok(query) => query,
            Err(malformed) => {
                self.metrics.malformed.inc();
                let Malformed::Answer(echo, code) = malformed else {
                    return Verdict::Ignore;
                };
                write_error(&echo, None, code, None, out);
                return Verdict::Send;
            }
        };
        let limit = limit(&query.echo);
        if query.class != number::IN || matches!(query.kind, number::AXFR | number::IXFR | number::OPT) {
            self.metrics.refused.inc();
            write_error(&query.echo, Some(query.section), Code::Refused, None, out);
            return Verdict::Send;
        }
        if query.kind == number::ANY {
            self.metrics.refused.inc();
            let packet = zone::any(&query.name).and_then(Packet::new);
            return send(packet.map(Arc::new), &query, turn, Some(Explanation::ANY), limit, out);
        }
        let key = query.key();
        let alias = match self.cluster(&query, &key, now) {
            Cluster::Packet(packet) => {
                self.metrics.answers_cluster.inc();
                return send(packet, &query, turn, None, limit, out);
            }
            Cluster::NotReady => {
                self.metrics.answers_failed.inc();
                let why = Some(Explanation::NOT_READY);
                write_error(&query.echo, Some(query.section), Code::ServerFailure, why, out);
                return Verdict::Send;
            }
            Cluster::Alias(answer) => Some(answer),
            Cluster::Elsewhere => {
                if self.stored(&query, &key, now, turn, limit, out) {
                    return Verdict::Send;
                }
                if self.probes.came_back(&query.name, query.kind) {
                    self.metrics.loops.inc();
                    write_error(&query.echo, Some(query.section), Code::Refused, Some(Explanation::LOOP), out);
                    return Verdict::Send;
                }
                None
            }
        };
        if !self.sources.take(source, UPSTREAM_COST, now) {
            self.metrics.limited.inc();
            return Verdict::Ignore;
        }
        let Ok(place) = self.later.clone().try_acquire_owned() else {
            self.metrics.busy.inc();
            write_error(&query.echo, Some(query.section), Code::ServerFailure, Some(Explanation::BUSY), out);
            return Verdict::Send;
        };
        let section = query.section.into();
        let (echo, name, kind) = (query.echo, query.name, query.kind);
        Verdict::Later(Box::new(Later { echo, section, name, kind, alias, _place: place }))
    }

    /// Finishes a question: asks, waits, and writes the answer into `out`. Ends within the deadlines of upstream.
    pub(crate) async fn finish(&self, later: &Later, turn: usize, limit: usize, out: &mut Vec<u8>) {
        let query = later.query();
        let found = match &later.alias {
            Some(alias) => self.follow(&query, alias.clone()).await,
            None => self.ask(&query.name, query.kind, &query.echo).await,
        };
        match found {
            Ok(found) => found.packet.write(&query, found.age, turn, found.why, limit, out),
            Err(why) => {
                self.metrics.answers_failed.inc();
                write_error(&query.echo, Some(query.section), Code::ServerFailure, Some(why), out);
            }
        }
    }

    /// What the cluster has to say.
    fn cluster(&self, query: &Query<'_>, key: &Key, now: Instant) -> Cluster {
        let below = query.name.is_below(&self.domain);
        if !below && !query.name.is_below(&self.reverse) {
            return Cluster::Elsewhere;
        }
        // Before the answer: one from a newer table is then kept under the older number, and made again.
        let generation = self.zone.generation();
        if let Some(hit) = self.cluster.get(key.as_slice(), generation, now) {
            return Cluster::Packet(Some(hit.packet));
        }
        let text = query.name.text();
        let answer = self.zone.answer(&names::Question { name: &text, kind: zone::kind(query.kind) });
        match answer {
            None if below => Cluster::NotReady,
            // Never upstream, whatever the zone thinks of it.
            Some(Answer::Elsewhere) if below => Cluster::Packet(None),
            None | Some(Answer::Elsewhere) => Cluster::Elsewhere,
            Some(alias @ Answer::Alias { .. }) => Cluster::Alias(alias),
            Some(answer) => {
                let message = zone::message(&query.name, query.kind);
                let message = message.and_then(|mut message| zone::add(&mut message, &answer).map(|()| message));
                let packet = message.and_then(Packet::new).map(Arc::new);
                // There are as many names that do not exist as somebody can think of.
                if let (Some(packet), false) = (&packet, matches!(answer, Answer::NxDomain { .. })) {
                    self.cluster.put(key.as_slice(), packet.clone(), CLUSTER_TTL, generation, now);
                }
                Cluster::Packet(packet)
            }
        }
    }

    /// Answers from what name servers said before. False when there is nothing that can be given at once.
    fn stored(&self, query: &Query<'_>, key: &Key, now: Instant, turn: usize, limit: usize, out: &mut Vec<u8>) -> bool {
        match self.store.get(key.as_slice(), now) {
            Known::Fresh(hit) => {
                if hit.ending && self.begin(key, &query.name, query.kind, &query.echo).is_ok() {
                    self.metrics.prefetches.inc();
                }
                self.metrics.answers_cache.inc();
                hit.packet.write(query, hit.age, turn, None, limit, out);
                true
            }
            Known::Stale { hit, why, just_failed } => {
                if !just_failed && !self.forwarder.all_down() {
                    return false;
                }
                if !just_failed {
                    // Somebody must find out when a server is back.
                    let _ = self.begin(key, &query.name, query.kind, &query.echo);
                }
                self.metrics.answers_stale.inc();
                hit.packet.write(query, Age::Stale, turn, Some(why), limit, out);
                true
            }
            Known::Nothing => false,
        }
    }

    /// Begins to ask, or joins who does.
    fn begin(
        &self,
        key: &Key,
        name: &Name,
        kind: u16,
        echo: &Echo,
    ) -> Result<crate::upstream::forward::Flight, NotAsked> {
        let dnssec_ok = echo.edns.is_some_and(|edns| edns.dnssec_ok);
        let question = Question { name: *name, kind, dnssec_ok, checking_disabled: echo.checking_disabled };
        let (store, kept) = (self.store.clone(), *key);
        self.forwarder.ask(key, &question, move |outcome| store.keep(kept.as_slice(), outcome, Instant::now()))
    }

    /// Asks a name server, and waits; what is stale stands in when that takes long or is in vain.
    async fn ask(&self, name: &Name, kind: u16, echo: &Echo) -> Result<Found, Explanation> {
        let key = Key::new(name, kind, echo.edns.is_some_and(|edns| edns.dnssec_ok), echo.checking_disabled);
        let stale = match self.store.get(key.as_slice(), Instant::now()) {
            // It may have come in the meantime.
            Known::Fresh(hit) => {
                self.metrics.answers_cache.inc();
                return Ok(Found { packet: hit.packet, age: hit.age, why: None });
            }
            Known::Stale { hit, why, .. } => Some(Found { packet: hit.packet, age: Age::Stale, why: Some(why) }),
            Known::Nothing => None,
        };
        let waited = match self.begin(&key, name, kind, echo) {
            Ok(mut flight) => {
                let landed = async { flight.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone()) };
                match stale {
                    Some(_) => tokio::time::timeout(CLIENT_PATIENCE, landed).await.ok().flatten(),
                    None => landed.await,
                }
                .ok_or(Explanation::UNREACHABLE)
            }
            Err(NotAsked::Busy) => Err(Explanation::BUSY),
            Err(NotAsked::NoServer) => Err(Explanation::NO_SERVER),
        };
        match (waited, stale) {
            (Ok(outcome), _) if matches!(outcome.end, End::Answer(_)) => {
                self.metrics.answers_upstream.inc();
                Ok(Found { packet: outcome.packet, age: Age::Seconds(0), why: None })
            }
            (_, Some(stale)) => {
                self.metrics.answers_stale.inc();
                Ok(stale)
            }
            (Ok(outcome), None) => {
                self.metrics.answers_failed.inc();
                let why = (outcome.end == End::Unreachable).then_some(Explanation::UNREACHABLE);
                Ok(Found { packet: outcome.packet, age: Age::Seconds(0), why })
            }
            (Err(why), None) => Err(why),
        }
    }

    /// Follows an alias of the cluster to its end, and puts everything into one answer.
    async fn follow(&self, query: &Query<'_>, first: Answer) -> Result<Found, Explanation> {
        let failed = Explanation::UNREACHABLE;
        let mut message = zone::message(&query.name, query.kind).ok_or(failed)?;
        let mut answer = first;
        for _ in 0..MAX_ALIASES {
            zone::add(&mut message, &answer).ok_or(failed)?;
            let Answer::Alias { target, .. } = &answer else {
                return found(message).ok_or(failed);
            };
            let name = Name::from_text(target).ok_or(failed)?;
            let question = names::Question { name: target, kind: zone::kind(query.kind) };
            answer = match self.zone.answer(&question).ok_or(Explanation::NOT_READY)? {
                Answer::Elsewhere if !name.is_below(&self.domain) => {
                    let found = self.ask(&name, query.kind, &query.echo).await?;
                    return append(message, &found).ok_or(failed);
                }
                answer => answer,
            };
        }
        Err(Explanation::ALIASES)
    }
}

/// What the cluster has to say about a question.
enum Cluster {
    /// This; nothing when it cannot be written.
    Packet(Option<Arc<Packet>>),
    /// It is another's name.
    Alias(Answer),
    /// It is not about the cluster.
    Elsewhere,
    /// It cannot be said yet.
    NotReady,
}

fn send(
    packet: Option<Arc<Packet>>,
    query: &Query<'_>,
    turn: usize,
    why: Option<Explanation>,
    limit: usize,
    out: &mut Vec<u8>,
) -> Verdict {
    match packet {
        Some(packet) => packet.write(query, Age::Seconds(0), turn, why, limit, out),
        None => write_error(&query.echo, Some(query.section), Code::ServerFailure, None, out),
    }
    Verdict::Send
}

fn found(message: Message) -> Option<Found> {
    Some(Found { packet: Arc::new(Packet::new(message)?), age: Age::Seconds(0), why: None })
}

/// The end of an alias, which a name server knew.
fn append(mut message: Message, end: &Found) -> Option<Found> {
    let tail = end.packet.message(end.age)?;
    message.answers.extend(tail.answers);
    message.authorities.extend(tail.authorities);
    // The code is that of the last name (RFC 6604).
    message.metadata.response_code = tail.metadata.response_code;
    message.metadata.authoritative = false;
    Some(Found { why: end.why, ..found(message)? })
}
