//! How bytes reach another node: QUIC, TCP, WebSocket, or a circuit through a relay, with DNS names resolved.
//!
//! TLS 1.3 with libp2p's certificates proves the PeerId on all of them; on TCP and circuits yamux carries the streams,
//! QUIC has its own. A circuit is encrypted end to end: the relay sees sizes and times.

use libp2p::{
    PeerId, Transport,
    core::{
        muxing::StreamMuxerBox,
        transport::{Boxed, timeout::TransportTimeout},
        upgrade::Version,
    },
    dns,
    identity::Keypair,
    quic, relay, tcp, tls, yamux,
};

use crate::{NetError, limits, streams::MAX_STREAMS, websocket::Websocket};

/// All transports, and libp2p's half of circuits.
pub(crate) fn build(key: &Keypair) -> Result<(Boxed<(PeerId, StreamMuxerBox)>, relay::client::Behaviour), NetError> {
    let setup = |what| move |source: Box<dyn std::error::Error + Send + Sync>| NetError::Setup { what, source };
    let security = tls::Config::new(key).map_err(|error| setup("TLS")(Box::new(error)))?;
    let muxer = || {
        let mut config = yamux::Config::default();
        // Pings and exchanges are streams too.
        config.set_max_num_streams(MAX_STREAMS + SPARE_STREAMS);
        config
    };
    let (circuits, behaviour) = relay::client::new(key.public().to_peer_id());
    let circuits = circuits.upgrade(Version::V1Lazy).authenticate(security.clone()).multiplex(muxer()).boxed();
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .upgrade(Version::V1Lazy)
        .authenticate(security.clone())
        .multiplex(muxer())
        .boxed();
    let websocket = Websocket::new(tcp::tokio::Transport::new(tcp::Config::default().nodelay(true)))
        .upgrade(Version::V1Lazy)
        .authenticate(security)
        .multiplex(muxer())
        .boxed();
    let mut config = quic::Config::new(key);
    config.handshake_timeout = limits::HANDSHAKE;
    config.max_idle_timeout = limits::QUIC_IDLE_MS;
    config.keep_alive_interval = limits::QUIC_KEEP_ALIVE;
    config.max_concurrent_stream_limit = u32::try_from(MAX_STREAMS + SPARE_STREAMS).unwrap_or(u32::MAX);
    let quic = quic::tokio::Transport::new(config).map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer))).boxed();
    let direct = quic.or_transport(tcp).map(|either, _| either.into_inner());
    let direct = direct.or_transport(websocket).map(|either, _| either.into_inner()).boxed();
    let direct = dns::tokio::Transport::system(direct).map_err(|error| setup("DNS")(Box::new(error)))?.boxed();
    let all = circuits.or_transport(direct).map(|either, _| either.into_inner());
    Ok((TransportTimeout::new(all, limits::HANDSHAKE).boxed(), behaviour))
}

/// Streams of libp2p's own protocols on a connection.
const SPARE_STREAMS: usize = 64;
