//! The task of one sink: takes values from its queue or from the spool, in order, and sends them until they are
//! taken.
//!
//! While something waits in the spool everything goes through it, so that order is kept. A sink that does not
//! answer is asked less and less often; what comes meanwhile is on disk within [`HOLD`]. When a sink refuses a batch
//! its values are sent one by one, and only what it refuses alone is dropped. A stop puts what is left on disk.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use skerry_mapper_sdk::chain;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::metrics::SinkMetrics;
use crate::queue::Queue;
use crate::record::Record;
use crate::sink::{Sent, Sink, Trouble};
use crate::spool::{Spool, SpoolError};

/// How long a value may be in memory alone.
pub const HOLD: Duration = Duration::from_secs(1);
/// After the first value of a pause, so that those that are read together go together.
const LINGER: Duration = Duration::from_millis(50);
/// Values and bytes of one batch: what a sink takes at once well within the deadline.
const BATCH_RECORDS: usize = 1000;
const BATCH_BYTES: u64 = 512 * 1024;
/// Longest time in which a sink may take a batch.
const SEND_DEADLINE: Duration = Duration::from_secs(30);
/// First and longest pause of a sink that does not answer; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LAST_PAUSE: Duration = Duration::from_secs(30);
/// Between two log lines of one kind.
const SAY_PAUSE: Duration = Duration::from_secs(60);

/// See the module documentation.
pub(crate) struct Worker {
    pub(crate) sink: Sink,
    pub(crate) keeper: Keeper,
}

/// What is not taken yet, in memory and on disk.
pub(crate) struct Keeper {
    name: Arc<str>,
    queue: Arc<Queue>,
    spool: Spool,
    metrics: SinkMetrics,
    /// There is something in the spool, or there may be.
    spooled: bool,
    hand: Hand,
    dropped: Said,
    refused: Said,
    trouble: Said,
    unusable: Said,
}

/// The values that are being sent.
#[derive(Default)]
struct Hand {
    records: Vec<Record>,
    /// Their numbers in the spool, if they are there.
    numbers: Vec<i64>,
    /// When the oldest of them came; nothing if they are in the spool.
    since: Option<Instant>,
}

/// How often something was said.
#[derive(Default)]
struct Said {
    at: Option<Instant>,
    since: u64,
}

impl Said {
    /// How many there were since it was said last; nothing while that is too soon.
    fn say(&mut self, more: u64) -> Option<u64> {
        self.since += more;
        if self.at.is_some_and(|at| at.elapsed() < SAY_PAUSE) {
            return None;
        }
        self.at = Some(Instant::now());
        Some(std::mem::take(&mut self.since))
    }
}

impl Worker {
    /// Serves the sink until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let Self { mut sink, mut keeper } = self;
        // Values that are to be sent alone, because one of them was refused.
        let mut alone = 0_usize;
        let mut failures = 0_u32;
        while !stop.is_cancelled() {
            keeper.fetch().await;
            if keeper.hand.records.is_empty() {
                tokio::select! {
                    () = keeper.queue.woken() => tokio::time::sleep(LINGER).await,
                    () = stop.cancelled() => {}
                }
                continue;
            }
            let most = if alone > 0 { 1 } else { keeper.hand.records.len() };
            let Some(sent) = deliver(&mut sink, &mut keeper, most, &stop).await else { break };
            alone = alone.saturating_sub(sent.taken);
            keeper.taken(sent.taken).await;
            if sent.taken > 0 && failures > 0 {
                tracing::info!(sink = &*keeper.name, failures, "the sink takes values again");
                failures = 0;
                keeper.trouble = Said::default();
            }
            match sent.trouble {
                None => {}
                Some(Trouble::Refused(_)) if most > sent.taken + 1 => alone = most - sent.taken,
                Some(Trouble::Refused(words)) => {
                    keeper.refuse(&words).await;
                    alone = alone.saturating_sub(1);
                }
                Some(Trouble::Away(words)) => {
                    failures = failures.saturating_add(1);
                    keeper.away(&words).await;
                    keeper.pause(failures, &stop).await;
                }
            }
        }
        keeper.keep().await;
        keeper.tell_dropped();
    }
}

/// Sends the first values in hand. Those that are in memory alone for too long are written down meanwhile.
/// `None`: it is to stop.
async fn deliver(sink: &mut Sink, keeper: &mut Keeper, most: usize, stop: &CancellationToken) -> Option<Sent> {
    let records: Vec<Record> = keeper.hand.records.iter().take(most).cloned().collect();
    let send = async {
        match tokio::time::timeout(SEND_DEADLINE, sink.send(&records)).await {
            Ok(sent) => sent,
            Err(_) => Sent::away(0, format!("no answer within {SEND_DEADLINE:?}")),
        }
    };
    tokio::pin!(send);
    loop {
        tokio::select! {
            sent = &mut send => return Some(sent),
            () = tokio::time::sleep_until(keeper.look_at()) => keeper.keep_old().await,
            () = stop.cancelled() => return None,
        }
    }
}

impl Keeper {
    /// Of a sink of this name, which may have values in the spool from an earlier life.
    pub(crate) fn new(name: Arc<str>, queue: Arc<Queue>, spool: Spool, metrics: SinkMetrics) -> Self {
        Self {
            name,
            queue,
            spool,
            metrics,
            spooled: true,
            hand: Hand::default(),
            dropped: Said::default(),
            refused: Said::default(),
            trouble: Said::default(),
            unusable: Said::default(),
        }
    }

