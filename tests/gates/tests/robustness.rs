//! Every test that ROBUSTNESS.md names exists, and is not switched off.

use std::collections::BTreeSet;
use std::fs;

use skerry_gates::{quoted, root, without_test};

/// Cases of faults and attacks that the table must have.
const CASES: [u32; 29] =
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 30];

#[test]
fn the_table_of_faults_names_tests_that_exist() -> anyhow::Result<()> {
    let table = fs::read_to_string(root()?.join("tests/ROBUSTNESS.md"))?;
    let mut cases = BTreeSet::new();
    let mut named = BTreeSet::new();
    for row in table.lines().filter(|line| line.starts_with("| ")) {
        let first = row.trim_matches(['|', ' ']).split('|').next().unwrap_or_default();
        cases.extend(first.split(',').filter_map(|case| case.trim().parse::<u32>().ok()));
        assert!(!row.contains("| – |"), "a case without a control: {row}");
        named.extend(quoted(row).filter(|word| !word.starts_with("make ")).map(str::to_owned));
    }
    assert_eq!(cases, CASES.into(), "cases of tests/ROBUSTNESS.md");

    let mut missing = without_test(named.clone())?;
    // A macro makes one test for each planted bug of the simulation: `name: Bug => Invariant;`.
    let planted = fs::read_to_string(root()?.join("tests/sim/tests/planted.rs"))?;
    for row in planted.lines().filter(|line| line.contains("=>")) {
        if let Some((name, _)) = row.trim().split_once(':') {
            missing.remove(name);
        }
    }
    assert!(named.len() > 40, "the table looks too small: {}", named.len());
    assert!(missing.is_empty(), "tests/ROBUSTNESS.md names what is not a test that runs: {missing:?}");
    Ok(())
}
