//! The codec of all generated clients and servers.
//!
//! prost messages as everywhere in gRPC, but with small buffers: tonic's default keeps 8 KiB in each
//! direction of every stream, which is most of what an idle node session would cost. A larger
//! message makes its buffer grow for as long as that message lives. A message with more elements than its type may
//! have is refused before it is read ([`crate::bounds`]).

use std::marker::PhantomData;

use bytes::Buf as _;
use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

use crate::bounds::{self, Bound};

/// Bytes that a stream's buffer starts with. A status report or an acknowledgement fits.
const BUFFER_BYTES: usize = 256;

/// Encoded bytes after which the encoder hands over to HTTP/2 rather than collect more messages.
const YIELD_BYTES: usize = 4096;

/// See the module documentation.
#[derive(Debug, Clone)]
pub struct SmallCodec<T, U> {
    messages: PhantomData<(T, U)>,
}

impl<T, U> Default for SmallCodec<T, U> {
    fn default() -> Self {
        Self { messages: PhantomData }
    }
}

impl<T, U> Codec for SmallCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(BUFFER_BYTES, YIELD_BYTES))
    }

    fn decoder(&mut self) -> Self::Decoder {
        let prost = ProstCodec::<T, U>::raw_decoder(BufferSettings::new(BUFFER_BYTES, YIELD_BYTES));
        BoundedDecoder { prost, bounds: bounds::of::<U>() }
    }
}

/// See the module documentation.
#[derive(Debug, Clone)]
pub struct BoundedDecoder<U> {
    prost: ProstDecoder<U>,
    bounds: &'static [Bound],
}

impl<U: Message + Default> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        if !self.bounds.is_empty() {
            // It is there as a whole: tonic waits for that.
            if message.chunk().len() != message.remaining() {
                return Err(Status::internal("the message is in parts"));
            }
            bounds::check(message.chunk(), self.bounds)?;
        }
        self.prost.decode(message)
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.prost.buffer_settings()
    }
}
