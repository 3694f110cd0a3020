//! The runtime's log format, `<time> <stream> <tag> <text>`, turned into what a client sees.
//!
//! Fed with the bytes of the file as they are read, in pieces of any size. A line that the container did
//! not end yet comes in parts with the tag `P`; they are joined. Lines that are not of this format are left
//! out. Limits: an unfinished line of [`MAX_LINE`]; a longer one is left out. Pure.

use bytes::{BufMut as _, BytesMut};
use jiff::Timestamp;

use super::options::{Options, Output};

/// Runtimes split at 16 KiB.
const MAX_LINE: usize = 256 * 1024;
/// Digits of a second's fraction in timestamps that clients see.
const FRACTION: usize = 9;

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Lines {
    since: Option<Timestamp>,
    timestamps: bool,
    output: Output,
    /// Bytes that may still be sent.
    left: u64,
    /// Lines of the file that may still be read.
    lines_left: Option<u64>,
    pending: Vec<u8>,
    /// The rest of a line that is too long.
    skipping: bool,
    /// The next byte that is sent begins a line.
    begins: bool,
}

impl Lines {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            since: options.since,
            timestamps: options.timestamps,
            output: options.output,
            left: options.limit.unwrap_or(u64::MAX),
            // Who follows wants also what comes after the last lines.
            lines_left: options.tail.filter(|_| !options.follow),
            pending: Vec::new(),
            skipping: false,
            begins: true,
        }
    }

    /// Nothing more will be sent, whatever comes.
    pub(super) fn is_done(&self) -> bool {
        self.left == 0 || self.lines_left == Some(0)
    }

    /// Takes bytes of the file.
    pub(super) fn feed(&mut self, mut bytes: &[u8], out: &mut BytesMut) {
        while let Some(at) = bytes.iter().position(|b| *b == b'\n') {
            let (line, rest) = bytes.split_at(at + 1);
            bytes = rest;
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            if self.pending.is_empty() {
                self.line(line, out);
            } else {
                let mut whole = std::mem::take(&mut self.pending);
                whole.extend_from_slice(line);
                self.line(&whole, out);
            }
            if self.is_done() {
                return;
            }
        }
        if self.skipping {
            return;
        }
        if self.pending.len() + bytes.len() > MAX_LINE {
            self.pending = Vec::new();
            self.skipping = true;
        } else {
            self.pending.extend_from_slice(bytes);
        }
    }

    /// The file has ended: what stands there without an end is a line too.
    pub(super) fn finish(&mut self, out: &mut BytesMut) {
        let rest = std::mem::take(&mut self.pending);
        if !rest.is_empty() && !self.is_done() {
            self.line(&rest, out);
        }
    }

    /// Another file goes on.
    pub(super) fn forget_pending(&mut self) {
        self.pending = Vec::new();
        self.skipping = false;
    }

    fn line(&mut self, line: &[u8], out: &mut BytesMut) {
        if let Some(left) = &mut self.lines_left {
            *left = left.saturating_sub(1);
        }
        let Some(Line { time, parsed, output, text }) = parse(line) else { return };
        if self.since.is_some_and(|since| parsed < since) || (self.output != Output::All && self.output != output) {
            return;
        }
        if self.timestamps && self.begins {
            self.send(stamp(time).as_bytes(), out);
            self.send(b" ", out);
        }
        self.send(text, out);
        self.begins = text.last().is_none_or(|b| *b == b'\n');
    }

    fn send(&mut self, bytes: &[u8], out: &mut BytesMut) {
        let fits = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        out.put_slice(bytes.get(..fits).unwrap_or_default());
        self.left = self.left.saturating_sub(fits as u64);
    }
}

struct Line<'a> {
    time: &'a str,
    parsed: Timestamp,
    output: Output,
    /// With its end, unless the container did not end it.
    text: &'a [u8],
}

fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut fields = line.splitn(4, |b| *b == b' ');
    let (time, stream, tags, text) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let time = std::str::from_utf8(time).ok()?;
    let output = match stream {
        b"stdout" => Output::Stdout,
        b"stderr" => Output::Stderr,
        _ => return None,
    };
    let partial = tags.split(|b| *b == b':').next() == Some(b"P");
    let text = if partial { text.strip_suffix(b"\n").unwrap_or(text) } else { text };
    Some(Line { time, parsed: time.parse().ok()?, output, text })
}

/// The time with a fraction of fixed width, so that lines can be sorted as text.
fn stamp(time: &str) -> String {
    let zone = time.rfind(['Z', '+']).or_else(|| time.rfind('-').filter(|at| *at > "2006-01-02".len()));
    let (clock, zone) = time.split_at_checked(zone.unwrap_or(time.len())).unwrap_or((time, ""));
    let (seconds, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    format!("{seconds}.{fraction:0<FRACTION$}{zone}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const LOG: &str = "2026-01-01T00:00:00.5Z stdout F one\n\
        2026-01-01T00:00:01.25+00:00 stderr P tw\n\
        2026-01-01T00:00:01.3Z stderr F o\n\
        nonsense\n\
        2026-01-01T00:00:02Z stdout F \n\
        2026-01-01T00:00:03.123456789Z stdout F:x last\n";

    fn run(options: Options, pieces: &[&str]) -> String {
        let mut lines = Lines::new(&options);
        let mut out = BytesMut::new();
        for piece in pieces {
            lines.feed(piece.as_bytes(), &mut out);
        }
        lines.finish(&mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn what_clients_see() {
        let all = Options::default();
        assert_eq!(run(all.clone(), &[LOG]), "one\ntwo\n\nlast\n");
        let stamped = run(Options { timestamps: true, ..all.clone() }, &[LOG]);
        assert_eq!(
            stamped,
            "2026-01-01T00:00:00.500000000Z one\n2026-01-01T00:00:01.250000000+00:00 two\n\
             2026-01-01T00:00:02.000000000Z \n2026-01-01T00:00:03.123456789Z last\n"
        );
        let since = Some("2026-01-01T00:00:02Z".parse().unwrap());
        assert_eq!(run(Options { since, ..all.clone() }, &[LOG]), "\nlast\n");
        assert_eq!(run(Options { output: Output::Stderr, ..all.clone() }, &[LOG]), "two\n");
        assert_eq!(run(Options { limit: Some(5), ..all.clone() }, &[LOG]), "one\nt");
        assert_eq!(run(Options { tail: Some(2), ..all.clone() }, &[LOG]), "one\ntw");
        assert_eq!(run(Options { tail: Some(2), follow: true, ..all }, &[LOG]), "one\ntwo\n\nlast\n");
    }

    #[test]
    fn an_unfinished_line_is_shown_at_the_end_and_a_huge_one_is_left_out() {
        assert_eq!(run(Options::default(), &["2026-01-01T00:00:00Z stdout F half"]), "half");
        let huge = format!("2026-01-01T00:00:00Z stdout F {}", "x".repeat(MAX_LINE));
        assert_eq!(run(Options::default(), &[&huge, "more\n", LOG]), "one\ntwo\n\nlast\n");
    }

    proptest! {
        #[test]
        fn pieces_of_any_size_give_the_same(cuts in proptest::collection::vec(0..LOG.len(), 0..8)) {
            let mut cuts = cuts;
            cuts.extend([0, LOG.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&str> = cuts.windows(2).filter_map(|w| LOG.get(w[0]..w[1])).collect();
            prop_assert_eq!(run(Options::default(), &pieces), "one\ntwo\n\nlast\n");
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut lines = Lines::new(&Options { timestamps: true, ..Options::default() });
            let mut out = BytesMut::new();
            lines.feed(&bytes, &mut out);
            lines.finish(&mut out);
        }
    }
}
