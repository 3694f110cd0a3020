//! A JSON object that is read key by key; what nobody asked for is an error at the end.
//!
//! For drivers that understand the keys of KubeEdge and of its mappers: they read JSON with Go, so keys match in
//! any case, and numbers and booleans may be strings.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::ConfigError;

/// The keys that are still to be read.
#[derive(Debug)]
pub struct Keys {
    /// By the key in small letters; with the key as the user wrote it.
    left: BTreeMap<String, (String, Value)>,
    /// What was asked for, in this order.
    known: Vec<&'static str>,
}

impl Keys {
    /// The keys of an object.
    ///
    /// # Errors
    /// When two keys differ by case only: nobody knows which one is meant.
    pub fn new(object: Map<String, Value>) -> Result<Self, ConfigError> {
        let mut left = BTreeMap::new();
        for (key, value) in object {
            if let Some((other, _)) = left.insert(key.to_ascii_lowercase(), (key.clone(), value)) {
                return Err(ConfigError::invalid(key, format!("is there twice, also as `{other}`; keep one")));
            }
        }
        Ok(Self { left, known: Vec::new() })
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        self.left.remove(&key.to_ascii_lowercase()).map(|(_, value)| value).filter(|value| !value.is_null())
    }

    /// A key that means nothing here, and is no mistake.
    pub fn ignore(&mut self, key: &'static str) {
        let _ = self.take(key);
    }

