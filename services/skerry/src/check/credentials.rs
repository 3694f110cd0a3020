//! Probe of the node's certificate.

use std::path::Path;

use jiff::Timestamp;

use super::Finding;
use crate::edge::credentials;

/// Renewal happens at two thirds of the life; with less than this left it has failed for long.
const SOON_SECONDS: i64 = 3 * 86_400;

/// Whether the node has a certificate, and for how long.
pub(super) fn certificate(data_dir: &Path) -> Finding {
    if !data_dir.join(crate::places::EDGE_CREDENTIALS).exists() {
        return Finding::warning("certificate", "this machine has not joined", "skerry join <hub> --token <token>");
    }
    let current = match credentials(data_dir) {
        Ok(current) => current,
        Err(failure) => {
            let fix = "skerry reset, then skerry join with a new token";
            return Finding::failed("certificate", failure.to_string().replace('\n', " "), fix);
        }
    };
    let left = current.seconds_left(Timestamp::now());
    let until = current.not_after();
    if left <= 0 {
        Finding::failed("certificate", format!("expired at {until}"), "check the clock; then skerry reset, skerry join")
    } else if left < SOON_SECONDS {
        Finding::warning("certificate", format!("valid until {until}"), "check the link: it was not renewed in time")
    } else {
        Finding::ok("certificate", format!("valid until {until}"))
    }
}
