//! What of a log is wanted: the query of `PodLogOptions`. Pure.

use http::StatusCode;
use jiff::{SignedDuration, Timestamp};

use super::super::find::Refusal;

/// Which output of the container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Output {
    #[default]
    All,
    Stdout,
    Stderr,
}

/// See the module documentation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) follow: bool,
    pub(super) previous: bool,
    pub(super) timestamps: bool,
    /// Lines before this time are left out.
    pub(super) since: Option<Timestamp>,
    /// Lines from the end to begin with.
    pub(super) tail: Option<u64>,
    /// Bytes after which it ends.
    pub(super) limit: Option<u64>,
    pub(super) output: Output,
}

impl Options {
    pub(super) fn parse(query: &str, now: Timestamp) -> Result<Self, Refusal> {
        let unreadable = || Refusal::new(StatusCode::BAD_REQUEST, "{\"message\": \"Unable to decode query.\"}");
        let invalid = || Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "{\"message\": \"Invalid request.\"}");
        let flag = |value: &str| !(value.eq_ignore_ascii_case("false") || value == "0");
        let mut options = Self::default();
        let (mut seconds, mut time) = (None, None);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let number = || value.parse::<i64>().map_err(|_| unreadable());
            match &*name {
                "follow" => options.follow = flag(&value),
                "previous" => options.previous = flag(&value),
                "timestamps" => options.timestamps = flag(&value),
                "sinceSeconds" => seconds = Some(number()?),
                "sinceTime" if !value.is_empty() => {
                    time = Some(value.parse::<Timestamp>().map_err(|_| unreadable())?);
                }
                "tailLines" | "tail" if value == "all" => options.tail = None,
                "tailLines" | "tail" => options.tail = Some(u64::try_from(number()?).map_err(|_| invalid())?),
                "limitBytes" => {
                    options.limit = Some(u64::try_from(number()?).ok().filter(|n| *n > 0).ok_or_else(invalid)?);
                }
                "stream" => {
                    options.output = match &*value {
                        "" | "All" => Output::All,
                        "Stdout" => Output::Stdout,
                        "Stderr" => Output::Stderr,
                        _ => return Err(invalid()),
                    }
                }
                _ => {}
            }
        }
        if seconds.is_some_and(|s| s < 1) || (seconds.is_some() && time.is_some()) {
            return Err(invalid());
        }
        // The last lines of a file are not the last lines of one output.
        if options.tail.is_some() && options.output != Output::All {
            return Err(invalid());
        }
        options.since = match seconds {
            Some(seconds) => Some(now.saturating_sub(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MIN)),
            None => time,
        };
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn queries() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let parse = |query: &str| Options::parse(query, now);
        assert_eq!(parse("").unwrap(), Options::default());
        let all = parse("follow=true&previous=1&timestamps=true&sinceSeconds=60&tailLines=0&limitBytes=5").unwrap();
        assert!(all.follow && all.previous && all.timestamps);
        assert_eq!((all.tail, all.limit), (Some(0), Some(5)));
        assert_eq!(all.since, Some("2026-01-01T00:00:00Z".parse().unwrap()));
        assert!(!parse("follow=false").unwrap().follow);
        assert_eq!(parse("sinceTime=2026-01-01T01:00:00%2B01:00").unwrap().since, all.since);
        assert_eq!(parse("stream=Stderr").unwrap().output, Output::Stderr);
        for (query, status) in [
            ("tailLines=x", 400),
            ("sinceTime=yesterday", 400),
            ("tailLines=-1", 422),
            ("limitBytes=0", 422),
            ("sinceSeconds=0", 422),
            ("sinceSeconds=5&sinceTime=2026-01-01T00:00:00Z", 422),
            ("stream=Both", 422),
            ("stream=Stdout&tailLines=3", 422),
        ] {
            assert_eq!(parse(query).unwrap_err().status.as_u16(), status, "{query}");
        }
    }
}
