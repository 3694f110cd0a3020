//! What was written to one property, by whom and when, and whether what became of it is what the rule says.
//!
//! The rule: what is set on the node holds until the cloud changes the property, and a change of the cloud that was
//! made without knowledge of it wins. No IO here: the tests of this file are tables.

use std::time::Instant;

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It was acknowledged.
    Yes,
    /// It was refused.
    No,
    /// Nobody can tell: the answer did not come.
    Unknown,
}

/// One write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The value; `None`: nothing is wanted any more.
    pub value: Option<i64>,
    /// When it was asked for.
    pub begun: Instant,
    /// When the answer was there, or was given up.
    pub ended: Instant,
    /// What became of it.
    pub taken: Taken,
    /// Of the node's: it knew everything that the cloud had written by then; so many writes.
    pub knew: Option<usize>,
}

/// See the module documentation.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// Writes in the cloud, in order.
    pub cloud: Vec<Write>,
    /// Writes on the node, in order.
    pub edge: Vec<Write>,
    /// The values that the API had, in order, beginning with the one before all writes.
    pub versions: Vec<Option<i64>>,
    /// Whether no value was written twice.
    pub unique: bool,
}

impl History {
    /// Judges it, when everything has come to rest.
    ///
    /// # Errors
    /// What the rule says and is not so.
    pub fn judge(&self) -> Result<(), String> {
        let last = self.versions.last().copied().flatten();
        if self.edge.is_empty()
            && let Some(wanted) = self.cloud.iter().rfind(|write| write.taken == Taken::Yes)
            && wanted.value != last
        {
            return Err(format!("only the cloud wrote, last {:?}, and {last:?} is wanted", wanted.value));
        }
        self.the_last_word_of_the_node_holds(last)?;
        if self.unique { self.nothing_is_overwritten_in_ignorance() } else { Ok(()) }
    }

    /// What was set last, by a node that knew all that the cloud had written and has written since.
    fn the_last_word_of_the_node_holds(&self, last: Option<i64>) -> Result<(), String> {
        let Some(at) = self.edge.iter().rposition(|write| write.taken == Taken::Yes) else { return Ok(()) };
        let Some(word) = self.edge.get(at).filter(|write| write.knew == Some(self.cloud.len())) else { return Ok(()) };
        let later = self.edge.iter().skip(at + 1).filter(|write| write.taken == Taken::Unknown);
        if word.value == last || later.into_iter().any(|write| write.value == last) {
            return Ok(());
        }
        Err(format!(
            "{:?} was set on the node, acknowledged, and nobody changed it; but {last:?} is wanted",
            word.value
        ))
    }

    fn nothing_is_overwritten_in_ignorance(&self) -> Result<(), String> {
        let by = |writes: &[Write], value: Option<i64>| writes.iter().find(|write| write.value == value).cloned();
        let mut seen = Vec::new();
        for pair in self.versions.windows(2) {
            let [before, after] = *pair else { continue };
            if seen.contains(&after) || self.versions.first() == Some(&after) {
                return Err(format!("{after:?} was written again after it was replaced: {:?}", self.versions));
            }
            seen.push(after);
            let Some(edge) = by(&self.edge, after) else {
                if by(&self.cloud, after).is_none() {
                    return Err(format!("nobody wanted {after:?}"));
                }
                continue;
            };
            if let Some(cloud) = by(&self.cloud, before)
                && cloud.begun > edge.ended
            {
                return Err(format!("{before:?} of the cloud was overwritten by {after:?}, which was set before it"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn write(start: Instant, value: i64, at: u64, taken: Taken, knew: Option<usize>) -> Write {
        let begun = start + Duration::from_millis(at);
        Write { value: Some(value), begun, ended: begun + Duration::from_millis(5), taken, knew }
    }

    fn history(cloud: &[Write], edge: &[Write], versions: &[i64]) -> Result<(), String> {
        let versions = versions.iter().map(|value| Some(*value)).collect();
        History { cloud: cloud.to_vec(), edge: edge.to_vec(), versions, unique: true }.judge()
    }

    #[test]
    fn the_rule_by_a_table() {
        use Taken::{No, Unknown, Yes};
        let t = Instant::now();
        let c = |value, at| write(t, value, at, Yes, None);
        let e = |value, at, taken, knew| write(t, value, at, taken, knew);
        for (what, cloud, edge, versions, good) in [
            ("nothing", vec![], vec![], vec![0], true),
            ("the cloud alone", vec![c(1, 0), c(2, 9)], vec![], vec![0, 1, 2], true),
            ("the cloud alone, and lost", vec![c(1, 0), c(2, 9)], vec![], vec![0, 1], false),
            ("the node alone", vec![], vec![e(1, 0, Yes, Some(0))], vec![0, 1], true),
            ("the node alone, and lost", vec![], vec![e(1, 0, Yes, Some(0))], vec![0], false),
            (
                "an answer that was lost",
                vec![],
                vec![e(1, 0, Yes, Some(0)), e(2, 9, Unknown, Some(0))],
                vec![0, 2],
                true,
            ),
            ("refused, and there", vec![], vec![e(1, 0, Yes, Some(0)), e(2, 9, No, Some(0))], vec![0, 2], false),
            ("the cloud wins in ignorance", vec![c(2, 9)], vec![e(1, 0, Yes, Some(0))], vec![0, 2], true),
            ("the node wins with knowledge", vec![c(2, 0)], vec![e(1, 9, Yes, Some(1))], vec![0, 2, 1], true),
            ("the node wins in ignorance", vec![c(2, 9)], vec![e(1, 0, Yes, Some(0))], vec![0, 2, 1], false),
            ("the node lost with knowledge", vec![c(2, 0)], vec![e(1, 9, Yes, Some(1))], vec![0, 2], false),
            ("written twice", vec![c(2, 9)], vec![e(1, 0, Yes, Some(0))], vec![0, 1, 2, 1], false),
            ("made up", vec![], vec![], vec![0, 7], false),
        ] {
            let judged = history(&cloud, &edge, &versions);
            assert_eq!(judged.is_ok(), good, "{what}: {judged:?}");
        }
    }
}
