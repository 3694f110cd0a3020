//! README's port table against a running system: nothing else listens, and each port lets in only
//! those whom the table names.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use jiff::Timestamp;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use serde_json::Value;
use skerry_common::NodeName;
use skerry_e2e::{System, ports};
use skerry_identity::{Ca, Clock, CredentialStore, Credentials, TrustBundle, pin};
use skerry_proto::hub::v1 as hub_pb;
use skerry_proto::hub::v1::hub_client::HubClient;
use skerry_proto::identity::v1 as identity_pb;
use skerry_proto::identity::v1::identity_client::IdentityClient;
use skerry_proto::identity::v1::issuer_client::IssuerClient;
use skerry_rpc::{ClientLimits, ClientTls, Target, connect_once, deadline};
use tonic::{Code, Request};

const BASE: u16 = 21_300;
const LIFE: Duration = Duration::from_secs(600);

/// How soon a revoked certificate must be refused.
const REVOKED_WITHIN: Duration = Duration::from_secs(10);

/// README names the default ports; `--port-base` counts them up in this order.
const OFFSETS: [(&str, u16); 11] = [
    ("0.0.0.0:10000", 0),
    ("127.0.0.1:16443", 1),
    ("127.0.0.1:10100", 2),
    ("127.0.0.1:9091", 3),
    ("127.0.0.1:9092", 4),
    ("127.0.0.1:9093", 5),
    ("127.0.0.1:9094", 6),
    ("127.0.0.1:9095", 12),
    ("127.0.0.1:10110", 10),
    ("127.0.0.1:10111", 11),
    ("127.0.0.1:9098", 15),
];

fn here(documented: &str) -> Option<SocketAddr> {
    // By the node's address, so on every interface.
    if documented == "0.0.0.0:10250" {
        return Some(SocketAddr::from(([0, 0, 0, 0], BASE + 9)));
    }
    let offset = OFFSETS.iter().find(|(address, _)| *address == documented).map(|(_, offset)| *offset);
    // edged and dmi take the ports after edgehub's.
    let next = [("127.0.0.1:9096", 13), ("127.0.0.1:9097", 14)];
    let offset = offset.or_else(|| next.iter().find(|(address, _)| *address == documented).map(|(_, o)| *o))?;
    Some(SocketAddr::from(([127, 0, 0, 1], BASE + offset)))
}

fn pids(system: &System) -> BTreeMap<String, i64> {
    fs::read_dir(system.dir().join("run"))
        .unwrap()
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|e| e == "pid"))
        .map(|entry| {
            let record: Value = serde_json::from_slice(&fs::read(entry.path()).unwrap()).unwrap();
            (record["name"].as_str().unwrap().to_owned(), record["pid"].as_i64().unwrap())
        })
        .collect()
}

/// What came of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Not even a connection, or one that was closed at once.
    NoConnection,
    /// The call reached its handler.
    Reached,
    /// It was refused before.
    Refused(Code),
}

fn outcome<T>(result: Result<T, tonic::Status>) -> Outcome {
    match result.map_err(|status| status.code()) {
        Ok(_) => Outcome::Reached,
        Err(Code::Unavailable) => Outcome::NoConnection,
        Err(code @ (Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented)) => Outcome::Refused(code),
        // The handler's own words about a request that is nonsense.
        Err(_) => Outcome::Reached,
    }
}

/// Calls one method of each kind at a port.
async fn calls(address: SocketAddr, service: &str, tls: ClientTls) -> BTreeMap<&'static str, Outcome> {
    let target = Target::tcp([address.to_string()], service, tls).unwrap();
    let Ok(connection) = connect_once(&target, &ClientLimits::default()).await else {
        return ["ListSessions", "Renew", "IssueForRenewal"].map(|name| (name, Outcome::NoConnection)).into();
    };
    let within = Duration::from_secs(5);
    let list = deadline(Request::new(hub_pb::ListSessionsRequest::default()), within);
    let renew = deadline(Request::new(identity_pb::RenewRequest::default()), within);
    let issue = deadline(Request::new(identity_pb::IssueForRenewalRequest::default()), within);
    BTreeMap::from([
        ("ListSessions", outcome(HubClient::new(connection.channel()).list_sessions(list).await)),
        ("Renew", outcome(IdentityClient::new(connection.channel()).renew(renew).await)),
        ("IssueForRenewal", outcome(IssuerClient::new(connection.channel()).issue_for_renewal(issue).await)),
    ])
}

