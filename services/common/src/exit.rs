//! Exit codes of every Skerry program.

/// All is well.
pub const OK: u8 = 0;
/// The work failed; the message says why.
pub const FAILED: u8 = 1;
/// What was asked for is not there.
pub const NOT_FOUND: u8 = 2;
/// A credential was refused: a join token that is wrong, expired, used up or revoked.
pub const REFUSED: u8 = 3;
/// The other side cannot be reached.
pub const UNREACHABLE: u8 = 4;
/// The command line or the configuration is wrong (EX_USAGE of sysexits.h).
pub const USAGE: u8 = 64;