    /// Takes the next values in hand, the oldest first.
    async fn fetch(&mut self) {
        if !self.hand.records.is_empty() {
            return;
        }
        self.hand = Hand::default();
        if self.spooled {
            match self.blocking(|spool, name| spool.oldest(name, BATCH_RECORDS, BATCH_BYTES)).await {
                Ok(waiting) if waiting.is_empty() => self.spooled = false,
                Ok(waiting) => {
                    (self.hand.numbers, self.hand.records) = waiting.into_iter().unzip();
                    return;
                }
                // A spool that cannot be read now is no reason to send nothing.
                Err(_) => {}
            }
        }
        self.tell_dropped();
        self.hand.since = self.queue.oldest();
        self.hand.records = self.queue.take(BATCH_RECORDS, BATCH_BYTES);
    }

    /// The first values in hand are the sink's now.
    async fn taken(&mut self, count: usize) {
        if count == 0 {
            return;
        }
        self.metrics.delivered.inc_by(u64::try_from(count).unwrap_or(0));
        self.let_go(count).await;
    }

    /// Forgets the first values in hand.
    async fn let_go(&mut self, count: usize) {
        self.hand.records.drain(..count.min(self.hand.records.len()));
        let numbers: Vec<i64> = self.hand.numbers.drain(..count.min(self.hand.numbers.len())).collect();
        if let Some(last) = numbers.last().copied() {
            // If it fails they are sent once more.
            let _ = self.blocking(move |spool, name| spool.confirm(name, last)).await;
        }
    }

    /// The sink will never take the first value in hand.
    async fn refuse(&mut self, words: &str) {
        self.metrics.refused.inc();
        if let Some(values) = self.refused.say(1)
            && let Some(record) = self.hand.records.first()
        {
            let target = &record.target;
            let (sink, property) = (&*self.name, &*target.property);
            let device = format!("{}/{}", target.namespace, target.device);
            tracing::warn!(
                sink,
                device,
                property,
                values,
                reason = words,
                "the sink refuses values, which are dropped"
            );
        }
        self.let_go(1).await;
    }

    /// The sink does not answer.
    async fn away(&mut self, words: &str) {
        self.metrics.failures.inc();
        if let Some(attempts) = self.trouble.say(1) {
            tracing::warn!(sink = &*self.name, attempts, reason = words, "the sink is away, values wait");
        }
        self.keep().await;
        if !self.hand.numbers.is_empty() {
            // They are in the spool, and what is there may change while we wait.
            self.hand = Hand::default();
        }
    }

    /// Waits before the next attempt, and writes down what comes meanwhile.
    async fn pause(&mut self, failures: u32, stop: &CancellationToken) {
        let longest = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LAST_PAUSE);
        // Drawn, so that many do not come at once.
        let until = Instant::now() + longest.mul_f64(rand::rng().random_range(0.5..1.0));
        loop {
            let next = until.min(Instant::now() + HOLD);
            let pressed = async {
                self.queue.woken().await;
                if !self.queue.is_pressing() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                () = pressed => {}
                () = stop.cancelled() => return,
            }
            self.keep().await;
            if Instant::now() >= until {
                return;
            }
        }
    }

    /// When to look whether something was in memory alone for too long.
    fn look_at(&self) -> Instant {
        let oldest = self.hand.since.into_iter().chain(self.queue.oldest()).min();
        oldest.unwrap_or_else(Instant::now) + HOLD
    }

    /// Writes down what is in memory alone, if the oldest of it has been for too long.
    async fn keep_old(&mut self) {
        if self.look_at() <= Instant::now() {
            self.keep().await;
        }
    }

    /// Writes down what is in memory alone. If that fails it stays in memory, as far as there is room.
    async fn keep(&mut self) {
        self.tell_dropped();
        let in_hand = if self.hand.numbers.is_empty() { self.hand.records.clone() } else { Vec::new() };
        let ours = in_hand.len();
        let mut records = in_hand;
        records.extend(self.queue.take(usize::MAX, u64::MAX));
        if records.is_empty() {
            return;
        }
        let values = u64::try_from(records.len()).unwrap_or(0);
        let records = Arc::new(records);
        let ahead = Arc::clone(&records);
        match self.blocking(move |spool, name| spool.append(name, &ahead)).await {
            Ok(appended) => {
                self.spooled = true;
                self.hand.since = None;
                self.metrics.spooled.inc_by(values);
                self.hand.numbers.extend((appended.last - i64::try_from(values).unwrap_or(0) + 1..).take(ours));
                self.drop(appended.dropped, "the bytes or the age of the spool");
            }
            // What is in hand stays there.
            Err(_) => {
                self.hand.since = self.hand.since.map(|_| Instant::now());
                self.queue.put_back(records.iter().skip(ours).cloned().collect());
            }
        }
    }

    fn tell_dropped(&mut self) {
        let dropped = self.queue.take_dropped();
        self.drop(dropped, "the bytes in memory");
    }

    fn drop(&mut self, values: u64, bound: &str) {
        if values == 0 {
            return;
        }
        self.metrics.dropped.inc_by(values);
        if let Some(values) = self.dropped.say(values) {
            tracing::warn!(sink = &*self.name, values, bound, "values are dropped, the oldest first");
        }
    }

    /// Does something with the spool on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&Spool, &str) -> Result<T, SpoolError> + Send + 'static,
    ) -> Result<T, SpoolError> {
        let (spool, name) = (self.spool.clone(), Arc::clone(&self.name));
        let result = tokio::task::spawn_blocking(move || work(&spool, &name)).await.unwrap_or(Err(SpoolError::Waiting));
        if let Err(error) = &result
            && !matches!(error, SpoolError::Waiting)
            && self.unusable.say(1).is_some()
        {
            let words = "the spool cannot be used, values wait in memory: see data_plane.folder in the configuration";
            tracing::error!(sink = &*self.name, error = chain(error), "{words}");
        }
        result
    }
}
