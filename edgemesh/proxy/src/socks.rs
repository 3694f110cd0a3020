//! SOCKS5 (RFC 1928) by node name, for ssh to a node behind a NAT: CONNECT only, with username and password
//! (RFC 1929) always, to the ports that the operator allows.
//!
//! A client names a node and a port; who knows that node, and how it is reached, is the chooser's. Addresses are
//! refused: this is no way into a network. Every refusal has the reply that the RFC has for it. After the reply of
//! success the connection is one like all others.
//!
//! Limits: [`HANDSHAKE`] until the request is there, [`WRONG`] after a wrong password, a place among the proxy's
//! connections. Nothing is read ahead. Cancelling resets the connection.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use skerry_common::NodeName;
use skerry_common::drain::Watch;
use skerry_mesh_core::Protocol;
use skerry_telemetry::emit;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use crate::accept;
use crate::connect::connect;
use crate::dial::{Dial, DialError};
use crate::duplex::Silence;
use crate::error::BindError;
use crate::events::{Refused, WrongPassword};
use crate::flow::{Choice, Choose, Destination, Flow, Seen, Unserved};
use crate::proxy::{Proxy, Shared};
use crate::socket;
use crate::tcp::copy;

/// From the connection to the request; a person does not type in between.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Before the answer to a wrong password: guessing is slow for whoever guesses.
const WRONG: Duration = Duration::from_secs(1);
/// How long a client may take to read a reply.
const REPLY: Duration = Duration::from_secs(5);

const VERSION: u8 = 5;
const AUTHENTICATION_VERSION: u8 = 1;
const METHOD_PASSWORD: u8 = 2;
const METHOD_NONE: u8 = 0xff;
const COMMAND_CONNECT: u8 = 1;
const ADDRESS_V4: u8 = 1;
const ADDRESS_NAME: u8 = 3;
const ADDRESS_V6: u8 = 4;

/// Who may use it, and for what.
#[derive(Clone, Default)]
pub struct SocksAccess {
    /// Passwords by name. Without any, nobody gets in.
    pub users: BTreeMap<String, String>,
    /// Ports of nodes.
    pub ports: BTreeSet<u16>,
}

impl fmt::Debug for SocksAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SocksAccess").field("users", &self.users.keys()).field("ports", &self.ports).finish()
    }
}

impl SocksAccess {
    /// Whether this is the password of that user. A wrong one takes as long as a right one.
    fn knows(&self, name: &[u8], password: &[u8]) -> bool {
        let known = std::str::from_utf8(name).ok().and_then(|name| self.users.get(name));
        known.is_some_and(|known| verify_slices_are_equal(known.as_bytes(), password).is_ok())
    }
}

/// A listener for clients of SOCKS5.
#[derive(Debug)]
pub struct SocksListen {
    listener: TcpListener,
    address: SocketAddr,
}

impl SocksListen {
    /// Listens on an address. Port 0 takes a free port.
    ///
    /// # Errors
    /// When the address is taken.
    pub fn bind(address: SocketAddr) -> Result<Self, BindError> {
        let listener = socket::listen(address, None);
        let bound = listener.and_then(|listener| Ok(Self { address: listener.local_addr()?, listener }));
        bound.map_err(|source| BindError::Listen { address, source })
    }

    /// Its address.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

/// Replies to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reply {
    Succeeded = 0,
    Failure = 1,
    NotAllowed = 2,
    NetworkUnreachable = 3,
    HostUnreachable = 4,
    ConnectionRefused = 5,
    Expired = 6,
    CommandNotSupported = 7,
    AddressNotSupported = 8,
}

impl From<DialError> for Reply {
    fn from(error: DialError) -> Self {
        match error {
            DialError::Refused => Self::ConnectionRefused,
            DialError::TimedOut => Self::Expired,
            DialError::Unreachable => Self::NetworkUnreachable,
            DialError::NoPath => Self::HostUnreachable,
            // The node does not open this port to others.
            DialError::NotHere => Self::NotAllowed,
            DialError::Busy | DialError::Malformed | DialError::Overtaken | DialError::Failed => Self::Failure,
        }
    }
}

impl From<Unserved> for Reply {
    fn from(unserved: Unserved) -> Self {
        match unserved {
            Unserved::NoService | Unserved::NoEndpoint => Self::HostUnreachable,
            Unserved::Exhausted => Self::Failure,
            Unserved::Denied => Self::NotAllowed,
        }
    }
}

/// Why there is no request.
#[derive(Debug)]
enum Fault {
    /// The client broke off, or does not speak SOCKS5.
    Broken,
    /// It does not offer to name itself, which it has been told.
    NoPassword,
    /// It named itself wrongly; it is not told yet.
    WrongPassword,
    /// It wants what there is not.
    Refused(Reply),
}

