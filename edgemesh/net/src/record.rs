//! A node's record: which PeerId it has, where it is found, whether it relays, until when.
//!
//! The node publishes it through its own Node object; peers that do not know each other yet exchange theirs when they
//! connect. It is signed twice over the same bytes: with the node's certificate, which says who the node is, and with
//! the key of the PeerId, so that nobody can claim the PeerId of somebody else. Decoding and checking are pure and
//! bounded; nothing of a record is used before both signatures hold.

use std::net::Ipv4Addr;

use jiff::Timestamp;
use libp2p::{
    Multiaddr, PeerId,
    identity::{Keypair, PublicKey},
    multiaddr::Protocol,
};
use prost::Message;
use skerry_common::NodeName;
use skerry_identity::{CredentialWatch, Identity, IdentityError};

use crate::RecordError;

/// Largest encoded record in bytes: 32 addresses, two certificates, two signatures, with room. It must fit an
/// annotation of a Node in base64.
pub const MAX_RECORD: usize = 16 * 1024;

/// Most addresses in a record. Listeners times interfaces, and two relays; more would only be dialled in vain.
pub const MAX_ADDRESSES: usize = 32;

/// Longest address in bytes; one through a relay with a DNS name has about 160.
const MAX_ADDRESS: usize = 384;

/// How far a record's expiry may lie ahead, in seconds: as long as the longest life of a node's certificate.
const MAX_LIFETIME: i64 = 31 * 24 * 3600;

/// What both signatures are about.
const CONTEXT: &str = "skerry-mesh-record-v1";

/// What a node says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRecord {
    /// The node.
    pub node: NodeName,
    /// Its key's name in the mesh.
    pub peer_id: PeerId,
    /// Where it may be reached: its own addresses, without `/p2p`, and circuits through relays.
    pub addresses: Vec<Multiaddr>,
    /// Whether it relays for others.
    pub relay: bool,
    /// Grows with every record of the node. A record with a lower one is a replay.
    pub sequence: u64,
    /// When it stops to hold; never after the certificate.
    pub not_after: Timestamp,
}

/// The signed part on the wire.
#[derive(Clone, PartialEq, Message)]
struct Payload {
    #[prost(string, tag = "1")]
    node: String,
    #[prost(bytes = "vec", tag = "2")]
    public_key: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "3")]
    addresses: Vec<Vec<u8>>,
    #[prost(bool, tag = "4")]
    relay: bool,
    #[prost(uint64, tag = "5")]
    sequence: u64,
    #[prost(int64, tag = "6")]
    not_after: i64,
}

/// The whole record on the wire.
#[derive(Clone, PartialEq, Message)]
struct Envelope {
    #[prost(bytes = "vec", tag = "1")]
    payload: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    chain: Vec<Vec<u8>>,
    #[prost(bytes = "vec", tag = "3")]
    certificate_signature: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    key_signature: Vec<u8>,
}

impl NodeRecord {
    /// Signs the record with the certificate in use and the node's key.
    ///
    /// # Errors
    /// [`RecordError::Identity`] when there is no certificate or it cannot sign, [`RecordError::Limit`] when the record
    /// is larger than others accept, [`RecordError::Key`] when `key` is not the one of `peer_id`.
    pub fn sign(&self, credentials: &CredentialWatch, key: &Keypair) -> Result<Vec<u8>, RecordError> {
        if key.public().to_peer_id() != self.peer_id {
            return Err(RecordError::Key);
        }
        let credentials = credentials.current().ok_or(RecordError::Identity(IdentityError::CaNotValid))?;
        let payload = Payload {
            node: self.node.as_str().to_owned(),
            public_key: key.public().encode_protobuf(),
            addresses: self.addresses.iter().map(Multiaddr::to_vec).collect(),
            relay: self.relay,
            sequence: self.sequence,
            not_after: self.not_after.as_second(),
        }
        .encode_to_vec();
        let envelope = Envelope {
            chain: credentials.chain().iter().map(|certificate| certificate.to_vec()).collect(),
            certificate_signature: credentials.sign(CONTEXT, &payload).map_err(RecordError::Identity)?,
            key_signature: key.sign(&keyed(&payload)).map_err(|_| RecordError::Key)?,
            payload,
        };
        let encoded = envelope.encode_to_vec();
        if encoded.len() > MAX_RECORD || self.addresses.len() > MAX_ADDRESSES {
            return Err(RecordError::Limit);
        }
        Ok(encoded)
    }

    /// Reads a record and checks everything that can be known without other records: sizes, both signatures, the
    /// certificate's chain, life, trust domain and revocation, the name, the expiry.
    ///
    /// # Errors
    /// What does not hold.
    pub fn verify(encoded: &[u8], credentials: &CredentialWatch) -> Result<Self, RecordError> {
        if encoded.len() > MAX_RECORD {
            return Err(RecordError::Limit);
        }
        let envelope = Envelope::decode(encoded).map_err(|_| RecordError::Malformed)?;
        let chain: Vec<_> = envelope.chain.iter().map(|certificate| certificate.as_slice().into()).collect();
        let identity = credentials
            .verify_signed(CONTEXT, &envelope.payload, &chain, &envelope.certificate_signature)
            .map_err(RecordError::Identity)?;
        let payload = Payload::decode(envelope.payload.as_slice()).map_err(|_| RecordError::Malformed)?;
        let node = NodeName::parse(&payload.node).map_err(|_| RecordError::Malformed)?;
        if identity != Identity::Node(node.clone()) {
            return Err(RecordError::OtherNode { claimed: node, signer: identity.to_string() });
        }
        let key = PublicKey::try_decode_protobuf(&payload.public_key).map_err(|_| RecordError::Malformed)?;
        if !key.verify(&keyed(&envelope.payload), &envelope.key_signature) {
            return Err(RecordError::Key);
        }
        let now = credentials.clock().now();
        let not_after = Timestamp::from_second(payload.not_after).map_err(|_| RecordError::Malformed)?;
        if now >= not_after || payload.not_after - now.as_second() > MAX_LIFETIME {
            return Err(RecordError::Expired { not_after });
        }
        let peer_id = key.to_peer_id();
        let addresses = addresses(&payload.addresses)?;
        Ok(Self { node, peer_id, addresses, relay: payload.relay, sequence: payload.sequence, not_after })
    }
}

/// Decodes addresses that came from the network.
///
/// # Errors
/// [`RecordError::Limit`] for too many or too long ones, [`RecordError::Malformed`].
pub(crate) fn addresses(encoded: &[Vec<u8>]) -> Result<Vec<Multiaddr>, RecordError> {
    if encoded.len() > MAX_ADDRESSES || encoded.iter().any(|address| address.len() > MAX_ADDRESS) {
        return Err(RecordError::Limit);
    }
    encoded
        .iter()
        .map(|address| Multiaddr::try_from(address.clone()).map_err(|_| RecordError::Malformed))
        .filter(|address| address.as_ref().map_or(true, is_dialable))
        .collect()
}

/// Whether an address of somebody else may be dialled at all: not multicast, broadcast or unspecified, whatever the
/// record says.
pub(crate) fn is_dialable(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => !(ip.is_unspecified() || ip.is_multicast() || ip == Ipv4Addr::BROADCAST),
        Some(Protocol::Ip6(ip)) => !(ip.is_unspecified() || ip.is_multicast()),
        Some(Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_)) => true,
        _ => false,
    }
}

/// The key signs in a context of its own; libp2p signs other things with it.
fn keyed(payload: &[u8]) -> Vec<u8> {
    [CONTEXT.as_bytes(), b"/key\0", payload].concat()
}

#[cfg(test)]
mod tests;
