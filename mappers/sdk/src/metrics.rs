//! What a mapper counts. No label comes from a device.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use skerry_telemetry::Registry;

use crate::schedule::{Job, Outcome};
use crate::{Fault, Quality};

/// Counters of a mapper. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    pub(crate) polls: Counter,
    pub(crate) skipped: Counter,
    pub(crate) values: Counter,
    pub(crate) bad_values: Counter,
    pub(crate) writes: Counter,
    pub(crate) writes_refused: Counter,
    pub(crate) connects: Counter,
    pub(crate) lost: Counter,
    pub(crate) silent: Counter,
    pub(crate) late: Counter,
    pub(crate) devices_set: Counter,
    pub(crate) devices: Gauge,
    pub(crate) node_sessions: Counter,
    pub(crate) reported: Counter,
    pub(crate) reports_refused: Counter,
    pub(crate) rest_requests: Counter,
    pub(crate) rest_refused: Counter,
}

impl Metrics {
    /// Registered under `mapper`.
    pub(crate) fn register(registry: &Registry) -> Self {
        let metrics = Self::default();
        let counters = [
            ("polls", "Reads of devices", &metrics.polls),
            ("polls_skipped", "Reads that were left out because the line was too slow", &metrics.skipped),
            ("values", "Values read", &metrics.values),
            ("values_bad", "Points that could not be read", &metrics.bad_values),
            ("writes", "Values written", &metrics.writes),
            ("writes_refused", "Values that a device refused", &metrics.writes_refused),
            ("connects", "Lines opened", &metrics.connects),
            ("lines_lost", "Lines lost, or not opened", &metrics.lost),
            ("devices_silent", "Calls that a device did not answer", &metrics.silent),
            ("calls_late", "Calls of the driver that passed the deadline", &metrics.late),
            ("devices_set", "Devices that were set up, also again", &metrics.devices_set),
            ("node_sessions", "Sessions with the node", &metrics.node_sessions),
            ("reported", "Values reported to the node", &metrics.reported),
            ("reports_refused", "Reports that the node refused", &metrics.reports_refused),
            ("rest_requests", "Requests to the REST server", &metrics.rest_requests),
            ("rest_refused", "Connections that the REST server refused", &metrics.rest_refused),
        ];
        registry.sub("mapper", |r| {
            for (name, help, counter) in counters {
                r.register(name, help, counter.clone());
            }
            r.register("devices", "Devices served", metrics.devices.clone());
        });
        metrics
    }

    pub(crate) fn count(&self, job: &Job, outcome: &Outcome) {
        match job {
            Job::Read(..) => self.polls.inc(),
            Job::Write(..) => self.writes.inc(),
            Job::Connect(_) => self.connects.inc(),
            Job::Subscribe(_) | Job::Check(_) => 0,
        };
        let fault = match outcome {
            Outcome::Done(Err(fault)) | Outcome::Subscribed(Err(fault)) | Outcome::Samples(Err(fault)) => fault,
            Outcome::Samples(Ok(samples)) => {
                let bad = samples.iter().filter(|sample| sample.quality == Quality::Bad).count();
                self.values.inc_by(u64::try_from(samples.len().saturating_sub(bad)).unwrap_or(0));
                self.bad_values.inc_by(u64::try_from(bad).unwrap_or(0));
                return;
            }
            Outcome::Late(_) => {
                self.late.inc();
                return;
            }
            Outcome::Done(Ok(())) | Outcome::Subscribed(Ok(_)) => return,
        };
        match fault {
            Fault::Lost(_) => self.lost.inc(),
            Fault::Silent(_) => self.silent.inc(),
            Fault::Refused(_) if matches!(job, Job::Write(..)) => self.writes_refused.inc(),
            Fault::Refused(_) | Fault::Config(_) => 0,
        };
    }
}
