//! Which images may go, and in which order. No IO.
//!
//! The housekeeping task lists images and what uses them and asks. Invariants, each a test: an image
//! that a container, a pod of this node or a sandbox uses never goes, nor one that the runtime pins;
//! one that is younger than the minimum age stays; who was unused for longest goes first; no more
//! goes than must. What is remembered dies with the process: an agent that starts again counts ages
//! anew, which keeps images longer, never shorter.

use std::collections::{BTreeSet, HashMap};

use skerry_proto::cri::v1::Image;

use super::reference::Reference;

/// What images are used by.
#[derive(Debug, Default)]
pub(crate) struct InUse {
    /// Ids or names as the runtime keeps them with containers.
    pub(crate) references: BTreeSet<String>,
    /// Names in specs of pods that have not ended.
    names: Vec<Reference>,
}

impl InUse {
    pub(crate) fn name(&mut self, image: &str) {
        self.names.extend(Reference::parse(image));
    }

    fn covers(&self, image: &Image) -> bool {
        let mut own = image.repo_tags.iter().chain(&image.repo_digests);
        self.references.contains(&image.id)
            || own.clone().any(|n| self.references.contains(n))
            || own.any(|n| self.names.iter().any(|wanted| wanted.is(n)))
    }
}

#[derive(Debug, Clone, Copy)]
struct Known {
    first_ms: i64,
    used_ms: Option<i64>,
}

/// When images were seen and used. Times are of any clock that does not jump.
#[derive(Debug, Default)]
pub(crate) struct Ages {
    known: HashMap<String, Known>,
}

impl Ages {
    /// Notes what there is now, and returns what is not in use, in the order in which it should go.
    pub(crate) fn unused(&mut self, images: Vec<Image>, in_use: &InUse, now: i64) -> Vec<Image> {
        self.known.retain(|id, _| images.iter().any(|i| i.id == *id));
        let mut unused = Vec::new();
        for image in images {
            let known = self.known.entry(image.id.clone()).or_insert(Known { first_ms: now, used_ms: None });
            if image.pinned || in_use.covers(&image) {
                known.used_ms = Some(now);
            } else {
                unused.push((known.used_ms, known.first_ms, image));
            }
        }
        unused.sort_by(|a, b| (a.0, a.1, &a.2.id).cmp(&(b.0, b.1, &b.2.id)));
        unused.into_iter().map(|(_, _, image)| image).collect()
    }

    /// Whether the image is old enough to be removed for want of space.
    pub(crate) fn is_old(&self, image: &Image, min_age_ms: i64, now: i64) -> bool {
        self.known.get(&image.id).is_some_and(|k| now.saturating_sub(k.first_ms) >= min_age_ms)
    }

    /// Whether nobody used it for longer than it may stay.
    pub(crate) fn is_expired(&self, image: &Image, max_age_ms: i64, now: i64) -> bool {
        let since = self.known.get(&image.id).map(|k| k.used_ms.unwrap_or(k.first_ms));
        max_age_ms > 0 && since.is_some_and(|at| now.saturating_sub(at) > max_age_ms)
    }
}

/// Bytes to make free on a filesystem that is fuller than `high` percent, down to `low`.
pub(crate) fn to_free(capacity: u64, available: u64, high: u8, low: u8) -> u64 {
    let percent_free = u128::from(available).saturating_mul(100).checked_div(u128::from(capacity)).unwrap_or(100);
    let used = 100_u128.saturating_sub(percent_free);
    // At 100 the collection is off, as in the kubelet.
    if high >= 100 || used < u128::from(high) {
        return 0;
    }
    let want = u128::from(capacity) * u128::from(100 - low.min(100)) / 100;
    u64::try_from(want.saturating_sub(u128::from(available))).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(id: &str, tag: &str) -> Image {
        Image { id: id.into(), repo_tags: vec![tag.into()], size: 10, ..Image::default() }
    }

    fn ids(images: &[Image]) -> Vec<&str> {
        images.iter().map(|i| i.id.as_str()).collect()
    }

    #[test]
    fn what_is_used_stays_and_what_was_unused_for_longest_goes_first() {
        let mut ages = Ages::default();
        let all = || {
            vec![
                image("a", "docker.io/library/a:latest"),
                image("b", "r.io/b:1"),
                image("c", "r.io/c:1"),
                Image { pinned: true, ..image("pause", "r.io/pause:1") },
            ]
        };
        let mut in_use = InUse::default();
        in_use.name("a");
        in_use.references.insert("c".into());
        assert_eq!(ids(&ages.unused(all(), &in_use, 1_000)), ["b"]);
        let mut later = InUse::default();
        later.name("a");
        assert_eq!(ids(&ages.unused(all(), &later, 2_000)), ["b", "c"]);
        assert_eq!(ids(&ages.unused(all(), &InUse::default(), 3_000)), ["b", "c", "a"]);
        assert!(!ages.is_old(&image("b", ""), 5_000, 5_999));
        assert!(ages.is_old(&image("b", ""), 5_000, 6_000));
        assert!(!ages.is_expired(&image("c", ""), 2_000, 3_000));
        assert!(ages.is_expired(&image("c", ""), 2_000, 3_001));
        assert!(!ages.is_expired(&image("c", ""), 0, i64::MAX));
    }

    #[test]
    fn no_more_is_freed_than_must() {
        assert_eq!(to_free(1_000, 200, 85, 80), 0);
        assert_eq!(to_free(1_000, 150, 85, 80), 50);
        assert_eq!(to_free(1_000, 0, 85, 80), 200);
        assert_eq!(to_free(1_000, 0, 100, 80), 0);
        assert_eq!(to_free(0, 0, 85, 80), 0);
    }
}
