//! The end of a stream, said in the stream: libp2p cannot reset one, so that on QUIC a stream that was dropped ends like
//! one that was finished, and a transfer that was cut would look complete.
//!
//! Bytes travel in frames: two bytes of length, then as many bytes. A frame of length zero is the end that was meant;
//! any other end is an error for the reader. Costs one copy on the way out and two bytes in 32 KiB. One frame waits in
//! memory at most, and none when the stream below takes it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most bytes in a frame: what applications write at once, and little against what a path holds.
const MAX_FRAME: usize = 32 * 1024;

/// Bytes of a length.
const LENGTH: usize = 2;

/// What is read next.
#[derive(Debug, Clone, Copy)]
enum Reading {
    /// A length, of which so many bytes are known.
    Length { known: usize, bytes: [u8; LENGTH] },
    /// So many bytes of a frame.
    Body(usize),
    /// Nothing: the end was read.
    Ended,
}

const NEXT: Reading = Reading::Length { known: 0, bytes: [0; LENGTH] };

/// A stream whose end is part of what it carries.
#[derive(Debug)]
pub(super) struct Framed<S> {
    inner: S,
    reading: Reading,
    out: BytesMut,
    /// A writer waits until the stream below takes more, and is to be woken by it, nobody else.
    writer_waits: bool,
    finished: bool,
}

impl<S> Framed<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner, reading: NEXT, out: BytesMut::new(), writer_waits: false, finished: false }
    }
}

impl<S: AsyncWrite + Unpin> Framed<S> {
    /// Passes on what waits, for somebody who writes.
    fn drain_to_write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let drained = self.drain(context);
        self.writer_waits = drained.is_pending();
        drained
    }

    /// Passes on what waits.
    fn drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let count = ready!(Pin::new(&mut self.inner).poll_write(context, &self.out))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(count);
        }
        // An idle stream keeps no memory.
        self.out = BytesMut::new();
        Poll::Ready(Ok(()))
    }
}

/// Reads at least one byte into `space`, which is not empty.
fn read_some<S: AsyncRead + Unpin>(
    inner: &mut S,
    context: &mut Context<'_>,
    space: &mut [u8],
) -> Poll<io::Result<usize>> {
    let mut part = ReadBuf::new(space);
    ready!(Pin::new(inner).poll_read(context, &mut part))?;
    match part.filled().len() {
        0 => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        count => Poll::Ready(Ok(count)),
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Framed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.writer_waits {
            // Who only reads now may have written before. What goes wrong is the next writer's to see.
            let _ = this.drain(context);
        }
        loop {
            match &mut this.reading {
                Reading::Ended => return Poll::Ready(Ok(())),
                Reading::Length { known, bytes } => {
                    let (_, missing) = bytes.split_at_mut(*known);
                    *known += ready!(read_some(&mut this.inner, context, missing))?;
                    if *known == LENGTH {
                        this.reading = match usize::from(u16::from_be_bytes(*bytes)) {
                            0 => Reading::Ended,
                            length => Reading::Body(length),
                        };
                    }
                }
                Reading::Body(left) => {
                    let wanted = buffer.remaining().min(*left);
                    if wanted > 0 {
                        let space = buffer.initialize_unfilled_to(wanted);
                        let count = ready!(read_some(&mut this.inner, context, space))?;
                        buffer.advance(count);
                        *left -= count;
                        if *left == 0 {
                            this.reading = NEXT;
                        }
                    }
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Framed<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if self.finished {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        ready!(self.drain_to_write(context))?;
        let (frame, _) = data.split_at(data.len().min(MAX_FRAME));
        let length = u16::try_from(frame.len()).unwrap_or(0);
        if length > 0 {
            self.out.reserve(LENGTH + frame.len());
            self.out.put_u16(length);
            self.out.put_slice(frame);
            if let Poll::Ready(Err(error)) = self.drain(context) {
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(Ok(frame.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.drain_to_write(context))?;
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.finished {
            self.finished = true;
            self.out.put_u16(0);
        }
        ready!(self.as_mut().poll_flush(context))?;
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    proptest! {
        #[test]
        fn bytes_and_the_end_arrive(
            writes in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3_000), 0..30),
            pipe in 1_usize..5_000,
            piece in 1_usize..2_000,
        ) {
            let (ours, theirs) = duplex(pipe);
            let (mut writer, mut reader) = (Framed::new(ours), Framed::new(theirs));
            let writing = async {
                for data in &writes {
                    writer.write_all(data).await.unwrap();
                }
                writer.shutdown().await.unwrap();
                writer
            };
            let reading = async {
                let (mut all, mut space) = (Vec::new(), vec![0; piece]);
                loop {
                    let count = reader.read(&mut space).await.unwrap();
                    all.extend_from_slice(&space[..count]);
                    if count == 0 {
                        return all;
                    }
                }
            };
            let (_writer, all) = run(async { tokio::join!(writing, reading) });
            prop_assert_eq!(all, writes.concat());
        }

        /// Wherever a stream is cut, the reader gets what came before and then an error, never an end.
        #[test]
        fn a_cut_is_no_end(length in 1_usize..200, cut in any::<prop::sample::Index>()) {
            let data = vec![7; length];
            let whole = run(async {
                let (ours, mut theirs) = duplex(1_000);
                let mut writer = Framed::new(ours);
                writer.write_all(&data).await.unwrap();
                writer.shutdown().await.unwrap();
                drop(writer);
                let mut whole = Vec::new();
                theirs.read_to_end(&mut whole).await.unwrap();
                whole
            });
            let cut = cut.index(whole.len());
            let (result, got) = run(async {
                let (mut ours, theirs) = duplex(1_000);
                ours.write_all(&whole[..cut]).await.unwrap();
                drop(ours);
                let mut got = Vec::new();
                (Framed::new(theirs).read_to_end(&mut got).await, got)
            });
            prop_assert_eq!(result.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
            prop_assert!(data.starts_with(&got));
        }
    }

    #[test]
    fn nothing_is_written_after_the_end_and_much_is_written_in_parts() {
        run(async {
            let (ours, _theirs) = duplex(100_000);
            let mut writer = Framed::new(ours);
            assert_eq!(writer.write(&[0; MAX_FRAME + 1]).await.unwrap(), MAX_FRAME);
            assert_eq!(writer.write(&[]).await.unwrap(), 0);
            writer.shutdown().await.unwrap();
            assert_eq!(writer.write(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        });
    }

    #[test]
    fn what_waits_goes_out_while_somebody_reads() {
        run(async {
            let (ours, theirs) = duplex(10);
            let (mut a, mut b) = (Framed::new(ours), Framed::new(theirs));
            // More than the pipe holds, and no flush.
            assert_eq!(a.write(&[7; 50]).await.unwrap(), 50);
            let mut question = [0; 50];
            let answering = async {
                b.read_exact(&mut question).await.unwrap();
                b.write_all(b"answer").await.unwrap();
                b.flush().await.unwrap();
            };
            let mut answer = [0; 6];
            let (asked, ()) = tokio::join!(a.read_exact(&mut answer), answering);
            asked.unwrap();
            assert_eq!(&answer, b"answer");
        });
    }
}
