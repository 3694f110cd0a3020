//! How a body is encoded on the wire and in the store.

/// Bodies longer than this are compressed; below it, zstd saves nothing worth its CPU.
pub const COMPRESS_ABOVE: usize = 1024;

/// Encoding of an object's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Encoding {
    /// JSON as it is.
    #[default]
    Identity,
    /// JSON compressed with zstd.
    Zstd,
}
