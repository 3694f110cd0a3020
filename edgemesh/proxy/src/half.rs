//! One direction of a connection: bytes from a reader to a writer, as they are, or in the tunnel's frames.
//!
//! [`crate::duplex`] polls two of these over the same two connections, so nothing is split or locked. A frame is
//! two bytes of length, then so many bytes; a frame of length 0 says that the sender has finished. A stream of
//! the tunnel that ends without it was broken off: over some transports the two would look the same, and what
//! was cut would look whole.
//!
//! Invariants: every byte that was read is written once, in order, before the end is passed on; a buffer is held
//! only while bytes are in it. Limits: one buffer; [`TURNS`] reads before others have their turn.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::pool::{Buffer, Pool, SMALL};

/// Bytes of a frame's length. Each buffer begins with so many, also where there are no frames.
pub(crate) const PREFIX: usize = 2;
/// Reads of one poll, so that a fast stream does not keep its thread from others.
const TURNS: usize = 16;

/// What becomes of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    /// Between two connections: nothing.
    Raw,
    /// Into the tunnel: they are put into frames.
    Encode,
    /// Out of the tunnel: they are taken out of frames.
    Decode,
}

/// Which end of the direction failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The one that is read from: it is gone.
    Read,
    /// The one that is written to: it takes no more, and may still have something to say.
    Write,
}

#[derive(Debug, Clone, Copy)]
enum Frame {
    /// Before the first byte of a length.
    Start,
    /// Between the bytes of a length.
    Length(u8),
    /// So many bytes of a frame are missing.
    Body(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The reader has ended; what is left is written, then the writer is shut down.
    Closing,
    Done,
}

/// One direction.
#[derive(Debug)]
pub(crate) struct Half {
    coding: Coding,
    buffer: Option<Buffer>,
    /// What is not written yet is `buffer[at..end]`.
    at: usize,
    end: usize,
    frame: Frame,
    state: State,
    unflushed: bool,
    large: bool,
    bytes: u64,
}

impl Half {
    pub(crate) fn new(coding: Coding) -> Self {
        Self {
            coding,
            buffer: None,
            at: 0,
            end: 0,
            frame: Frame::Start,
            state: State::Open,
            unflushed: false,
            large: false,
            bytes: 0,
        }
    }

    /// One that has read something already: `read` bytes of the buffer after its prefix.
    pub(crate) fn begun(coding: Coding, buffer: Buffer, read: usize) -> Self {
        let mut half = Self::new(coding);
        if read > 0 {
            half.buffer = Some(buffer);
            half.fill(read);
        }
        half
    }

