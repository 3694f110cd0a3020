//! Every test that ROBUSTNESS.md names exists, and is not switched off.

use std::collections::BTreeSet;
use std::fs;

use skerry_gates::{files, root};

/// Cases of faults and attacks that the table must have.
const CASES: [u32; 25] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27];

#[test]
fn the_table_of_faults_names_tests_that_exist() -> anyhow::Result<()> {
    let table = fs::read_to_string(root()?.join("tests/ROBUSTNESS.md"))?;
    let mut cases = BTreeSet::new();
    let mut named = BTreeSet::new();
    for row in table.lines().filter(|line| line.starts_with("| ")) {
        let first = row.trim_matches(['|', ' ']).split('|').next().unwrap_or_default();
        cases.extend(first.split(',').filter_map(|case| case.trim().parse::<u32>().ok()));
        assert!(!row.contains("| – |"), "a case without a control: {row}");
        let words = row.split('`').skip(1).step_by(2);
        named.extend(words.filter(|word| !word.starts_with("make ")).map(str::to_owned));
    }
    assert_eq!(cases, CASES.into(), "cases of tests/ROBUSTNESS.md");

    let mut missing = named.clone();
    for path in files(&["rs"])? {
        let text = fs::read_to_string(&path)?;
        // A macro makes one test for each planted bug of the simulation: `name: Bug => Invariant;`.
        if path.ends_with("sim/tests/planted.rs") {
            let rows = text.lines().filter(|line| line.contains("=>"));
            for name in rows.filter_map(|row| row.trim().split_once(':')) {
                missing.remove(name.0);
            }
        }
        let mut ignored = false;
        for line in text.lines() {
            if let Some((_, rest)) = line.split_once("fn ") {
                let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if !ignored {
                    missing.remove(&name);
                }
                ignored = false;
            } else if line.trim_start().starts_with("#[ignore") {
                ignored = true;
            }
        }
    }
    assert!(named.len() > 40, "the table looks too small: {}", named.len());
    assert!(missing.is_empty(), "tests/ROBUSTNESS.md names what is not a test that runs: {missing:?}");
    Ok(())
}
