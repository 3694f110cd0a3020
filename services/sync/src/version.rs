//! Which version of the protocol two ends speak.
//!
//! Every stream begins with Hello (what the caller speaks) and Welcome (what the answerer chose): the newest
//! version that both know. Where there is none the stream is refused with one line that says which end is
//! older, and so has to be upgraded. Called by everybody who opens or answers a stream of
//! `skerry.sync.v1`; each hop agrees for itself.
//!
//! What within one version may be newer than its receiver: a field or a message that it does not know is
//! ignored, a kind that it does not know is closed or rejected by name, an encoding that it does not know is
//! refused. So only what must not be ignored needs a new version. Bodies are relayed as bytes, so what a
//! middle hop does not know of an object stays in it.

use skerry_proto::sync::v1 as proto;
use thiserror::Error;

/// The versions that this build speaks, newest first.
pub const PROTOCOLS: &[u32] = &[1];

/// Versions of a Hello that are looked at; the protocol allows no more.
const MAX_OFFERED: usize = 8;

/// Characters of the other end's name that are repeated.
const MAX_AGENT: usize = 64;

/// The ends have no version in common.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{peer} speaks protocol {theirs}, {own} speaks {ours}: upgrade {older}")]
pub struct VersionError {
    peer: String,
    theirs: String,
    own: String,
    ours: String,
    older: String,
}

/// The Hello that opens a stream. `node` and `session` are empty and zero on a stream of many nodes.
#[must_use]
pub fn hello(agent: &str, node: &str, session: u64) -> proto::Hello {
    proto::Hello { protocols: PROTOCOLS.to_vec(), node: node.to_owned(), session, agent: agent.to_owned() }
}

/// The Welcome that answers a Hello.
///
/// # Errors
/// [`VersionError`] when no version is common to both.
pub fn welcome(agent: &str, hello: &proto::Hello) -> Result<proto::Welcome, VersionError> {
    let offered = hello.protocols.get(..MAX_OFFERED).unwrap_or(&hello.protocols);
    match agree(PROTOCOLS, offered) {
        Some(protocol) => Ok(proto::Welcome { protocol, agent: agent.to_owned() }),
        None => Err(disagree(agent, PROTOCOLS, &hello.agent, offered)),
    }
}

/// Checks the Welcome that answered our Hello; returns the version to speak.
///
/// # Errors
/// [`VersionError`] when the other end chose a version that was not offered.
pub fn welcomed(agent: &str, welcome: &proto::Welcome) -> Result<u32, VersionError> {
    let chosen = [welcome.protocol];
    agree(PROTOCOLS, &chosen).ok_or_else(|| disagree(agent, PROTOCOLS, &welcome.agent, &chosen))
}

fn agree(ours: &[u32], theirs: &[u32]) -> Option<u32> {
    ours.iter().filter(|version| theirs.contains(version)).max().copied()
}

fn disagree(own: &str, ours: &[u32], peer: &str, theirs: &[u32]) -> VersionError {
    let list = |versions: &[u32]| match versions {
        [] => "nothing".to_owned(),
        all => all.iter().map(u32::to_string).collect::<Vec<_>>().join(", "),
    };
    // From the network: nothing that moves a terminal's cursor.
    let mut peer: String = peer.chars().take(MAX_AGENT).filter(|c| c.is_ascii_graphic()).collect();
    if peer.is_empty() {
        peer = "the other end".to_owned();
    }
    let older = if theirs.iter().max() < ours.iter().max() { &*peer } else { own };
    let older = older.split('/').next().unwrap_or(older).to_owned();
    VersionError { theirs: list(theirs), own: own.to_owned(), ours: list(ours), older, peer }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_version_is_spoken() {
        for (ours, theirs, agreed) in [
            (&[1][..], &[1][..], Some(1)),
            (&[2, 1], &[1], Some(1)),
            (&[1], &[2, 1], Some(1)),
            (&[3, 2], &[2, 3, 4], Some(3)),
            (&[2], &[1], None),
            (&[1], &[], None),
        ] {
            assert_eq!(agree(ours, theirs), agreed, "{ours:?} {theirs:?}");
        }
    }

    #[test]
    fn the_line_says_which_end_is_older() {
        let line = |ours: &[u32], peer: &str, theirs: &[u32]| disagree("hub/2", ours, peer, theirs).to_string();
        assert_eq!(line(&[2], "edge/1", &[1]), "edge/1 speaks protocol 1, hub/2 speaks 2: upgrade edge");
        assert_eq!(line(&[2, 1], "edge/9", &[4, 3]), "edge/9 speaks protocol 4, 3, hub/2 speaks 2, 1: upgrade hub");
        assert_eq!(line(&[1], "", &[]), "the other end speaks protocol nothing, hub/2 speaks 1: upgrade the other end");
        assert!(!line(&[1], "a\u{1b}[2J\n", &[9]).contains(['\u{1b}', '\n']));
    }

    #[test]
    fn hello_and_welcome() {
        let answer = welcome("hub/1", &hello("edge/1", "n", 7)).unwrap();
        assert_eq!(welcomed("edge/1", &answer), Ok(PROTOCOLS[0]));
        // Of a list that is too long the rest is not looked at.
        let long = proto::Hello { protocols: (100..1000).chain([1]).collect(), ..proto::Hello::default() };
        assert!(welcome("hub/1", &long).is_err());
        assert!(welcomed("edge/1", &proto::Welcome { protocol: 2, ..proto::Welcome::default() }).is_err());
    }
}