impl From<io::Error> for Fault {
    fn from(_: io::Error) -> Self {
        Self::Broken
    }
}

impl<C: Choose, D: Dial> Proxy<C, D> {
    /// Serves clients of SOCKS5 until the drain begins.
    pub async fn serve_socks(&self, listen: SocksListen, access: SocksAccess, stop: Watch) {
        let access = Arc::new(access);
        accept::run(&self.0, listen.listener, stop, |stream, client, stop| {
            let (shared, access) = (self.0.clone(), access.clone());
            async move {
                let mut forced = stop.clone();
                tokio::select! {
                    biased;
                    () = serve(&shared, stream, client, &access, stop) => {}
                    () = forced.forced() => {}
                }
            }
        })
        .await;
    }
}

async fn serve<C: Choose, D: Dial>(
    shared: &Shared<C, D>,
    mut stream: TcpStream,
    client: SocketAddr,
    access: &SocksAccess,
    stop: Watch,
) {
    let (node, port) = match timeout(HANDSHAKE, request(&mut stream, access)).await {
        Ok(Ok(asked)) => asked,
        Ok(Err(Fault::WrongPassword)) => {
            emit(WrongPassword { client }, &shared.metrics);
            sleep(WRONG).await;
            finish(stream, &[AUTHENTICATION_VERSION, 1]).await;
            return;
        }
        Ok(Err(Fault::NoPassword)) => {
            finish(stream, &[VERSION, METHOD_NONE]).await;
            return;
        }
        Ok(Err(Fault::Refused(reply))) => {
            finish(stream, &bytes(reply)).await;
            return;
        }
        Ok(Err(Fault::Broken)) | Err(_) => return,
    };
    let flow = Flow { protocol: Protocol::Tcp, client, destination: Destination::Node(node, port) };
    let plan = match shared.choose.choose(&flow, Seen { bytes: &[], more: false }) {
        Choice::Serve(plan) if plan.candidates.is_empty() => Err(Unserved::NoEndpoint),
        Choice::Serve(plan) => Ok(plan),
        Choice::Peek => Err(Unserved::Denied),
        Choice::Refuse(unserved) => Err(unserved),
    };
    let connected = match plan {
        Ok(plan) => {
            let silence = Silence::from(&plan.policy);
            let local = |address| socket::connect(address, shared.limits.mark, None);
            let connected = connect(shared, &flow, plan, local).await;
            connected.map(|connected| (connected, silence)).map_err(|error| (error.name(), error.into()))
        }
        Err(unserved) => Err((unserved.name(), unserved.into())),
    };
    match connected {
        Ok((connected, silence)) => {
            if let Ok(Ok(())) = timeout(REPLY, stream.write_all(&bytes(Reply::Succeeded))).await {
                copy(shared, &mut stream, &flow, connected, None, silence, stop).await;
            }
        }
        Err((reason, reply)) => {
            emit(Refused { flow: &flow, reason }, &shared.metrics);
            finish(stream, &bytes(reply)).await;
        }
    }
}

/// Says the last word.
async fn finish(mut stream: TcpStream, bytes: &[u8]) {
    let say = async {
        stream.write_all(bytes).await?;
        stream.shutdown().await
    };
    if let Ok(Ok(())) = timeout(REPLY, say).await {
        socket::orderly(&stream);
    }
}

/// A reply; the address that it has room for says nothing.
fn bytes(reply: Reply) -> [u8; 10] {
    [VERSION, reply as u8, 0, ADDRESS_V4, 0, 0, 0, 0, 0, 0]
}

/// From the first byte to a request that may be served.
async fn request<S>(stream: &mut S, access: &SocksAccess) -> Result<(NodeName, u16), Fault>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    expect(stream, VERSION).await?;
    if !field(stream).await?.contains(&METHOD_PASSWORD) {
        return Err(Fault::NoPassword);
    }
    stream.write_all(&[VERSION, METHOD_PASSWORD]).await?;
    expect(stream, AUTHENTICATION_VERSION).await?;
    let (name, password) = (field(stream).await?, field(stream).await?);
    if !access.knows(&name, &password) {
        return Err(Fault::WrongPassword);
    }
    stream.write_all(&[AUTHENTICATION_VERSION, 0]).await?;

    expect(stream, VERSION).await?;
    let mut head = [0; 3];
    stream.read_exact(&mut head).await?;
    let [command, _, kind] = head;
    // All of it is read before it is answered: what is left unread would break the answer off.
    let name = match kind {
        ADDRESS_NAME => Some(field(stream).await?),
        ADDRESS_V4 | ADDRESS_V6 => {
            let mut address = [0; 16];
            let length = if kind == ADDRESS_V4 { 4 } else { 16 };
            stream.read_exact(address.get_mut(..length).unwrap_or_default()).await?;
            None
        }
        _ => return Err(Fault::Refused(Reply::AddressNotSupported)),
    };
    let port = stream.read_u16().await?;
    if command != COMMAND_CONNECT {
        return Err(Fault::Refused(Reply::CommandNotSupported));
    }
    let name = name.ok_or(Fault::Refused(Reply::AddressNotSupported))?;
    if !access.ports.contains(&port) {
        return Err(Fault::Refused(Reply::NotAllowed));
    }
    let node = std::str::from_utf8(&name).ok().and_then(|name| NodeName::parse(name).ok());
    Ok((node.ok_or(Fault::Refused(Reply::HostUnreachable))?, port))
}

