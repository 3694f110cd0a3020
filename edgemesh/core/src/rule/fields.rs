//! Reads a JSON object field by field and says what was left over.
//!
//! A reader takes the fields it knows; [`Fields::end`] warns of those that nobody took. A field of the wrong
//! type is a warning and counts as absent. `null` is absent. Depth is bounded by the JSON parser, the number of
//! warnings by [`MAX_WARNINGS`](super::MAX_WARNINGS).

use std::time::Duration;

use serde_json::{Map, Value};

use super::{MAX_WARNINGS, Reason, Warning};

/// Longest name of a field that a warning shows: names are the author's.
const MAX_FIELD: usize = 128;

/// Collects warnings.
#[derive(Default)]
pub(super) struct Warnings(pub(super) Vec<Warning>);

impl Warnings {
    pub(super) fn add(&mut self, field: &str, reason: Reason) {
        if self.0.len() < MAX_WARNINGS {
            let field = field.chars().filter(|c| !c.is_control()).take(MAX_FIELD).collect();
            self.0.push(Warning { field, reason });
        }
    }
}

/// An object that is being read.
pub(super) struct Fields {
    path: String,
    map: Map<String, Value>,
}

impl Fields {
    /// An object, which is at `path`; `None` with a warning when the value is something else.
    pub(super) fn of(path: String, value: Value, warnings: &mut Warnings) -> Option<Self> {
        match value {
            Value::Object(map) => Some(Self { path, map }),
            Value::Null => None,
            _ => {
                warnings.add(&path, Reason::Invalid);
                None
            }
        }
    }

    /// Where a field of it is.
    pub(super) fn at(&self, name: &str) -> String {
        format!("{}.{name}", self.path)
    }

    /// Warns of one of its fields.
    pub(super) fn warn(&self, name: &str, reason: Reason, warnings: &mut Warnings) {
        warnings.add(&self.at(name), reason);
    }

    /// A field as it is.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name).filter(|value| !value.is_null())
    }

    /// A field that is an object.
    pub(super) fn object(&mut self, name: &str, warnings: &mut Warnings) -> Option<Self> {
        let value = self.take(name)?;
        Self::of(self.at(name), value, warnings)
    }

    /// A field that is a list, at most `most` of it.
    pub(super) fn list(&mut self, name: &str, most: usize, warnings: &mut Warnings) -> Vec<Value> {
        match self.take(name) {
            None => Vec::new(),
            Some(Value::Array(mut list)) => {
                if list.len() > most {
                    self.warn(name, Reason::TooMany, warnings);
                    list.truncate(most);
                }
                list
            }
            Some(_) => {
                self.warn(name, Reason::Invalid, warnings);
                Vec::new()
            }
        }
    }

    fn read<T>(&mut self, name: &str, warnings: &mut Warnings, read: impl Fn(&Value) -> Option<T>) -> Option<T> {
        let value = self.take(name)?;
        let read = read(&value);
        if read.is_none() {
            self.warn(name, Reason::Invalid, warnings);
        }
        read
    }

    /// A text.
    pub(super) fn text(&mut self, name: &str, warnings: &mut Warnings) -> Option<String> {
        self.read(name, warnings, |value| value.as_str().map(str::to_owned))
    }

    /// True or false.
    pub(super) fn boolean(&mut self, name: &str, warnings: &mut Warnings) -> Option<bool> {
        self.read(name, warnings, Value::as_bool)
    }

    /// A number that is not negative; Protocol Buffers' JSON allows it to be a text.
    pub(super) fn number(&mut self, name: &str, warnings: &mut Warnings) -> Option<u32> {
        self.read(name, warnings, |value| match value {
            Value::Number(number) => number.as_u64().and_then(|number| u32::try_from(number).ok()),
            Value::String(text) => text.parse().ok(),
            _ => None,
        })
    }

    /// A percentage.
    pub(super) fn percent(&mut self, name: &str, warnings: &mut Warnings) -> Option<u8> {
        self.read(name, warnings, |value| {
            value.as_u64().and_then(|number| u8::try_from(number).ok()).filter(|number| *number <= 100)
        })
    }

    /// A time, such as `30s`, `1.5s`, `100ms`, `1h30m`.
    pub(super) fn duration(&mut self, name: &str, warnings: &mut Warnings) -> Option<Duration> {
        self.read(name, warnings, |value| value.as_str().and_then(duration))
    }

    /// Takes fields whose effect the mesh has in another way, or that only tune what it does not have.
    pub(super) fn accept(&mut self, names: &[&str]) {
        for name in names {
            self.map.remove(*name);
        }
    }

    /// Warns of everything that nobody took.
    pub(super) fn end(self, warnings: &mut Warnings) {
        for (name, value) in &self.map {
            if !value.is_null() {
                self.warn(name, Reason::Unsupported, warnings);
            }
        }
    }
}

/// A time in Go's form, which is what Istio takes; at most a year.
fn duration(text: &str) -> Option<Duration> {
    const YEAR: f64 = 365.0 * 86_400.0;
    let mut rest = text;
    let mut seconds = 0.0_f64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at_checked(digits)?;
        let letters = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at_checked(letters)?;
        let unit = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * unit;
        rest = after;
    }
    (seconds <= YEAR).then(|| Duration::try_from_secs_f64(seconds).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_as_istio_has_them() {
        for (text, millis) in
            [("30s", 30_000), ("1.5s", 1_500), ("100ms", 100), ("1h30m", 5_400_000), ("0s", 0), ("1m0.5s", 60_500)]
        {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "30", "-1s", "1.2.3s", "1d", "1e400s", "99999999999h", "1 s", "ss", "1ß"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }
}
