//! edged's CONFORMANCE.md is the whole list, names tests that exist, and supports nine of ten lines.

use std::collections::BTreeSet;
use std::fs;

use skerry_gates::{quoted, root, without_test};

/// Lines of the public list about nodes and storage; the table itself is the list.
const LINES: usize = 197;
/// A line that is not supported says so, and why.
const NOT_SUPPORTED: &str = "not supported: ";

#[test]
fn the_conformance_list_is_complete_and_shown_by_tests() -> anyhow::Result<()> {
    let table = fs::read_to_string(root()?.join("services/edged/CONFORMANCE.md"))?;
    let rows: Vec<(&str, &str)> = table
        .lines()
        .filter(|line| line.starts_with("| [sig-"))
        .filter_map(|line| line.trim_matches(['|', ' ']).rsplit_once(" | "))
        .collect();
    assert_eq!(rows.len(), LINES, "lines of the table");
    let cases: BTreeSet<&str> = rows.iter().map(|(case, _)| *case).collect();
    assert_eq!(cases.len(), LINES, "a line is there twice");

    let mut named = BTreeSet::new();
    let mut supported = 0;
    for (case, shown) in &rows {
        if let Some(reason) = shown.strip_prefix(NOT_SUPPORTED) {
            assert!(reason.len() > 20, "{case}: no reason");
            continue;
        }
        supported += 1;
        assert!(quoted(shown).next().is_some(), "{case}: no test");
        named.extend(quoted(shown).map(str::to_owned));
    }
    assert!(supported * 10 >= LINES * 9, "only {supported} of {LINES} are supported");
    let counted = format!("{supported} are supported and {} are not", LINES - supported);
    let words: Vec<&str> = table.split_whitespace().collect();
    assert!(words.join(" ").contains(&counted), "the text above the table must say: {counted}");
    let missing = without_test(named)?;
    assert!(missing.is_empty(), "CONFORMANCE.md names what is not a test that runs: {missing:?}");
    Ok(())
}
