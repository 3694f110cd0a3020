//! What waits in memory for one sink: lines put, the sink's task takes.
//!
//! Bounded by bytes. It holds what comes in while one batch is on its way; when the task does not take it in time
//! the oldest values are dropped and counted, and the line goes on.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::record::Record;

/// Bytes that wait in memory for one sink, by [`Record::cost`]: some 60,000 numbers, a second of a fast mapper.
pub(crate) const QUEUE_BYTES: u64 = 4 * 1024 * 1024;

/// See the module documentation.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    inner: Mutex<Inner>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    /// Each with when it came.
    records: VecDeque<(Instant, Record)>,
    bytes: u64,
    dropped: u64,
    /// The task was told that it should not wait any longer.
    hurried: bool,
}

impl Queue {
    pub(crate) fn push(&self, record: Record) {
        let mut inner = self.lock();
        inner.bytes += record.cost();
        inner.records.push_back((Instant::now(), record));
        inner.trim();
        let hurry = inner.bytes > QUEUE_BYTES / 2 && !std::mem::replace(&mut inner.hurried, true);
        let wake = inner.records.len() == 1 || hurry;
        drop(inner);
        if wake {
            self.wake.notify_one();
        }
    }

    /// When the value came that has waited longest.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.lock().records.front().map(|(at, _)| *at)
    }

    /// Takes up to so many values and bytes, at least one if there is one.
    pub(crate) fn take(&self, records: usize, bytes: u64) -> Vec<Record> {
        let mut inner = self.lock();
        let mut taken = Vec::new();
        let mut cost = 0;
        while taken.len() < records
            && let Some((_, record)) = inner.records.pop_front()
        {
            cost += record.cost();
            taken.push(record);
            if cost >= bytes {
                break;
            }
        }
        inner.bytes = inner.bytes.saturating_sub(cost);
        inner.hurried = false;
        taken
    }

    /// Puts values back that were taken last.
    pub(crate) fn put_back(&self, records: Vec<Record>) {
        let mut inner = self.lock();
        for record in records.into_iter().rev() {
            inner.bytes += record.cost();
            inner.records.push_front((Instant::now(), record));
        }
        inner.trim();
    }

    /// How many were dropped since the last call.
    pub(crate) fn take_dropped(&self) -> u64 {
        std::mem::take(&mut self.lock().dropped)
    }

    /// It is filling up.
    pub(crate) fn is_pressing(&self) -> bool {
        self.lock().bytes > QUEUE_BYTES / 2
    }

    /// Waits until the first value is there, or until it fills up.
    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn trim(&mut self) {
        while self.bytes > QUEUE_BYTES
            && let Some((_, oldest)) = self.records.pop_front()
        {
            self.bytes = self.bytes.saturating_sub(oldest.cost());
            self.dropped += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::tests::record;
    use skerry_mapper_sdk::Value;

    #[test]
    fn the_oldest_goes_first_when_it_is_full_and_is_counted() {
        let queue = Queue::default();
        let each = record(Value::Text("x".repeat(1000)), 0).cost();
        let most = QUEUE_BYTES / each;
        for number in 0..i64::try_from(most).unwrap() + 10 {
            queue.push(record(Value::Text("x".repeat(1000)), number));
        }
        assert_eq!((queue.take_dropped(), queue.take_dropped()), (10, 0));
        let first = queue.take(2, u64::MAX);
        assert_eq!((first[0].unix_ms, first[1].unix_ms), (10, 11));
        queue.put_back(first);
        assert_eq!(queue.take(1, u64::MAX)[0].unix_ms, 10);
        assert_eq!(queue.take(100, each * 3).len(), 3);
        assert_eq!(queue.take(100, 0).len(), 1);
    }
}
