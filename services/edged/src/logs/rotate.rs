//! What to do with the files of one container's log directory. No IO.
//!
//! Only the log of the newest attempt grows. When it is too large, what was rotated before is
//! compressed, the oldest of it removed, and the log itself moved away, so that there are never more
//! files than allowed. The file that was moved last stays as it is, because somebody may be reading it.

/// What a compressed file ends with, and one that was not finished.
pub(super) const COMPRESSED: &str = ".gz";
pub(super) const UNFINISHED: &str = ".tmp";

/// What to do, in this order; names are of files in the container's directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Rotation {
    pub(super) remove: Vec<String>,
    pub(super) compress: Vec<String>,
    /// The log that is moved away.
    pub(super) current: String,
    pub(super) restart_count: u32,
}

/// The newest log among the names, as attempt and name.
fn newest<'a>(names: impl Iterator<Item = &'a str>) -> Option<(u32, &'a str)> {
    names.filter_map(|n| Some((n.strip_suffix(".log")?.parse().ok()?, n))).max()
}

/// `None`: nothing is too large.
pub(super) fn plan(files: &[(String, u64)], max_bytes: u64, max_files: usize) -> Option<Rotation> {
    let (restart_count, current) = newest(files.iter().map(|(n, _)| n.as_str()))?;
    let size = files.iter().find(|(n, _)| n == current)?.1;
    if size <= max_bytes {
        return None;
    }
    let prefix = format!("{current}.");
    // Times in names sort as they passed.
    let mut rotated: Vec<&str> = files.iter().map(|(n, _)| n.as_str()).filter(|n| n.starts_with(&prefix)).collect();
    rotated.sort_unstable();
    let has = |name: String| files.iter().any(|(n, _)| *n == name);
    let useless = |n: &&str| n.ends_with(UNFINISHED) || has(format!("{n}{COMPRESSED}"));
    let (mut remove, mut keep): (Vec<&str>, Vec<&str>) = rotated.into_iter().partition(useless);
    // The current log and the one that it becomes are two more.
    let excess = keep.len().saturating_sub(max_files.saturating_sub(2));
    remove.extend(keep.drain(..excess));
    let own = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect::<Vec<_>>();
    let compress = keep.into_iter().filter(|n| !n.ends_with(COMPRESSED)).collect();
    Some(Rotation { remove: own(remove), compress: own(compress), current: current.to_owned(), restart_count })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn files(names: &[(&str, u64)]) -> Vec<(String, u64)> {
        names.iter().map(|(n, s)| ((*n).to_owned(), *s)).collect()
    }

    #[test]
    fn only_the_newest_log_is_rotated_and_only_when_it_is_too_large() {
        assert_eq!(plan(&[], 10, 5), None);
        assert_eq!(plan(&files(&[("0.log", 99), ("1.log", 10)]), 10, 5), None);
        let rotation = plan(&files(&[("0.log", 1), ("9.log", 1), ("10.log", 11)]), 10, 5).unwrap();
        assert_eq!((rotation.current.as_str(), rotation.restart_count), ("10.log", 10));
        assert!(rotation.remove.is_empty() && rotation.compress.is_empty());
    }

    #[test]
    fn the_oldest_go_and_the_others_are_compressed() {
        let rotation = plan(
            &files(&[
                ("0.log", 11),
                ("0.log.20260101-000001.gz", 1),
                ("0.log.20260101-000002.gz", 1),
                ("0.log.20260101-000003", 9),
                ("0.log.20260101-000003.gz", 1),
                ("0.log.20260101-000004", 9),
                ("0.log.20260101-000005.tmp", 9),
            ]),
            10,
            4,
        )
        .unwrap();
        assert_eq!(rotation.compress, ["0.log.20260101-000004"]);
        assert_eq!(
            rotation.remove,
            [
                "0.log.20260101-000003",
                "0.log.20260101-000005.tmp",
                "0.log.20260101-000001.gz",
                "0.log.20260101-000002.gz"
            ]
        );
    }

    proptest! {
        /// Rotating again and again: never more files than allowed, and always the newest are kept.
        #[test]
        fn the_number_of_files_is_bounded(max_files in 2_usize..7, turns in 1_u32..20) {
            let mut dir = files(&[("0.log", 11)]);
            for turn in 0..turns {
                let rotation = plan(&dir, 10, max_files).unwrap();
                dir.retain(|(n, _)| !rotation.remove.contains(n));
                for (name, _) in dir.iter_mut().filter(|(n, _)| rotation.compress.contains(n)) {
                    name.push_str(COMPRESSED);
                }
                dir.retain(|(n, _)| *n != rotation.current);
                dir.push((format!("0.log.20260101-{turn:06}"), 11));
                dir.push(("0.log".into(), 11));
                prop_assert!(dir.len() <= max_files, "{dir:?}");
                let latest = format!("0.log.20260101-{turn:06}");
                prop_assert!(dir.iter().any(|(n, _)| *n == latest));
            }
        }
    }
}
