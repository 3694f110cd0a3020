//! Reads, writes and subscriptions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use skerry_mapper_sdk::{DeviceKey, Pending, Updates};

use super::*;

/// 2026-01-31T12:00:00.250Z, the source time that peer.py gives.
const SOURCE_MILLIS: u64 = 1_769_860_800_250;

/// Each type with the value that peer.py has there, one to be written, and what the server then has.
fn types() -> Vec<(&'static str, DataType, Value, Value, Json)> {
    vec![
        ("Boolean", DataType::Boolean, true.into(), false.into(), json!(false)),
        ("SByte", DataType::Int, (-128_i64).into(), 127_i64.into(), json!(127)),
        ("Byte", DataType::Int, 255_i64.into(), 0_i64.into(), json!(0)),
        ("Int16", DataType::Int, (-32_768_i64).into(), 32_767_i64.into(), json!(32_767)),
        ("UInt16", DataType::Int, 65_535_i64.into(), 1_i64.into(), json!(1)),
        ("Int32", DataType::Int, (-70_000_i64).into(), i64::from(i32::MIN).into(), json!(i32::MIN)),
        ("UInt32", DataType::Int, 4_000_000_000_i64.into(), i64::from(u32::MAX).into(), json!(u32::MAX)),
        ("Int64", DataType::Int, i64::MIN.into(), i64::MAX.into(), json!(i64::MAX)),
        ("UInt64", DataType::Int, ((1_u64 << 63) + 1).into(), u64::MAX.into(), json!(u64::MAX)),
        ("Float", DataType::Float, 21.3.into(), (-1.5).into(), json!(-1.5)),
        ("Double", DataType::Double, 0.1.into(), 1e300.into(), json!(1e300)),
        ("String", DataType::String, "skerry".into(), "ä b".into(), json!("ä b")),
        (
            "DateTime",
            DataType::String,
            "2026-01-31T12:00:00.25Z".into(),
            "2026-02-01T00:00:00Z".into(),
            json!("2026-02-01 00:00:00+00:00"),
        ),
        ("ByteString", DataType::Bytes, vec![0, 255].into(), vec![1, 2].into(), json!("b'\\x01\\x02'")),
        ("LocalizedText", DataType::String, "warm".into(), "cold".into(), Json::Null),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_is_read_and_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut peer = Peer::start(folder.path(), &[]);
    let types = types();
    let properties: Vec<_> = types.iter().map(|(name, kind, ..)| (*name, *kind, node(name))).collect();
    let driver = OpcUa::new(folder.path().join("pki"));
    let mut line = Line::open(&driver, &definition(peer.url(), &properties)).await.unwrap();
    let read = line.read().await.unwrap();
    for ((name, _, expected, ..), sample) in types.iter().zip(read) {
        assert_eq!(sample.value.as_ref(), Some(expected), "{name}: {sample:?}");
    }
    for (name, _, _, value, _) in &types {
        line.write(name, value.clone()).await.unwrap_or_else(|fault| panic!("{name}: {fault}"));
    }
    let read = line.read().await.unwrap();
    for ((name, _, _, written, there), sample) in types.iter().zip(read) {
        assert_eq!(sample.value.as_ref(), Some(written), "{name}: {sample:?}");
        let (kind, value) = peer.get(name);
        assert_eq!(&kind, name, "it is still of its type");
        assert!(there.is_null() || value == *there, "{name}: {value}");
    }
    assert!(!folder.path().join("pki").exists(), "without security there are no certificates");
    line.connection.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_and_time_are_the_server_s() {
    let folder = tempfile::tempdir().unwrap();
    let peer = Peer::start(folder.path(), &[]);
    let names = ["Uncertain", "Bad", "Int32", "Array", "Guid"];
    let properties: Vec<_> = names.iter().map(|name| (*name, DataType::String, node(name))).collect();
    let mut line = Line::open(&OpcUa::new(folder.path()), &definition(peer.url(), &properties)).await.unwrap();
    let samples = line.read().await.unwrap();
    let [uncertain, bad, good, array, guid] = samples.as_slice() else { panic!("{samples:?}") };
    assert_eq!((uncertain.quality, &uncertain.value), (Quality::Uncertain, &Some(7_i64.into())));
    assert_eq!(uncertain.source_time, Some(UNIX_EPOCH + Duration::from_millis(SOURCE_MILLIS)));
    assert!(uncertain.problem.contains("UncertainLastUsableValue"), "{uncertain:?}");
    assert!(bad.quality == Quality::Bad && bad.problem.contains("BadSensorFailure"), "{bad:?}");
    assert!(good.quality == Quality::Good && good.source_time.is_some(), "{good:?}");
    assert!(array.quality == Quality::Bad && array.problem.contains("an array of 3"), "{array:?}");
    assert_eq!(guid.value, Some("12345678-1234-5678-1234-567812345678".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_not_there_takes_down_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let peer = Peer::start(folder.path(), &[]);
    let properties = [
        ("there", DataType::Int, node("Int32")),
        ("missing", DataType::Int, node("Nothing")),
        ("elsewhere", DataType::Int, json!({ "nodeID": "nsu=http://nobody;s=Int32" })),
        ("by-name", DataType::Int, json!({ "nodeID": "nsu=http://skerry.test/plant;s=Int32" })),
    ];
    let mut line = Line::open(&OpcUa::new(folder.path()), &definition(peer.url(), &properties)).await.unwrap();
    let samples = line.read().await.unwrap();
    let qualities: Vec<_> = samples.iter().map(|sample| sample.quality).collect();
    assert_eq!(qualities, [Quality::Good, Quality::Bad, Quality::Bad, Quality::Good]);
    assert!(samples[1].problem.contains("BadNodeIdUnknown"), "{}", samples[1].problem);
    assert!(samples[2].problem.contains("no namespace http://nobody"), "{}", samples[2].problem);
    for name in ["missing", "elsewhere"] {
        assert!(matches!(line.write(name, 1_i64).await, Err(Fault::Refused(_))), "{name}");
    }
    line.connection.check(&line.device).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_written_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let mut peer = Peer::start(folder.path(), &[]);
    let names = ["Byte", "ReadOnly", "Array", "Int16", "String"];
    let mut properties: Vec<_> = names.iter().map(|name| (*name, DataType::Int, node(name))).collect();
    properties.push(("typed", DataType::Int, json!({ "nodeID": "ns=2;s=Int32", "dataType": "String" })));
    let mut line = Line::open(&OpcUa::new(folder.path()), &definition(peer.url(), &properties)).await.unwrap();
    let table = [
        ("Byte", Value::Int(256), "256 does not fit the node, which is a Byte"),
        ("Int16", Value::Float(1.5), "1.5 does not fit"),
        ("ReadOnly", Value::Int(8), "Bad"),
        ("Array", Value::Int(8), "is an array"),
        // The Device says of which type it is, and the server disagrees.
        ("typed", Value::Int(8), "BadTypeMismatch"),
    ];
    for (name, value, expected) in table {
        let refused = line.write(name, value).await;
        assert!(matches!(&refused, Err(Fault::Refused(words)) if words.contains(expected)), "{name}: {refused:?}");
    }
    assert_eq!(peer.get("Byte").1, json!(255), "what does not fit is not sent");
    assert_eq!(peer.get("ReadOnly").1, json!(7));
    line.write("String", "it goes on").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_is_one_request_or_as_few_as_the_server_takes() {
    let folder = tempfile::tempdir().unwrap();
    for (options, expected) in [(vec![], vec![35]), (vec!["limit=10"], vec![10, 10, 10, 5])] {
        let mut peer = Peer::start(folder.path(), &options);
        let names: Vec<String> = (0..35).map(|number| format!("p{number}")).collect();
        let properties: Vec<_> = names.iter().map(|name| (name.as_str(), DataType::Int, node("Int32"))).collect();
        let mut line = Line::open(&OpcUa::new(folder.path()), &definition(peer.url(), &properties)).await.unwrap();
        peer.tell(&json!({ "counts": true }));
        let samples = line.read().await.unwrap();
        assert!(samples.iter().all(|sample| sample.value == Some((-70_000_i64).into())), "{samples:?}");
        let mut reads: Vec<u64> =
            serde_json::from_value(peer.tell(&json!({ "counts": true }))["reads"].take()).unwrap();
        // The session's own sign of life is a read of one node.
        reads.retain(|nodes| *nodes != 1);
        assert_eq!(reads, expected);
    }
}

/// What a device has told.
pub(crate) struct Told {
    pending: Arc<Pending>,
    last: BTreeMap<String, Sample>,
}

impl Told {
    pub(crate) async fn until(&mut self, what: &str, done: impl Fn(&BTreeMap<String, Sample>) -> bool) {
        let wait = async {
            while !done(&self.last) {
                self.pending.changed().await;
                self.last.extend(self.pending.take().into_iter().map(|((_, name), sample)| (name, sample)));
            }
        };
        let result = tokio::time::timeout(Duration::from_secs(10), wait).await;
        assert!(result.is_ok(), "{what}: {:?}", self.last);
    }
}

pub(crate) async fn subscribe(line: &mut Line) -> Told {
    let pending = Arc::<Pending>::default();
    let points: Vec<_> = line.device.points.iter().collect();
    let names: Arc<[String]> = points.iter().map(|point| point.name().to_owned()).collect();
    let updates = Updates::new(DeviceKey::new("default", "a"), names, Arc::clone(&pending));
    assert!(line.connection.subscribe(&line.device, &points, updates).await.unwrap());
    Told { pending, last: BTreeMap::new() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_tells_what_is_and_what_changes() {
    let folder = tempfile::tempdir().unwrap();
    let mut peer = Peer::start(folder.path(), &["limit=2"]);
    let names = ["Int32", "String", "Uncertain", "Bad", "Later"];
    let properties: Vec<_> = names.iter().map(|name| (*name, DataType::String, node(name))).collect();
    let protocol = peer.with(json!({ "subscribe": true }));
    let mut line = Line::open(&OpcUa::new(folder.path()), &definition(protocol, &properties)).await.unwrap();
    let mut told = subscribe(&mut line).await;
    told.until("all that is there at first", |last| last.len() == names.len()).await;
    assert_eq!(told.last["Int32"].value, Some((-70_000_i64).into()));
    assert_eq!(told.last["Uncertain"].quality, Quality::Uncertain);
    assert!(told.last["Bad"].problem.contains("BadSensorFailure"));
    assert!(told.last["Later"].problem.contains("BadNodeIdUnknown"), "{:?}", told.last["Later"]);
    peer.tell(&json!({ "counts": true }));
    peer.set("Int32", 5);
    peer.set("String", "other");
    let (int, text) = (Some(Value::Int(5)), Some(Value::from("other")));
    told.until("the changes", |last| last["Int32"].value == int && last["String"].value == text).await;
    let reads = peer.tell(&json!({ "counts": true }))["reads"].take();
    assert!(reads.as_array().unwrap().iter().all(|nodes| *nodes == 1), "nothing was polled: {reads}");
    // A node that comes later is told from the next look on.
    peer.tell(&json!({ "add": "Later", "value": 9 }));
    line.connection.check(&line.device).await.unwrap();
    told.until("the new node", |last| last["Later"].value == Some(Value::Int(9))).await;
    line.connection.release(&line.device).await;
    peer.set("Int32", 6);
    line.connection.check(&line.device).await.unwrap();
    assert!(told.pending.take().is_empty(), "a device that was released is left alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_key_devices_are_polled() {
    let folder = tempfile::tempdir().unwrap();
    let peer = Peer::start(folder.path(), &[]);
    let properties = [("i", DataType::Int, node("Int32"))];
    let mut line = Line::open(&OpcUa::new(folder.path()), &definition(peer.url(), &properties)).await.unwrap();
    let points: Vec<_> = line.device.points.iter().collect();
    let updates = Updates::new(DeviceKey::new("default", "a"), ["i".to_owned()].into(), Arc::default());
    assert!(!line.connection.subscribe(&line.device, &points, updates).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_ends_with_its_server_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let peer = Peer::start(folder.path(), &[]);
    let protocol = peer.with(json!({ "subscribe": true }));
    let device = definition(protocol, &[("i", DataType::Int, node("Int32"))]);
    let mut line = Line::open(&OpcUa::new(folder.path()), &device).await.unwrap();
    let mut told = subscribe(&mut line).await;
    told.until("the first value", |last| last.len() == 1).await;
    assert_eq!(told.pending.take_lost(), None);
    drop(peer);
    tokio::time::timeout(Duration::from_secs(5), told.pending.changed()).await.unwrap();
    assert!(told.pending.take_lost().is_some(), "nobody has to ask");
}
