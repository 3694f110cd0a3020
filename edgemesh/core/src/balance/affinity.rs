//! Which endpoint a client stays with.
//!
//! At most [`MAX_CLIENTS`]; when there are more, the one that was silent longest is forgotten, so a flood of
//! addresses costs others their place but no memory. Entries whose time is over are dropped as others come.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Most clients that one port of a Service remembers: about 2 MiB when it is full.
pub const MAX_CLIENTS: usize = 16_384;

#[derive(Debug, Default)]
pub(super) struct Affinity {
    clients: HashMap<IpAddr, Bound>,
    /// Longest silent first; the number tells clients of one instant apart.
    order: BTreeMap<(Instant, u64), IpAddr>,
    next: u64,
}

#[derive(Debug, Clone, Copy)]
struct Bound {
    address: SocketAddr,
    at: (Instant, u64),
}

impl Affinity {
    /// The endpoint of a client whose time is not over.
    pub(super) fn get(&self, client: IpAddr, now: Instant, timeout: Duration) -> Option<SocketAddr> {
        let bound = self.clients.get(&client)?;
        (now.saturating_duration_since(bound.at.0) < timeout).then_some(bound.address)
    }

    /// The client's time begins anew with this endpoint.
    pub(super) fn bind(&mut self, client: IpAddr, address: SocketAddr, now: Instant, timeout: Duration) {
        self.next += 1;
        let at = (now, self.next);
        if let Some(old) = self.clients.insert(client, Bound { address, at }) {
            self.order.remove(&old.at);
        }
        self.order.insert(at, client);
        while let Some(first) = self.order.first_entry() {
            let over = now.saturating_duration_since(first.key().0) >= timeout;
            if !over && self.clients.len() <= MAX_CLIENTS {
                break;
            }
            self.clients.remove(&first.remove());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_full_table_forgets_who_was_silent_longest() {
        let start = Instant::now();
        let timeout = Duration::from_secs(1_000_000);
        let mut affinity = Affinity::default();
        let client = |i: u32| IpAddr::V4(Ipv4Addr::from_bits(i));
        let address = SocketAddr::new(client(1), 80);
        let most = u32::try_from(MAX_CLIENTS).unwrap_or_default();
        let at = |i: u32| start + Duration::from_millis(u64::from(i));
        for i in 0..most {
            affinity.bind(client(i), address, at(i), timeout);
        }
        // The first one comes again, so the second is the one to forget.
        affinity.bind(client(0), address, at(most), timeout);
        affinity.bind(client(most), address, at(most + 1), timeout);
        let now = at(most + 1);
        assert_eq!(affinity.clients.len(), MAX_CLIENTS);
        assert_eq!(affinity.order.len(), MAX_CLIENTS);
        assert!(affinity.get(client(0), now, timeout).is_some() && affinity.get(client(2), now, timeout).is_some());
        assert_eq!(affinity.get(client(1), now, timeout), None);
    }

    #[test]
    fn who_is_silent_too_long_is_free_and_takes_no_room() {
        let start = Instant::now();
        let timeout = Duration::from_secs(60);
        let mut affinity = Affinity::default();
        let client = |i: u8| IpAddr::V4(Ipv4Addr::new(10, 0, 0, i));
        let address = SocketAddr::new(client(1), 80);
        affinity.bind(client(1), address, start, timeout);
        assert_eq!(affinity.get(client(1), start + Duration::from_secs(59), timeout), Some(address));
        assert_eq!(affinity.get(client(1), start + Duration::from_secs(60), timeout), None);
        affinity.bind(client(2), address, start + Duration::from_secs(61), timeout);
        assert_eq!((affinity.clients.len(), affinity.order.len()), (1, 1));
    }
}