async fn expect<S: AsyncRead + Unpin>(stream: &mut S, version: u8) -> Result<(), Fault> {
    if stream.read_u8().await? == version { Ok(()) } else { Err(Fault::Broken) }
}

/// A byte of length, and so many bytes.
async fn field<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; stream.read_u8().await?.into()];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: &[u8] = b"\x05\x02\x00\x02\x01\x03ann\x06secret";

    async fn ask(client: &[u8]) -> Result<(NodeName, u16), Fault> {
        let (mut near, mut far) = tokio::io::duplex(4096);
        near.write_all(client).await.unwrap();
        near.shutdown().await.unwrap();
        let access = SocksAccess { users: [("ann".into(), "secret".into())].into(), ports: [22].into() };
        request(&mut far, &access).await
    }

    #[tokio::test]
    async fn every_request_has_its_reply() {
        let (node, port) = ask(&[HELLO, b"\x05\x01\x00\x03\x06edge-1\x00\x16"].concat()).await.unwrap();
        assert_eq!((node.as_str(), port), ("edge-1", 22));
        for (request, reply) in [
            (b"\x05\x02\x00\x03\x06edge-1\x00\x16".as_slice(), Reply::CommandNotSupported),
            (b"\x05\x03\x00\x01\x7f\x00\x00\x01\x00\x16", Reply::CommandNotSupported),
            (b"\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x16", Reply::AddressNotSupported),
            (
                b"\x05\x01\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x16",
                Reply::AddressNotSupported,
            ),
            (b"\x05\x01\x00\x09\x00\x00", Reply::AddressNotSupported),
            (b"\x05\x01\x00\x03\x06edge-1\x00\x17", Reply::NotAllowed),
            (b"\x05\x01\x00\x03\x06../etc\x00\x16", Reply::HostUnreachable),
            (b"\x05\x01\x00\x03\x00\x00\x16", Reply::HostUnreachable),
        ] {
            let refused = ask(&[HELLO, request].concat()).await.unwrap_err();
            assert!(matches!(refused, Fault::Refused(got) if got == reply), "{request:?}: {refused:?}");
        }
    }

    #[tokio::test]
    async fn nobody_gets_in_without_the_password() {
        for (hello, wrong) in [
            (b"\x05\x01\x02\x01\x03ann\x06secres".as_slice(), true),
            (b"\x05\x01\x02\x01\x03ann\x00", true),
            (b"\x05\x01\x02\x01\x00\x00", true),
            (b"\x05\x01\x02\x01\x03bob\x06secret", true),
            (b"\x05\x01\x02\x01\x02\xff\xff\x06secret", true),
            (b"\x05\x01\x00\x01\x03ann\x06secret", false),
            (b"\x05\x00", false),
        ] {
            let request = [hello, b"\x05\x01\x00\x03\x06edge-1\x00\x16"].concat();
            let fault = ask(&request).await.unwrap_err();
            assert!(matches!((&fault, wrong), (Fault::WrongPassword, true) | (Fault::NoPassword, false)), "{fault:?}");
        }
    }

    #[tokio::test]
    async fn what_is_cut_or_no_socks_has_no_reply() {
        let whole = [HELLO, b"\x05\x01\x00\x03\x06edge-1\x00\x16"].concat();
        for length in 0..whole.len() {
            assert!(matches!(ask(&whole[..length]).await, Err(Fault::Broken)), "{length}");
        }
        assert!(matches!(ask(b"\x04\x01\x00\x16\x7f\x00\x00\x01\x00").await, Err(Fault::Broken)));
        assert!(matches!(ask(b"GET / HTTP/1.1\r\n\r\n").await, Err(Fault::Broken)));
    }

    #[test]
    fn passwords_are_not_shown() {
        let access = SocksAccess { users: [("ann".into(), "secret".into())].into(), ports: [22].into() };
        assert!(!format!("{access:?}").contains("secret"));
    }
}
