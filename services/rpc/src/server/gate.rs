//! How many connections of one address may be open before they showed a certificate.
//!
//! Taken at accept, given back when the peer's identity is known, or at the end of an anonymous
//! connection. Memory: one entry per address that has such connections, so bounded by the
//! connection limit.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// See the module documentation.
pub(super) struct Gate {
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
    max: usize,
}

/// One taken place.
pub(super) struct Place {
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
    address: IpAddr,
}

impl Gate {
    pub(super) fn new(max: usize) -> Self {
        Self { counts: Arc::default(), max }
    }

    /// A place for a connection from the address, if there is one.
    pub(super) fn enter(&self, address: IpAddr) -> Option<Place> {
        let address = prefix(address);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= self.max {
            return None;
        }
        *count += 1;
        Some(Place { counts: Arc::clone(&self.counts), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.address);
                // After a storm the table gives its memory back.
                if counts.capacity() > 1024 && counts.len() < counts.capacity() / 8 {
                    counts.shrink_to_fit();
                }
            }
        }
    }
}

/// One customer has a whole /64 of IPv6, and one address of IPv4.
pub(super) fn prefix(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6([a, b, c, d, 0, 0, 0, 0].into())
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn places_are_counted_by_address_and_given_back() {
        let gate = Gate::new(2);
        let a: IpAddr = "10.0.0.1".parse().unwrap();
        let b: IpAddr = "10.0.0.2".parse().unwrap();
        let first = gate.enter(a).unwrap();
        let _second = gate.enter(a).unwrap();
        assert!(gate.enter(a).is_none());
        assert!(gate.enter("::ffff:10.0.0.1".parse().unwrap()).is_none());
        assert!(gate.enter(b).is_some());
        drop(first);
        assert!(gate.enter(a).is_some());
        let one = gate.enter("2001:db8::1".parse().unwrap()).unwrap();
        let two = gate.enter("2001:db8::2".parse().unwrap()).unwrap();
        assert!(gate.enter("2001:db8::3".parse().unwrap()).is_none());
        assert!(gate.enter("2001:db8:0:1::1".parse().unwrap()).is_some());
        drop((one, two));
        assert_eq!(gate.counts.lock().unwrap().len(), 1);
    }
}
