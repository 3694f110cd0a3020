//! A mesh in one process: a CA, nodes with keys in a directory of their own, real sockets on loopback.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use skerry_common::NodeName;
use skerry_identity::{
    Ca, CredentialOptions, CredentialWatch, Credentials, DEFAULT_NODE_LIFETIME, NodeKey, RevocationPublisher,
    TrustDomain,
};
use skerry_mesh_net::{Accepted, Config, Inbound, Multiaddr, Net, Path, PeerStatus, Stream};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinHandle,
    time::timeout,
};

/// Nothing here takes longer, on any machine.
pub(crate) const GENEROUS: Duration = Duration::from_secs(60);

/// Longer than a stranger may stay.
pub(crate) const TRIES: Duration = Duration::from_secs(8);

/// Transports of loopback.
pub(crate) const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";
pub(crate) const TCP: &str = "/ip4/127.0.0.1/tcp/0";
pub(crate) const WEBSOCKET: &str = "/ip4/127.0.0.1/tcp/0/ws";

pub(crate) fn name(name: &str) -> NodeName {
    NodeName::parse(name).unwrap()
}

/// A CA and a directory for keys.
pub(crate) struct World {
    pub(crate) ca: Ca,
    pub(crate) folder: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        Self { ca: Ca::generate(&TrustDomain::default()).unwrap(), folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn credentials(&self, node: &str) -> CredentialWatch {
        self.revocable(node).1
    }

    pub(crate) fn revocable(&self, node: &str) -> (RevocationPublisher, CredentialWatch) {
        let credentials = self.ca.node_credentials(&name(node), DEFAULT_NODE_LIFETIME, Timestamp::now()).unwrap();
        let (publisher, revocations) = RevocationPublisher::new();
        let options = CredentialOptions { revocations, ..CredentialOptions::new(self.ca.trust_domain().clone()) };
        (publisher, CredentialWatch::fixed(options, credentials).unwrap())
    }

    /// A node that listens on loopback alone and looks for nobody.
    pub(crate) fn config(&self, node: &str, listen: &[&str]) -> Config {
        Config {
            listen: listen.iter().map(|address| address.parse().unwrap()).collect(),
            mdns: false,
            upnp: false,
            ..Config::new(name(node), self.folder.path().join(format!("{node}.key")), self.credentials(node), 0)
        }
    }

    pub(crate) async fn start(&self, node: &str, listen: &[&str]) -> Node {
        Node::start(self.config(node, listen)).await
    }

    /// A node with a certificate for a good name, of a CA of its own; it trusts ours too, so that it does not refuse us.
    pub(crate) async fn intruder(&self, foreign: &World, node: &str, listen: &[&str]) -> Node {
        let key = NodeKey::generate().unwrap();
        let request = key.csr().unwrap();
        let issued = foreign.ca.issue_node(&request, &name(node), DEFAULT_NODE_LIFETIME, Timestamp::now()).unwrap();
        let both = foreign.ca.bundle().unwrap().union(&self.ca.bundle().unwrap()).unwrap();
        let credentials = Credentials::new(vec![issued.certificate], key.private_key(), both).unwrap();
        let options = CredentialOptions::new(self.ca.trust_domain().clone());
        let credentials = CredentialWatch::fixed(options, credentials).unwrap();
        Node::start(Config { credentials, ..foreign.config(node, listen) }).await
    }

    /// A relay on QUIC and TCP.
    pub(crate) async fn relay(&self, node: &str) -> Node {
        Node::start(Config { relay: true, ..self.config(node, &[QUIC, TCP]) }).await
    }
}

/// One node.
pub(crate) struct Node {
    pub(crate) name: NodeName,
    pub(crate) net: Net,
    pub(crate) inbound: Option<Inbound>,
    echo: Option<JoinHandle<()>>,
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(echo) = &self.echo {
            echo.abort();
        }
    }
}

impl Node {
    pub(crate) async fn start(config: Config) -> Self {
        let name = config.node.clone();
        let (net, inbound) = Net::start(config).await.unwrap();
        Self { name, net, inbound: Some(inbound), echo: None }
    }

    /// Sends back what comes, on every stream, each direction for itself.
    pub(crate) fn echo(mut self) -> Self {
        let mut inbound = self.inbound.take().unwrap();
        self.echo = Some(tokio::spawn(async move {
            while let Some(Accepted { stream, .. }) = inbound.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = tokio::io::split(stream);
                    if tokio::io::copy(&mut read, &mut write).await.is_ok() {
                        let _ = write.shutdown().await;
                    }
                });
            }
        }));
        self
    }

    /// Its record, once there is one that `good` likes.
    pub(crate) async fn record_with(&self, good: impl Fn(&[Multiaddr]) -> bool) -> Vec<u8> {
        let (mut record, mut addresses) = (self.net.own_record(), self.net.own_addresses());
        timeout(GENEROUS, addresses.wait_for(|addresses| good(addresses))).await.unwrap().unwrap();
        let record = timeout(GENEROUS, record.wait_for(Option::is_some)).await.unwrap().unwrap().clone();
        record.unwrap().to_vec()
    }

    pub(crate) async fn record(&self) -> Vec<u8> {
        self.record_with(|addresses| !addresses.is_empty()).await
    }

    /// Its record without addresses, as of a node that listens nowhere.
    pub(crate) async fn bare_record(&self) -> Vec<u8> {
        self.record_with(|_| true).await
    }

    /// Tells this node of the others, by the records that they have now.
    pub(crate) async fn know(&self, others: &[&Node]) {
        let mut records = BTreeMap::new();
        for other in others {
            records.insert(other.name.clone(), other.bare_record().await);
        }
        let refused = self.net.set_records(records).await.unwrap();
        assert!(refused.is_empty(), "{refused:?}");
    }

    pub(crate) async fn open(&self, to: &Node) -> Stream {
        self.net.open(&to.name, GENEROUS).await.unwrap()
    }

    /// Waits until the peer's status is as wanted.
    pub(crate) async fn sees(&self, peer: &Node, wanted: impl Fn(&PeerStatus) -> bool) -> PeerStatus {
        let mut changes = self.net.subscribe();
        let seen = async {
            let mut all = changes.current();
            loop {
                if let Some(status) = all.into_iter().find(|status| status.node == peer.name && wanted(status)) {
                    return status;
                }
                all = changes.changed().await.expect("the network has stopped");
            }
        };
        timeout(GENEROUS, seen).await.unwrap_or_else(|_| panic!("{} sees {:?}", self.name, self.net.peer(&peer.name)))
    }

    pub(crate) async fn is_connected_to(&self, peer: &Node) -> PeerStatus {
        self.sees(peer, |status| status.path != Path::None).await
    }
}

/// Sends `sent` and ends; returns what comes back until the other end does.
pub(crate) async fn round_trip(stream: Stream, sent: Vec<u8>) -> Vec<u8> {
    let (mut read, mut write) = tokio::io::split(stream);
    let sending = tokio::spawn(async move {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
        write
    });
    let mut back = Vec::new();
    timeout(GENEROUS, read.read_to_end(&mut back)).await.unwrap().unwrap();
    sending.await.unwrap();
    back
}

/// Bytes that show a loss, a double or a swap.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    (0_u64..).flat_map(|word| word.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()).take(length).collect()
}

/// Two nodes that know each other, the second echoing.
pub(crate) async fn pair(world: &World, listen: &[&str]) -> (Node, Node) {
    let a = world.start("a", listen).await;
    let b = world.start("b", listen).await.echo();
    a.know(&[&b]).await;
    b.know(&[&a]).await;
    (a, b)
}
