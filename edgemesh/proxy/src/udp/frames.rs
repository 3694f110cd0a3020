//! Datagrams on a stream: two bytes of length, then so many bytes, so that boundaries are kept and a datagram of
//! no bytes is one too.
//!
//! Reading holds what is missing of one datagram, so at most 64 KiB and mostly a packet; nothing is lost when a
//! read is cancelled. A stream that ends within a datagram was broken off.

use std::io;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Bytes of a length.
const PREFIX: usize = 2;
/// What is read ahead: a packet of an ordinary network and its length.
const AHEAD: usize = 2 * 1024;

/// Datagrams of a reader.
#[derive(Debug)]
pub(crate) struct Frames<R> {
    reader: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { reader, buffer: BytesMut::new() }
    }

    /// The next datagram. `None` at the end.
    ///
    /// # Errors
    /// When the reader fails, or ends within a datagram.
    pub(crate) async fn next(&mut self) -> io::Result<Option<BytesMut>> {
        loop {
            let length = self.buffer.first_chunk::<PREFIX>().map(|length| usize::from(u16::from_be_bytes(*length)));
            let missing = match length {
                Some(length) if self.buffer.len() >= PREFIX + length => {
                    self.buffer.advance(PREFIX);
                    return Ok(Some(self.buffer.split_to(length)));
                }
                Some(length) => PREFIX + length - self.buffer.len(),
                None => PREFIX,
            };
            self.buffer.reserve(missing.max(AHEAD));
            if self.reader.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }
}

/// Appends a datagram. One that is too long for a frame, which UDP cannot have, is left out.
pub(crate) fn put(frames: &mut Vec<u8>, datagram: &[u8]) {
    if let Ok(length) = u16::try_from(datagram.len()) {
        frames.extend_from_slice(&length.to_be_bytes());
        frames.extend_from_slice(datagram);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt as _;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// However the stream is cut into pieces.
        #[test]
        fn boundaries_are_kept(
            datagrams in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..5000), 0..20),
            piece in 1usize..3000,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let mut bytes = Vec::new();
                datagrams.iter().for_each(|datagram| put(&mut bytes, datagram));
                let (mut writer, reader) = tokio::io::duplex(piece);
                let write = async {
                    writer.write_all(&bytes).await.unwrap();
                    drop(writer);
                };
                let read = async {
                    let (mut frames, mut got) = (Frames::new(reader), Vec::new());
                    while let Some(datagram) = frames.next().await.unwrap() {
                        got.push(datagram.to_vec());
                    }
                    got
                };
                let ((), got) = tokio::join!(write, read);
                assert_eq!(got, datagrams);
            });
        }
    }

    #[tokio::test]
    async fn the_longest_is_kept_and_a_part_is_an_error() {
        let mut bytes = Vec::new();
        put(&mut bytes, &vec![7; 65_535]);
        put(&mut bytes, &vec![7; 65_536]);
        bytes.extend([0, 3, 1]);
        let mut frames = Frames::new(&bytes[..]);
        assert_eq!(frames.next().await.unwrap().unwrap().len(), 65_535);
        assert_eq!(frames.next().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
