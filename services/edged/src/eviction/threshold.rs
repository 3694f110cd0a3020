//! What was configured: signals and the amounts below which something must be done. No IO.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::resources;

/// What is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Signal {
    // Memory first: it runs out fastest.
    MemoryAvailable,
    AllocatableMemoryAvailable,
    NodeFsAvailable,
    NodeFsInodesFree,
    ImageFsAvailable,
    ImageFsInodesFree,
    PidAvailable,
}

/// What a signal is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resource {
    Memory,
    Disk,
    Inodes,
    Pids,
}

impl Signal {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "memory.available" => Self::MemoryAvailable,
            "allocatableMemory.available" => Self::AllocatableMemoryAvailable,
            "nodefs.available" => Self::NodeFsAvailable,
            "nodefs.inodesFree" => Self::NodeFsInodesFree,
            "imagefs.available" => Self::ImageFsAvailable,
            "imagefs.inodesFree" => Self::ImageFsInodesFree,
            "pid.available" => Self::PidAvailable,
            _ => return None,
        })
    }

    pub(crate) fn resource(self) -> Resource {
        match self {
            Self::MemoryAvailable | Self::AllocatableMemoryAvailable => Resource::Memory,
            Self::NodeFsAvailable | Self::ImageFsAvailable => Resource::Disk,
            Self::NodeFsInodesFree | Self::ImageFsInodesFree => Resource::Inodes,
            Self::PidAvailable => Resource::Pids,
        }
    }

    /// Whether it is about the filesystem of images and writable layers.
    pub(crate) fn is_image_fs(self) -> bool {
        matches!(self, Self::ImageFsAvailable | Self::ImageFsInodesFree)
    }
}

impl Resource {
    /// The name in messages and Events.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "ephemeral-storage",
            Self::Inodes => "inodes",
            Self::Pids => "pids",
        }
    }

    pub(crate) fn is_disk(self) -> bool {
        matches!(self, Self::Disk | Self::Inodes)
    }

    /// An amount as quantities are written: the largest unit that holds it exactly.
    pub(crate) fn text(self, amount: u64) -> String {
        let (base, units): (u64, [&str; 5]) = match self {
            Self::Memory | Self::Disk => (1024, ["", "Ki", "Mi", "Gi", "Ti"]),
            Self::Inodes | Self::Pids => (1000, ["", "k", "M", "G", "T"]),
        };
        let (mut value, mut unit) = (amount, 0);
        while value > 0 && value.is_multiple_of(base) && unit + 1 < units.len() {
            (value, unit) = (value / base, unit + 1);
        }
        format!("{value}{}", units.get(unit).copied().unwrap_or_default())
    }
}

/// An absolute amount, or a share of the capacity in thousandths of a percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Amount {
    Absolute(u64),
    Share(u32),
}

/// All of the capacity.
const WHOLE: u32 = 100_000;

impl Amount {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if let Some(percent) = text.strip_suffix('%') {
            let milli =
                resources::milli(&Quantity(percent.trim().to_owned())).filter(|_| !percent.trim().is_empty())?;
            return u32::try_from(milli).ok().filter(|m| *m <= WHOLE).map(Self::Share);
        }
        let units = resources::units(&Quantity(text.to_owned())).filter(|_| !text.trim().is_empty())?;
        u64::try_from(units).ok().map(Self::Absolute)
    }

    pub(crate) fn of(self, capacity: u64) -> u64 {
        match self {
            Self::Absolute(amount) => amount,
            Self::Share(share) => {
                let part = u128::from(capacity) * u128::from(share) / u128::from(WHOLE);
                u64::try_from(part).unwrap_or(u64::MAX)
            }
        }
    }
}

/// One threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Threshold {
    pub(crate) signal: Signal,
    pub(crate) value: Amount,
    /// How long it must be crossed; zero for a hard threshold.
    pub(crate) grace_ms: i64,
    /// What more to make free.
    pub(crate) min_reclaim: Amount,
}

impl Threshold {
    pub(crate) fn is_hard(&self) -> bool {
        self.grace_ms == 0
    }

    /// Hard thresholds first. A share of nothing, `0%`, means that there is no threshold.
    ///
    /// # Errors
    /// A text that names the signal which is not known or has no usable value.
    pub(crate) fn parse(
        hard: &BTreeMap<String, String>,
        soft: &BTreeMap<String, String>,
        grace: &BTreeMap<String, SignedDuration>,
        reclaim: &BTreeMap<String, String>,
    ) -> Result<Vec<Self>, String> {
        let known = |key: &str, name: &str| Signal::parse(name).ok_or(format!("node.{key}: unknown signal {name}"));
        let amount = |key: &str, name: &str, text: &str| {
            Amount::parse(text).ok_or(format!("node.{key}: {name}: {text:?} is neither an amount nor a percentage"))
        };
        let mut all = Vec::new();
        for (key, is_soft, map) in [("evictionHard", false, hard), ("evictionSoft", true, soft)] {
            for (name, text) in map {
                let signal = known(key, name)?;
                let value = amount(key, name, text)?;
                let grace_ms = match (is_soft, grace.get(name)) {
                    (false, _) => 0,
                    (true, Some(period)) if period.is_positive() => {
                        i64::try_from(period.as_millis()).unwrap_or(i64::MAX)
                    }
                    (true, _) => return Err(format!("node.evictionSoftGracePeriod: {name} needs one")),
                };
                let min_reclaim = match reclaim.get(name) {
                    Some(text) => amount("evictionMinimumReclaim", name, text)?,
                    None => Amount::Absolute(0),
                };
                if !matches!(value, Amount::Share(0)) {
                    all.push(Self { signal, value, grace_ms, min_reclaim });
                }
            }
        }
        for name in grace.keys().chain(reclaim.keys()) {
            known("evictionSoftGracePeriod or evictionMinimumReclaim", name)?;
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn amounts_are_absolute_or_shares() {
        assert_eq!(Amount::parse("100Mi"), Some(Amount::Absolute(100 << 20)));
        assert_eq!(Amount::parse("12.5%").unwrap().of(1_000), 125);
        assert_eq!(Amount::parse("100%").unwrap().of(u64::MAX), u64::MAX);
        for bad in ["", "%", "x", "101%", "-1%", "-5", "1Mi%"] {
            assert_eq!(Amount::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn amounts_are_written_as_quantities() {
        for (resource, amount, want) in [
            (Resource::Memory, 0, "0"),
            (Resource::Memory, 1000, "1000"),
            (Resource::Memory, 1024, "1Ki"),
            (Resource::Disk, 100 << 20, "100Mi"),
            (Resource::Disk, (1 << 30) + 1024, "1048577Ki"),
            (Resource::Inodes, 1024, "1024"),
            (Resource::Pids, 2_000, "2k"),
        ] {
            assert_eq!(resource.text(amount), want);
        }
    }
}
