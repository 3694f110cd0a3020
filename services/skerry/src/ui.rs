//! What the user sees: numbered steps with times, and lists as table, JSON or YAML.
//!
//! Results go to standard output, progress and errors to standard error, so that `-o json` can be
//! piped. A reader that went away (`| head`) is not an error.

use std::io::Write as _;
use std::time::Instant;

use clap::ValueEnum;
use serde::Serialize;
use serde_json::Value;

use crate::failure::{Context as _, Result};

/// How a result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Default)]
pub(crate) enum Output {
    /// Columns for people.
    #[default]
    Table,
    /// The same with more columns.
    Wide,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// Prints one line of a result.
pub(crate) fn line(text: impl AsRef<str>) {
    let _ = writeln!(std::io::stdout(), "{}", text.as_ref());
}

/// Prints one line of a result that has no end, and says whether somebody still reads.
pub(crate) fn line_is_read(text: impl AsRef<str>) -> bool {
    writeln!(std::io::stdout(), "{}", text.as_ref()).is_ok()
}

/// Prints one line about progress or trouble.
pub(crate) fn note(text: impl AsRef<str>) {
    let _ = writeln!(std::io::stderr(), "{}", text.as_ref());
}

/// A column of a table: its heading and where the value is in the row's JSON.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    heading: &'static str,
    pointer: &'static str,
    wide: bool,
}

/// A column that is always shown.
pub(crate) const fn column(heading: &'static str, pointer: &'static str) -> Column {
    Column { heading, pointer, wide: false }
}

/// A column that only `-o wide` shows.
pub(crate) const fn wide(heading: &'static str, pointer: &'static str) -> Column {
    Column { heading, pointer, wide: true }
}

/// Prints rows in the wanted form. `empty` is what a table without rows says.
pub(crate) fn print_list<T: Serialize>(output: Output, columns: &[Column], rows: &[T], empty: &str) -> Result<()> {
    let value = serde_json::to_value(rows).or_fail(|| "cannot print the result".into())?;
    if matches!(output, Output::Json | Output::Yaml) {
        return print_value(output, &value);
    }
    let rows = value.as_array().map(Vec::as_slice).unwrap_or_default();
    if rows.is_empty() {
        note(empty);
        return Ok(());
    }
    for text in table(columns, rows, output == Output::Wide) {
        line(text);
    }
    Ok(())
}

/// Prints one value as JSON or YAML; for the table forms the caller prints lines of its own.
pub(crate) fn print_value<T: Serialize>(output: Output, value: &T) -> Result<()> {
    let text = if output == Output::Yaml {
        serde_saphyr::to_string(value).or_fail(|| "cannot print the result".into())?
    } else {
        serde_json::to_string_pretty(value).or_fail(|| "cannot print the result".into())?
    };
    line(text.trim_end());
    Ok(())
}

/// The lines of a table.
pub(crate) fn table(columns: &[Column], rows: &[Value], all: bool) -> Vec<String> {
    let columns: Vec<_> = columns.iter().copied().filter(|c| all || !c.wide).collect();
    let mut cells = vec![headings(&columns)];
    cells.extend(rows.iter().map(|row| cells_of(&columns, row)));
    let mut widths = Vec::new();
    cells.iter().for_each(|row| widen(&mut widths, row));
    cells.iter().map(|row| padded(row, &widths)).collect()
}

/// A table whose rows come one by one. Columns get wider with what comes, and never narrower.
#[derive(Debug)]
pub(crate) struct GrowingTable {
    columns: Vec<Column>,
    widths: Vec<usize>,
}

impl GrowingTable {
    /// A table without rows.
    pub(crate) fn new(columns: Vec<Column>, all: bool) -> Self {
        let columns = columns.into_iter().filter(|c| all || !c.wide).collect();
        Self { columns, widths: Vec::new() }
    }