/// A client that shows a certificate without looking at it first: ours refuse to show one that has ended.
fn client(ca: &Ca, credentials: Option<&Credentials>) -> ClientTls {
    let mut config = pin::client_config(ca.spki_hash()).unwrap();
    if let Some(shown) = credentials {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let key = CertifiedKey::from_der(shown.chain().to_vec(), shown.key().clone_key(), &provider).unwrap();
        config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(key));
    }
    config.into()
}

/// The certificate of a node that joined and was thrown out, once it is refused at the hub's port.
async fn revoked(system: &System, ca: &Ca) -> Credentials {
    let hub = here("0.0.0.0:10000").unwrap();
    let token = system.json(&["token", "create"]).unwrap()["token"].as_str().unwrap().to_owned();
    let folder = system.dir().with_file_name("revoked");
    let (address, data) = (hub.to_string(), folder.to_str().unwrap());
    let fixed = ["--no-start", "--skip-checks", "--data-dir", data, "--node-name", "revoked"];
    let joined = system.attempt(&[&["join", &address, "--token", &token][..], &fixed].concat()).unwrap();
    assert_eq!(joined.code, 0, "{joined:?}");
    let store = CredentialStore::open(folder.join("credentials")).unwrap();
    let (credentials, ..) = store.load(ca.trust_domain(), &Clock::system()).newest.unwrap();
    let tls = client(ca, Some(&credentials));
    let before = calls(hub, "cloudhub", tls.clone()).await;
    assert_eq!(before["Renew"], Outcome::Reached, "the control: before it is revoked");
    system.skerry(&["node", "revoke", "revoked"]).unwrap();
    let started = Instant::now();
    while calls(hub, "cloudhub", tls.clone()).await["Renew"] == Outcome::Reached {
        assert!(started.elapsed() < REVOKED_WITHIN, "a revoked certificate is still taken");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    credentials
}

/// Every credential that somebody may come with; `None`: nothing.
async fn credentials(system: &System) -> (Ca, BTreeMap<&'static str, Option<Credentials>>) {
    let secret = system.kubectl(&["get", "secret", "-n", "skerry-system", "skerry-ca"]).unwrap();
    let field = |name: &str| {
        let text = secret["data"][name].as_str().unwrap();
        String::from_utf8(base64::prelude::BASE64_STANDARD.decode(text).unwrap()).unwrap()
    };
    let ca = Ca::from_pem(&field("ca.crt"), &field("ca.key")).unwrap();
    let domain = ca.trust_domain().clone();
    let now = Timestamp::now();
    let service = |name: &str| ca.service_credentials(name, &[], LIFE, now).unwrap();

    // Somebody with a CA of their own, who trusts ours and says the same names.
    let foreign_ca = Ca::generate(&domain).unwrap();
    let stranger = foreign_ca.service_credentials("admin", &[], LIFE, now).unwrap();
    let both = ca.bundle().unwrap().union(&foreign_ca.bundle().unwrap()).unwrap();
    let stranger = Credentials::from_pem(&stranger.chain_pem(), &stranger.key_pem(), &TrustBundle::pem(&both)).unwrap();

    let store = CredentialStore::open(system.dir().join("edge/credentials")).unwrap();
    let (node, ..) = store.load(&domain, &Clock::system()).newest.unwrap();
    let ended = ca.service_credentials("admin", &[], LIFE, now - LIFE - Duration::from_secs(60)).unwrap();
    let other = ca.node_credentials(&NodeName::parse("edge-2").unwrap(), LIFE, now).unwrap();
    let all = BTreeMap::from([
        ("nobody", None),
        ("stranger", Some(stranger)),
        ("node", Some(node)),
        ("other node", Some(other)),
        ("cloudhub", Some(service("cloudhub"))),
        ("admin", Some(service("admin"))),
        ("apiserver", Some(service("apiserver"))),
        ("other service", Some(service("devicecontroller"))),
        ("expired admin", Some(ended)),
        ("revoked node", Some(revoked(system, &ca).await)),
    ]);
    (ca, all)
}

/// The status with which the kubelet API answers; 0: not even a handshake.
fn pods_at_kubelet(system: &System, credentials: Option<&Credentials>) -> u16 {
    let (chain, key) = (system.dir().join("caller.pem"), system.dir().join("caller.key"));
    let mut curl = std::process::Command::new("curl");
    curl.args(["-sk", "-o", "/dev/null", "-w", "%{http_code}"]);
    if let Some(credentials) = credentials {
        fs::write(&chain, credentials.chain_pem()).unwrap();
        fs::write(&key, credentials.key_pem()).unwrap();
        curl.arg("--cert").arg(&chain).arg("--key").arg(&key);
    }
    let output = curl.arg(format!("https://127.0.0.1:{}/pods", BASE + 9)).output().unwrap();
    String::from_utf8_lossy(&output.stdout).parse().unwrap()
}

#[test]
fn the_port_table_is_complete_and_true() {
    let system = System::up(BASE, &["--processes"]).unwrap();
    let table = ports::table().unwrap();

    // What listens is in the table, and what is in the table listens.
    let mut documented: BTreeMap<String, BTreeSet<SocketAddr>> = BTreeMap::new();
    // Mappers are no part of `up`; the tests of their SDK show who gets in there.
    for row in table.iter().filter(|row| row.process != "each mapper") {
        if let Some(address) = here(&row.address) {
            let process = row.process.split(' ').next().unwrap().to_owned();
            documented.entry(process).or_default().insert(address);
        } else {
            let socket = row.address.starts_with("<data-dir>/") || row.address == "/etc/kubeedge/dmi.sock";
            assert!(socket, "{row:?}: unknown port");
        }
    }
    let mut real: BTreeMap<String, BTreeSet<SocketAddr>> = BTreeMap::new();
    for (name, pid) in pids(&system) {
        let sockets = ports::listening(pid);
        if !sockets.is_empty() {
            real.insert(name, sockets);
        }
    }
    assert_eq!(real, documented);

    for row in table.iter().filter(|row| row.protocol == "HTTP admin") {
        let address = here(&row.address).unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{row:?}: {answer}");
        for secret in ["PRIVATE KEY", "BEGIN CERTIFICATE", "not-a-real-secret"] {
            assert!(!answer.contains(secret), "{row:?} shows a secret");
        }
    }

    let socket = system.dir().join("edge/edgehub.sock");
    let meta = fs::metadata(&socket).unwrap();
    assert_eq!((meta.permissions().mode() & 0o777, meta.uid()), (0o600, 0), "only root reaches edgehub");

    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(matrix(&system));
    system.down().unwrap();
}

async fn matrix(system: &System) {
    use Outcome::{NoConnection, Reached, Refused};
    let denied = Refused(Code::PermissionDenied);
    let (ca, callers) = credentials(system).await;
    // caller: ListSessions and Renew at cloudhub, IssueForRenewal at edgecontroller, /pods at edged
    let expected = [
        ("nobody", [denied, denied, NoConnection], 401),
        ("stranger", [NoConnection, NoConnection, NoConnection], 0),
        ("node", [denied, Reached, denied], 403),
        ("other node", [denied, Reached, denied], 403),
        ("cloudhub", [denied, denied, Reached], 403),
        ("admin", [Reached, denied, denied], 403),
        ("apiserver", [denied, denied, denied], 200),
        ("other service", [denied, denied, denied], 403),
        ("expired admin", [NoConnection, NoConnection, NoConnection], 0),
        // A node has no list of revocations; to edged this one is a node as any other.
        ("revoked node", [NoConnection, NoConnection, NoConnection], 403),
    ];
    let hub = here("0.0.0.0:10000").unwrap();
    let edgecontroller = here("127.0.0.1:10100").unwrap();
    let mut wrong = Vec::new();
    for (caller, [list, renew, issue], kubelet) in expected {
        let credentials = callers[caller].as_ref();
        let found = pods_at_kubelet(system, credentials);
        if found != kubelet {
            wrong.push(format!("{caller} at edged: {found}, not {kubelet}"));
        }
        let tls = client(&ca, credentials);
        let at_hub = calls(hub, "cloudhub", tls.clone()).await;
        let at_controller = calls(edgecontroller, "edgecontroller", tls).await;
        for (port, found, method, want) in [
            ("cloudhub", &at_hub, "ListSessions", list),
            ("cloudhub", &at_hub, "Renew", renew),
            ("edgecontroller", &at_controller, "IssueForRenewal", issue),
        ] {
            if found[method] != want {
                wrong.push(format!("{caller} {method} at {port}: {:?}, not {want:?}", found[method]));
            }
        }
        // What a port does not serve, nobody reaches.
        for (port, found, method) in
            [("cloudhub", &at_hub, "IssueForRenewal"), ("edgecontroller", &at_controller, "Renew")]
        {
            if found[method] == Reached {
                wrong.push(format!("{caller} reaches {method} at {port}"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n  {}", wrong.join("\n  "));
}
