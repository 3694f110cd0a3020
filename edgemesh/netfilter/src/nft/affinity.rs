//! Learned clients whose backend has gone: the kernel would send them there until they fall silent.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::layout::LEARNED;
use crate::state::{At, Frontend, Protocol, State};

/// Whether the way from `before` to `after` may leave a learned client behind.
pub(crate) fn concerned(before: &State, after: &State) -> bool {
    let learns = |(frontend, service): &(&Frontend, &crate::state::Service)| {
        service.affinity.is_some() && frontend.family() == LEARNED
    };
    before.iter().filter(learns).any(|(frontend, old)| match after.get(frontend) {
        Some(new) if new.affinity.is_some() && new.local == old.local => {
            old.backends().any(|backend| !new.backends().any(|other| other == backend))
        }
        _ => true,
    })
}

/// What of the learned clients does not fit `state`. `before`, if it is known, says whose policy for traffic from
/// outside has changed: all clients of those are forgotten, since nobody knows which of them came from where.
pub(crate) fn stale(
    learned: &BTreeMap<String, String>,
    before: Option<&State>,
    state: &State,
) -> Vec<(String, String)> {
    let fits = |key: &str, value: &str| {
        let (address, frontend) = parse(key)?;
        let backend = backend(value)?;
        let frontend = [At::Address(address), At::Node(LEARNED)]
            .into_iter()
            .map(|at| Frontend { at, ..frontend })
            .find(|frontend| state.get(frontend).is_some())?;
        let service = state.get(&frontend)?;
        let same = before.is_none_or(|before| before.get(&frontend).is_none_or(|old| old.local == service.local));
        let sticky = service.affinity.is_some();
        (sticky && same && service.backends().any(|other| other == backend)).then_some(())
    };
    let unfit = learned.iter().filter(|(key, value)| fits(key, value).is_none());
    unfit.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// `client . address . protocol . port`: the address, and the frontend as far as the key says it.
fn parse(key: &str) -> Option<(IpAddr, Frontend)> {
    let mut parts = key.split(" . ");
    let _client = parts.next()?;
    let address = parts.next()?.parse().ok()?;
    let name = parts.next()?;
    let protocol = Protocol::ALL.into_iter().find(|protocol| protocol.as_str() == name)?;
    let port = parts.next()?.parse().ok()?;
    Some((address, Frontend { at: At::Address(address), protocol, port }))
}

fn backend(value: &str) -> Option<SocketAddr> {
    let (ip, port) = value.split_once(" . ")?;
    Some(SocketAddr::new(ip.parse().ok()?, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::state::{Service, Slot};

    fn state(backends: &[&str], affinity: bool, local: Option<&[&str]>) -> State {
        let slots = |of: &[&str]| of.iter().map(|b| Slot::Backend(b.parse().unwrap())).collect();
        let service = Service {
            slots: slots(backends),
            local: local.map(slots),
            affinity: affinity.then_some(Duration::from_secs(10)),
        };
        let mut state = State::default();
        let at = At::Address("10.96.0.1".parse().unwrap());
        state.insert(Frontend { at, protocol: Protocol::Tcp, port: 80 }, service.clone()).unwrap();
        state.insert(Frontend { at: At::Node(LEARNED), protocol: Protocol::Tcp, port: 30_080 }, service).unwrap();
        state
    }

    #[test]
    fn who_was_sent_to_a_backend_that_is_gone_is_forgotten() {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let stays = pair("10.0.0.9 . 10.96.0.1 . tcp . 80", "10.0.0.1 . 8080");
        let goes = pair("10.0.0.8 . 10.96.0.1 . tcp . 80", "10.0.0.2 . 8080");
        let node = pair("10.0.0.8 . 192.168.0.1 . tcp . 30080", "10.0.0.2 . 8080");
        let unknown = pair("10.0.0.8 . 10.96.0.7 . tcp . 80", "10.0.0.1 . 8080");
        let odd = pair("something", "else");
        let learned: BTreeMap<_, _> = [&stays, &goes, &node, &unknown, &odd].into_iter().cloned().collect();
        let two = state(&["10.0.0.1:8080", "10.0.0.2:8080"], true, None);
        let one = state(&["10.0.0.1:8080"], true, None);
        let mut expected = vec![goes.clone(), node.clone(), unknown.clone(), odd.clone()];
        expected.sort();
        assert_eq!(stale(&learned, None, &one), expected);
        assert_eq!(stale(&learned, Some(&two), &one), expected);
        expected.retain(|pair| *pair == unknown || *pair == odd);
        assert_eq!(stale(&learned, Some(&one), &two), expected);
        assert_eq!(stale(&learned, None, &state(&["10.0.0.1:8080"], false, None)).len(), learned.len());
        let local = state(&["10.0.0.1:8080"], true, Some(&["10.0.0.1:8080"]));
        assert_eq!(stale(&learned, Some(&one), &local).len(), learned.len());

        assert!(concerned(&two, &one) && concerned(&one, &local) && concerned(&two, &State::default()));
        assert!(!concerned(&one, &two) && !concerned(&State::default(), &two) && !concerned(&one, &one));
    }
}