    /// A string that is not empty; a number is one too.
    ///
    /// # Errors
    /// When it is something else.
    pub fn text(&mut self, key: &'static str) -> Result<Option<String>, ConfigError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            Some(other) => Err(ConfigError::invalid(key, format!("{other} is not a string"))),
        }
    }

    /// A whole number in a range, or the text of one.
    ///
    /// # Errors
    /// When it is something else.
    pub fn integer(&mut self, key: &'static str, range: RangeInclusive<u32>) -> Result<Option<u32>, ConfigError> {
        let Some(number) = self.number(key)? else { return Ok(None) };
        let fits = number.fract() == 0.0 && number >= f64::from(*range.start()) && number <= f64::from(*range.end());
        if !fits {
            let (low, high) = range.into_inner();
            return Err(ConfigError::invalid(key, format!("{number} is not a whole number from {low} to {high}")));
        }
        // Whole and in the range of a u32, as was just checked.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        Ok(Some(number as u32))
    }

    /// A number, or the text of one.
    ///
    /// # Errors
    /// When it is something else.
    pub fn number(&mut self, key: &'static str) -> Result<Option<f64>, ConfigError> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let number = match &value {
            Value::Number(number) => number.as_f64(),
            Value::String(text) if text.trim().is_empty() => return Ok(None),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        match number.filter(|number| number.is_finite()) {
            Some(number) => Ok(Some(number)),
            None => Err(ConfigError::invalid(key, format!("{value} is not a number"))),
        }
    }

    /// A boolean, or the text of one.
    ///
    /// # Errors
    /// When it is something else.
    pub fn boolean(&mut self, key: &'static str) -> Result<Option<bool>, ConfigError> {
        let Some(value) = self.take(key) else { return Ok(None) };
        match &value {
            Value::Bool(value) => Ok(Some(*value)),
            Value::String(text) if text.is_empty() => Ok(None),
            Value::String(text) if text.eq_ignore_ascii_case("true") => Ok(Some(true)),
            Value::String(text) if text.eq_ignore_ascii_case("false") => Ok(Some(false)),
            _ => Err(ConfigError::invalid(key, format!("{value} is neither true nor false"))),
        }
    }

    /// One of a few words, in any case.
    ///
    /// # Errors
    /// When it is something else.
    pub fn word<T: Copy>(&mut self, key: &'static str, words: &[(&'static str, T)]) -> Result<Option<T>, ConfigError> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        match words.iter().find(|(word, _)| word.eq_ignore_ascii_case(&text)) {
            Some((_, meaning)) => Ok(Some(*meaning)),
            None => {
                let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
                Err(ConfigError::invalid(key, format!("`{text}` is none of {}", known.join(", "))))
            }
        }
    }

    /// The keys of an object inside of this one.
    ///
    /// # Errors
    /// When it is something else.
    pub fn object(&mut self, key: &'static str) -> Result<Option<Self>, ConfigError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Object(object)) => Self::new(object).map(Some),
            Some(other) => Err(ConfigError::invalid(key, format!("{other} is not an object"))),
        }
    }

    /// The objects of a list.
    ///
    /// # Errors
    /// When it is something else.
    pub fn objects(&mut self, key: &'static str) -> Result<Vec<Self>, ConfigError> {
        let list = match self.take(key) {
            None => return Ok(Vec::new()),
            Some(Value::Array(list)) => list,
            Some(other) => return Err(ConfigError::invalid(key, format!("{other} is not a list"))),
        };
        let keys = |value| match value {
            Value::Object(object) => Self::new(object),
            other => Err(ConfigError::invalid(key, format!("{other} is not an object"))),
        };
        list.into_iter().map(keys).collect()
    }

    /// Puts the keys of an inner object beside the own ones, as if they had been written there.
    ///
    /// # Errors
    /// When it is no object, or a key is there twice.
    pub fn absorb(&mut self, key: &'static str) -> Result<(), ConfigError> {
        let Some(inner) = self.object(key)? else { return Ok(()) };
        for (name, (written, value)) in inner.left {
            if let Some((own, _)) = self.left.insert(name, (written, value)) {
                return Err(ConfigError::invalid(own, format!("is there twice, also inside of `{key}`; keep one")));
            }
        }
        Ok(())
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// When a key is left that nothing has asked for.
    pub fn finish(self) -> Result<(), ConfigError> {
        match self.left.into_values().next() {
            None => Ok(()),
            Some((key, _)) => Err(ConfigError::Unknown { key, known: self.known.join(", ") }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(json: &str) -> Keys {
        Keys::new(serde_json::from_str(json).unwrap()).unwrap()
    }

    #[test]
    fn keys_match_in_any_case_and_values_may_be_strings() {
        let mut keys = keys(r#"{"SlaveID": "7", "PORT": 502, "isswap": "True", "scale": "0.1", "ip": "", "x": null}"#);
        assert_eq!(keys.integer("slaveID", 0..=255).unwrap(), Some(7));
        assert_eq!(keys.text("port").unwrap().as_deref(), Some("502"));
        assert_eq!(keys.boolean("isSwap").unwrap(), Some(true));
        assert_eq!(keys.number("scale").unwrap(), Some(0.1));
        assert_eq!(keys.text("ip").unwrap(), None);
        keys.ignore("x");
        keys.finish().unwrap();
    }

    #[test]
    fn mistakes_are_named_with_what_would_be_right() {
        let unknown = keys(r#"{"baudrat": 1}"#);
        let mut unknown = unknown;
        unknown.ignore("baudRate");
        unknown.ignore("port");
        assert_eq!(unknown.finish().unwrap_err().to_string(), "unknown key `baudrat`; known here: baudRate, port");
        let range = keys(r#"{"port": 70000}"#).integer("port", 1..=65535).unwrap_err();
        assert_eq!(range.to_string(), "`port`: 70000 is not a whole number from 1 to 65535");
        assert!(keys(r#"{"port": 1.5}"#).integer("port", 1..=2).is_err());
        assert!(keys(r#"{"port": -1}"#).integer("port", 0..=2).is_err());
        assert!(keys(r#"{"port": true}"#).integer("port", 0..=2).is_err());
        let word = keys(r#"{"parity": "evn"}"#).word("parity", &[("none", 0), ("even", 1)]).unwrap_err();
        assert_eq!(word.to_string(), "`parity`: `evn` is none of none, even");
        let twice = Keys::new(serde_json::from_str(r#"{"ip": "a", "IP": "b"}"#).unwrap()).unwrap_err();
        assert!(twice.to_string().contains("twice"), "{twice}");
        let mut inner = keys(r#"{"tcp": {"ip": "a"}, "ip": "b"}"#);
        assert!(inner.absorb("tcp").unwrap_err().to_string().contains("inside of `tcp`"));
    }
}