    /// The lines of the next row: the first one comes with the headings.
    pub(crate) fn row(&mut self, row: &Value) -> Vec<String> {
        let row = cells_of(&self.columns, row);
        let headings = self.widths.is_empty().then(|| headings(&self.columns));
        let lines: Vec<_> = headings.into_iter().chain([row]).collect();
        lines.iter().for_each(|line| widen(&mut self.widths, line));
        lines.iter().map(|line| padded(line, &self.widths)).collect()
    }
}

fn headings(columns: &[Column]) -> Vec<String> {
    columns.iter().map(|c| c.heading.to_owned()).collect()
}

fn cells_of(columns: &[Column], row: &Value) -> Vec<String> {
    columns.iter().map(|c| cell(row.pointer(c.pointer))).collect()
}

fn widen(widths: &mut Vec<usize>, row: &[String]) {
    widths.resize(row.len(), 0);
    for (width, cell) in widths.iter_mut().zip(row) {
        *width = (*width).max(cell.chars().count());
    }
}

fn padded(row: &[String], widths: &[usize]) -> String {
    let padded: Vec<_> = row.iter().zip(widths).map(|(c, w)| format!("{c:w$}")).collect();
    padded.join("   ").trim_end().to_owned()
}

fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".into(),
        Some(Value::String(text)) if text.is_empty() => "-".into(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) => items.iter().map(|v| cell(Some(v))).collect::<Vec<_>>().join(","),
        Some(Value::Object(map)) if map.is_empty() => "-".into(),
        Some(Value::Object(map)) => {
            map.iter().map(|(k, v)| format!("{k}={}", cell(Some(v)))).collect::<Vec<_>>().join(",")
        }
        Some(other) => other.to_string(),
    }
}

/// Bytes for people: powers of 1,000, as on a mobile bill.
pub(crate) fn bytes(count: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "shown with three digits")]
    let mut value = count as f64;
    for unit in ["B", "KB", "MB", "GB"] {
        if value < 1000.0 {
            return if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}

/// A duration for people: the two largest units.
pub(crate) fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m{}s", seconds / 60, seconds % 60),
        7200..172_800 => format!("{}h{}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// Numbered steps with the time that each took.
#[derive(Debug)]
pub(crate) struct Steps {
    number: u32,
    started: Instant,
    step: Instant,
}

impl Steps {
    /// Starts the clock.
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self { number: 0, started: now, step: now }
    }

    /// Reports a step as done.
    pub(crate) fn done(&mut self, what: impl AsRef<str>) {
        self.number += 1;
        note(format!("{:>2}. {:<64} {:>6.1} s", self.number, what.as_ref(), self.step.elapsed().as_secs_f64()));
        self.step = Instant::now();
    }

    /// Seconds since the start.
    pub(crate) fn total(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_aligned_columns_and_a_dash_for_nothing() {
        let rows =
            [serde_json::json!({"a": "one", "b": {"x": 1}}), serde_json::json!({"a": "three", "b": {}, "c": "wide"})];
        let columns = [column("NAME", "/a"), column("LABELS", "/b"), wide("EXTRA", "/c")];
        assert_eq!(table(&columns, &rows, false), ["NAME    LABELS", "one     x=1", "three   -"]);
        assert_eq!(table(&columns, &rows, true).last().map(String::as_str), Some("three   -        wide"));
    }

    #[test]
    fn a_growing_table_has_one_heading() {
        let mut table = GrowingTable::new(vec![column("NAME", "/a"), column("B", "/b"), wide("C", "/c")], false);
        assert_eq!(table.row(&serde_json::json!({"a": "one", "b": 1})), ["NAME   B", "one    1"]);
        assert_eq!(table.row(&serde_json::json!({"a": "three", "b": 2})), ["three   2"]);
        assert_eq!(table.row(&serde_json::json!({"a": "x", "b": 3})), ["x       3"]);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1_500_000), "1.5 MB");
        assert_eq!(age(59), "59s");
        assert_eq!(age(3_700), "61m40s");
        assert_eq!(age(200_000), "2d7h");
    }
}
