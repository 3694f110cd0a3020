//! Lines, read back by a reader that follows the reference of InfluxDB's line protocol.

use proptest::prelude::*;

use super::*;

/// Splits at a character that is neither escaped nor in quotes.
fn split(text: &str, at: char, quotes: bool) -> Vec<String> {
    let mut parts = vec![String::new()];
    let (mut escaped, mut quoted) = (false, false);
    for c in text.chars() {
        let part = parts.last_mut().unwrap();
        if c == at && !escaped && !quoted {
            parts.push(String::new());
            continue;
        }
        part.push(c);
        if quotes && c == '"' && !escaped {
            quoted = !quoted;
        }
        escaped = c == '\\' && !escaped;
    }
    parts
}

/// A backslash before one of these is none.
fn plain(text: &str, special: &[char]) -> String {
    let mut out = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match chars.peek() {
            Some(next) if c == '\\' && special.contains(next) => {}
            _ => out.push(c),
        }
        if c == '\\' && special.contains(&'\\') && out.ends_with('\\') {
            continue;
        }
    }
    out
}

#[test]
fn lines_are_as_the_reference_has_them() {
    let table = [
        (Typed::Int(-5), "v=-5i"),
        (Typed::Uint(u64::MAX), "v=18446744073709551615u"),
        (Typed::Float(3.0), "v=3"),
        (Typed::Float(0.1), "v=0.1"),
        (Typed::Bool(true), "v=true"),
        (Typed::Text("a \"b\" \\ c,d=e".into()), r#"v="a \"b\" \\ c,d=e""#),
    ];
    for (value, expected) in table {
        let mut line = String::new();
        measurement(&mut line, "my table,x");
        tag(&mut line, "a b", "c=d");
        field(&mut line, true, "v", &value);
        end(&mut line, 1_700_000_000_000);
        assert_eq!(line, format!("my\\ table\\,x,a\\ b=c\\=d {expected} 1700000000000\n"));
    }
}

proptest! {
    #[test]
    fn no_name_and_no_text_leaves_its_place(
        name in "[ -\\[\\]-~ü]{1,12}", key in "[ -\\[\\]-~]{1,8}", value in "[ -\\[\\]-~]{1,8}", text in "\\PC{0,20}",
    ) {
        let mut line = String::new();
        measurement(&mut line, &name);
        tag(&mut line, &key, &value);
        field(&mut line, true, &key, &Typed::Text(text.as_str().into()));
        end(&mut line, 7);
        let parts = split(line.trim_end_matches('\n'), ' ', true);
        // A quote in a name is only a quote; the reader above knows quotes in fields alone.
        prop_assume!(!name.contains('"') && !key.contains('"') && !value.contains('"'));
        prop_assert_eq!(parts.len(), 3, "{}", line);
        let head = split(&parts[0], ',', false);
        prop_assert_eq!(plain(&head[0], &[',', ' ']), name);
        let tag = split(&head[1], '=', false);
        prop_assert_eq!(plain(&tag[0], &[',', '=', ' ']), key.clone());
        prop_assert_eq!(plain(&tag[1], &[',', '=', ' ']), value);
        let field = split(&parts[1], '=', true);
        let quoted = field[1].strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap();
        let mut out = String::new();
        let mut chars = quoted.chars();
        while let Some(c) = chars.next() {
            out.push(if c == '\\' { chars.next().unwrap() } else { c });
        }
        prop_assert_eq!(out, text);
        prop_assert_eq!(parts[2].as_str(), "7");
    }
}
