//! Exit codes of every Skerry program.

/// All is well.
pub const OK: u8 = 0;
/// The work failed; the message says why.
pub const FAILED: u8 = 1;
/// What was asked for is not there.
pub const NOT_FOUND: u8 = 2;
/// Refused: a join token that is wrong, expired, used up or revoked; a socket that is not for this user; a value
/// that a device does not take.
pub const REFUSED: u8 = 3;
/// The other side cannot be reached, or does not answer in time.
pub const UNREACHABLE: u8 = 4;
/// The command line or the configuration is wrong (EX_USAGE of sysexits.h).
pub const USAGE: u8 = 64;