    /// Bytes of the user that went this way.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Goes on until it must wait. Ready when the end was passed on, and at a fault, after which it is not to be
    /// polled again.
    pub(crate) fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        pool: &Pool,
        from: &mut R,
        to: &mut W,
    ) -> Poll<Result<(), Fault>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        for _ in 0..TURNS {
            if self.state == State::Done {
                return Poll::Ready(Ok(()));
            }
            if self.at < self.end {
                ready!(self.write(cx, to))?;
            }
            if self.state == State::Closing {
                self.buffer = None;
                ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(|_| Fault::Write)?;
                self.state = State::Done;
                return Poll::Ready(Ok(()));
            }
            match self.read(cx, pool, from) {
                Poll::Ready(read) => read.map_err(|_| Fault::Read)?,
                Poll::Pending => {
                    self.buffer = None;
                    if self.unflushed {
                        match Pin::new(&mut *to).poll_flush(cx) {
                            Poll::Ready(flushed) => flushed.map_err(|_| Fault::Write)?,
                            Poll::Pending => return Poll::Pending,
                        }
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn read<R: AsyncRead + Unpin>(&mut self, cx: &mut Context<'_>, pool: &Pool, from: &mut R) -> Poll<io::Result<()>> {
        // A buffer of the other size is given back.
        if self.buffer.as_ref().is_some_and(|buffer| (buffer.len() > SMALL) != self.large) {
            self.buffer = None;
        }
        let buffer = self.buffer.get_or_insert_with(|| pool.take(self.large));
        let mut space = ReadBuf::new(buffer.get_mut(PREFIX..).unwrap_or_default());
        ready!(Pin::new(from).poll_read(cx, &mut space))?;
        let read = space.filled().len();
        self.large = read >= SMALL - PREFIX;
        if read > 0 {
            self.fill(read);
            return Poll::Ready(Ok(()));
        }
        match self.coding {
            Coding::Raw => {}
            Coding::Encode => self.put(0, 0),
            Coding::Decode => {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
        }
        self.state = State::Closing;
        Poll::Ready(Ok(()))
    }

    /// So many bytes are in the buffer, after its prefix.
    fn fill(&mut self, read: usize) {
        match self.coding {
            Coding::Encode => self.put(read, read),
            Coding::Raw | Coding::Decode => (self.at, self.end) = (PREFIX, PREFIX + read),
        }
        if self.coding != Coding::Decode {
            self.bytes += read as u64;
        }
    }

    /// Makes a frame of the buffer.
    fn put(&mut self, length: usize, read: usize) {
        // A buffer is shorter than the longest frame.
        let length = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
        if let Some(prefix) = self.buffer.as_mut().and_then(|buffer| buffer.get_mut(..PREFIX)) {
            prefix.copy_from_slice(&length);
        }
        (self.at, self.end) = (0, PREFIX + read);
    }

    /// Writes what is in the buffer.
    fn write<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, to: &mut W) -> Poll<Result<(), Fault>> {
        while self.at < self.end {
            let most = match (self.coding, self.frame) {
                (Coding::Decode, Frame::Body(missing)) => missing.min(self.end - self.at),
                (Coding::Decode, _) => {
                    self.length()?;
                    continue;
                }
                _ => self.end - self.at,
            };
            let chunk = self.buffer.as_deref().and_then(|buffer| buffer.get(self.at..self.at + most));
            let wrote =
                ready!(Pin::new(&mut *to).poll_write(cx, chunk.unwrap_or_default())).map_err(|_| Fault::Write)?;
            if wrote == 0 {
                return Poll::Ready(Err(Fault::Write));
            }
            self.at += wrote;
            self.unflushed = true;
            if let (Coding::Decode, Frame::Body(missing)) = (self.coding, self.frame) {
                self.bytes += wrote as u64;
                self.frame = if missing > wrote { Frame::Body(missing - wrote) } else { Frame::Start };
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes a byte of a frame's length.
    fn length(&mut self) -> Result<(), Fault> {
        let byte = self.buffer.as_deref().and_then(|buffer| buffer.get(self.at)).copied().unwrap_or_default();
        self.at += 1;
        self.frame = match self.frame {
            Frame::Length(high) => match u16::from_be_bytes([high, byte]) {
                0 => {
                    if self.at < self.end {
                        // Bytes after the end.
                        return Err(Fault::Read);
                    }
                    self.state = State::Closing;
                    Frame::Start
                }
                length => Frame::Body(length.into()),
            },
            _ => Frame::Length(byte),
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Into the tunnel and out of it, whatever the pieces: the bytes, and then the end.
        #[test]
        fn bytes_come_out_of_the_tunnel_as_they_went_in(
            length in 0usize..40_000,
            (from, tunnel, to) in (1usize..20_000, 1usize..20_000, 1usize..20_000),
            begun in 0usize..100,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let bytes: Vec<u8> = (0..length).map(|n| (n * 31) as u8).collect();
                let pool = Pool::default();
                let (mut client, mut near) = duplex(from);
                let (mut enters, mut leaves) = duplex(tunnel);
                let (mut far, mut backend) = duplex(to);
                let begun = begun.min(length);
                let mut buffer = pool.take(false);
                buffer[PREFIX..PREFIX + begun].copy_from_slice(&bytes[..begun]);
                let mut encode = Half::begun(Coding::Encode, buffer, begun);
                let mut decode = Half::new(Coding::Decode);
                let mut got = Vec::new();
                let write = async {
                    client.write_all(&bytes[begun..]).await.unwrap();
                    client.shutdown().await.unwrap();
                };
                let (_, up, down, read) = tokio::join!(
                    write,
                    poll_fn(|cx| encode.poll(cx, &pool, &mut near, &mut enters)),
                    poll_fn(|cx| decode.poll(cx, &pool, &mut leaves, &mut far)),
                    backend.read_to_end(&mut got),
                );
                assert_eq!((up, down, read.unwrap()), (Ok(()), Ok(()), length));
                assert!(got == bytes);
                assert_eq!((encode.bytes(), decode.bytes()), (length as u64, length as u64));
            });
        }

        /// No bytes from another node make anything but an end or a fault.
        #[test]
        fn any_bytes_are_taken_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let pool = Pool::default();
                let mut decode = Half::new(Coding::Decode);
                let (mut from, mut to) = (&bytes[..], Vec::new());
                let _ = poll_fn(|cx| decode.poll(cx, &pool, &mut from, &mut to)).await;
                assert!(to.len() <= bytes.len());
            });
        }
    }

    /// A direction that waits holds no buffer, and one that is busy has a large one only while it is.
    #[tokio::test]
    async fn a_silent_direction_has_no_buffer() {
        let pool = Pool::default();
        let (mut client, mut near) = duplex(1 << 20);
        let (mut far, mut backend) = duplex(1 << 20);
        let mut half = Half::new(Coding::Raw);
        client.write_all(&vec![1; 500_000]).await.unwrap();
        poll_fn(|cx| {
            assert!(half.poll(cx, &pool, &mut near, &mut far).is_pending());
            Poll::Ready(())
        })
        .await;
        assert!(half.buffer.is_none());
        backend.read_exact(&mut vec![0; 500_000]).await.unwrap();
    }
}
