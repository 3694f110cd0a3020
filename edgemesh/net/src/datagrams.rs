//! Datagrams over a stream: each with its length before it, so that borders are kept.
//!
//! libp2p's QUIC has no datagrams, and circuits and TCP cannot have them, so a flow of UDP takes a stream of its own.
//! It is reliable and in order, which costs time on a lossy path and never a border. Memory is bounded by one datagram
//! each way; whoever sends faster than the path waits, and drops what its own limits say.

use std::io;

use tokio::io::{
    AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, BufWriter, ReadHalf, WriteHalf,
};

use crate::Stream;

/// Largest payload of a datagram in bytes: that of UDP over IPv4.
pub const MAX_DATAGRAM: usize = 65_507;

/// Both directions of a stream of datagrams.
#[must_use]
pub fn datagrams(stream: Stream) -> (DatagramSender<WriteHalf<Stream>>, DatagramReceiver<ReadHalf<Stream>>) {
    let (read, write) = tokio::io::split(stream);
    (DatagramSender::new(write), DatagramReceiver::new(read))
}

/// Sends datagrams.
#[derive(Debug)]
pub struct DatagramSender<W: AsyncWrite>(BufWriter<W>);

/// Receives datagrams.
#[derive(Debug)]
pub struct DatagramReceiver<R: AsyncRead>(BufReader<R>);

impl<W: AsyncWrite + Unpin> DatagramSender<W> {
    /// A sender on a stream, or on what is left of it after a header.
    pub fn new(stream: W) -> Self {
        Self(BufWriter::new(stream))
    }

    /// Sends one datagram, which may be empty. Not to be cancelled: half a datagram would break the stream.
    ///
    /// # Errors
    /// The stream's; of kind `InvalidInput` when it is longer than [`MAX_DATAGRAM`], which sends nothing.
    pub async fn send(&mut self, datagram: &[u8]) -> io::Result<()> {
        let length = u16::try_from(datagram.len()).ok().filter(|_| datagram.len() <= MAX_DATAGRAM);
        self.0.write_u16(length.ok_or(io::ErrorKind::InvalidInput)?).await?;
        self.0.write_all(datagram).await?;
        self.0.flush().await
    }

    /// Ends this direction.
    ///
    /// # Errors
    /// The stream's.
    pub async fn finish(&mut self) -> io::Result<()> {
        self.0.shutdown().await
    }
}

impl<R: AsyncRead + Unpin> DatagramReceiver<R> {
    /// A receiver on a stream, or on what is left of it after a header.
    pub fn new(stream: R) -> Self {
        Self(BufReader::new(stream))
    }

    /// Puts the next datagram into `buffer`, in place of what was there. Returns false when the sender has ended. Not to
    /// be cancelled, as [`DatagramSender::send`].
    ///
    /// # Errors
    /// The stream's; `UnexpectedEof` when it ends within a datagram, `InvalidData` for one that is too long.
    pub async fn receive(&mut self, buffer: &mut Vec<u8>) -> io::Result<bool> {
        if self.0.fill_buf().await?.is_empty() {
            return Ok(false);
        }
        let length = usize::from(self.0.read_u16().await?);
        if length > MAX_DATAGRAM {
            return Err(io::ErrorKind::InvalidData.into());
        }
        buffer.resize(length, 0);
        self.0.read_exact(buffer).await?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn carry(datagrams: &[Vec<u8>], pipe: usize) -> Vec<Vec<u8>> {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
            let (ours, theirs) = tokio::io::duplex(pipe);
            let sending = async {
                let mut sender = DatagramSender::new(ours);
                for datagram in datagrams {
                    sender.send(datagram).await.unwrap();
                }
                sender.finish().await.unwrap();
            };
            let receiving = async {
                let mut receiver = DatagramReceiver::new(theirs);
                let (mut all, mut buffer) = (Vec::new(), Vec::new());
                while receiver.receive(&mut buffer).await.unwrap() {
                    all.push(buffer.clone());
                }
                all
            };
            tokio::join!(sending, receiving).1
        })
    }

    proptest! {
        #[test]
        fn borders_are_kept(
            datagrams in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..2_000), 0..50),
            pipe in 1_usize..5_000,
        ) {
            prop_assert_eq!(carry(&datagrams, pipe), datagrams);
        }
    }

    #[test]
    fn the_largest_one_fits_and_a_larger_one_is_refused() {
        let largest = vec![7; MAX_DATAGRAM];
        assert!(carry(std::slice::from_ref(&largest), 1_000) == [largest]);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let kind = |result: io::Result<()>| result.unwrap_err().kind();
        runtime.block_on(async {
            let (ours, _theirs) = tokio::io::duplex(10);
            let sent = DatagramSender::new(ours).send(&vec![0; MAX_DATAGRAM + 1]).await;
            assert_eq!(kind(sent), io::ErrorKind::InvalidInput);
            let received = DatagramReceiver::new(&[0xFF, 0xFF, 0][..]).receive(&mut Vec::new()).await;
            assert_eq!(kind(received.map(drop)), io::ErrorKind::InvalidData);
            let received = DatagramReceiver::new(&[0, 2, 0][..]).receive(&mut Vec::new()).await;
            assert_eq!(kind(received.map(drop)), io::ErrorKind::UnexpectedEof);
        });
    }
}
