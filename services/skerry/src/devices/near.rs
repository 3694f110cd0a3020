//! Names that are near to one that is not there, so that the user sees the typing error.

/// Names that are offered.
const MAX_OFFERED: usize = 3;

/// The names that a user may have meant, nearest first.
pub(super) fn near<'n>(wanted: &str, names: impl IntoIterator<Item = &'n str>) -> Vec<&'n str> {
    // One letter in three may be wrong, and two in any name.
    let limit = (wanted.chars().count() / 3).max(2);
    let mut found: Vec<(usize, &str)> = Vec::new();
    for name in names {
        let distance = strsim::damerau_levenshtein(wanted, name);
        if distance <= limit || (!wanted.is_empty() && name.contains(wanted)) {
            found.push((distance, name));
        }
    }
    found.sort_unstable();
    found.dedup();
    found.truncate(MAX_OFFERED);
    found.into_iter().map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_and_a_part_of_a_name_are_found() {
        let names = ["boiler-1", "boiler-2", "pump", "line-3-pump"];
        assert_eq!(near("boilr-1", names), ["boiler-1", "boiler-2"]);
        assert_eq!(near("pmup", names), ["pump"]);
        assert_eq!(near("line", names), ["line-3-pump"]);
        assert!(near("turbine", names).is_empty());
        assert_eq!(near("a", ["a1", "a2", "a3", "a4"]).len(), MAX_OFFERED);
    }
}
