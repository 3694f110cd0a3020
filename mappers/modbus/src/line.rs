//! A line to one or more units, whatever it is made of.

use std::io;
use std::time::Duration;

use crate::config::{Endpoint, ProtocolConfig};
use crate::pdu::{Failure, Request};
use crate::rtu::Rtu;
use crate::tcp::Tcp;

/// What a request brought.
pub(crate) type Outcome = Result<Vec<u8>, Failure>;

/// The line cannot be used any more, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Lost(pub(crate) String);

impl Lost {
    pub(crate) fn io(what: &str, error: &io::Error) -> Self {
        Self(format!("{what}: {error}"))
    }
}

/// Questions to one unit.
#[derive(Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) unit: u8,
    pub(crate) requests: &'a [Request],
    /// Longest wait for each answer.
    pub(crate) timeout: Duration,
    /// How many may be under way at a time, where the line can.
    pub(crate) window: usize,
}

/// An open line.
#[derive(Debug)]
pub(crate) enum Line {
    Tcp(Tcp),
    Rtu(Rtu),
}

impl Line {
    pub(crate) async fn open(config: &ProtocolConfig) -> Result<Self, Lost> {
        match &config.endpoint {
            Endpoint::Tcp { host, port } => Ok(Self::Tcp(Tcp::connect(host, *port, config.timeout).await?)),
            Endpoint::Serial(serial) => Ok(Self::Rtu(Rtu::open(serial)?)),
        }
    }

    /// Asks, and asks again for reads that brought nothing usable, as often as the device's configuration says.
    pub(crate) async fn exchange(
        &mut self,
        config: &ProtocolConfig,
        requests: &[Request],
    ) -> Result<Vec<Outcome>, Lost> {
        let mut outcomes = self.once(config, requests).await?;
        for _ in 0..config.retries {
            let again: Vec<usize> = outcomes.iter().zip(requests).enumerate().filter_map(retry).collect();
            if again.is_empty() {
                break;
            }
            let questions: Vec<Request> = again.iter().filter_map(|at| requests.get(*at).cloned()).collect();
            let answers = self.once(config, &questions).await?;
            for (at, answer) in again.into_iter().zip(answers) {
                if let Some(outcome) = outcomes.get_mut(at) {
                    *outcome = answer;
                }
            }
        }
        Ok(outcomes)
    }

    async fn once(&mut self, config: &ProtocolConfig, requests: &[Request]) -> Result<Vec<Outcome>, Lost> {
        let ask = Ask { unit: config.unit, requests, timeout: config.timeout, window: config.pipeline };
        match self {
            Self::Tcp(line) => line.exchange(&ask).await,
            Self::Rtu(line) => line.exchange(&ask).await,
        }
    }
}

/// Reads only: a write whose answer was lost may have happened.
fn retry((at, (outcome, request)): (usize, (&Outcome, &Request))) -> Option<usize> {
    let unusable = matches!(outcome, Err(Failure::Silent(_) | Failure::Garbage(_)));
    (unusable && matches!(request, Request::Read(_))).then_some(at)
}
