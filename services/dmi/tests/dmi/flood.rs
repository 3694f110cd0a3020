//! A flood by one mapper, and the calls and values of another one meanwhile, over both interfaces.
//!
//! What is compared are counts: the same calls in the name of the flooding mapper are the control.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use skerry_common::kinds;
use skerry_proto::dmi::v1 as pb;
use skerry_proto::dmi::v1::mapper_message::Message as Up;
use tokio::task::JoinSet;

use crate::node::{Node, condition, device, eventually, key, twin};
use crate::stream::{Mapper, value};
use crate::v1beta1::{EXHAUSTED, OK, STATUS, register, report};
use crate::wire::{MapperServer, call};

/// Callers of the flood: more than calls of one mapper may wait.
const CALLERS: usize = 64;
/// Calls of one mapper in one second, and of the other one meanwhile.
const CALLS: u32 = 50;
/// Values of one mapper in one second.
const VALUES: u32 = 1_000;
/// Values of a flood on a stream.
const FLOOD: usize = 20_000;

/// `b1` for the mapper that floods and `x1` for the other one.
fn put_devices(node: &Node) {
    node.put_boiler("b1");
    let mut other = device("x1");
    other["spec"]["protocol"]["protocolName"] = "opcua".into();
    node.hub.put(kinds::DEVICE, "plant", "x1", other);
}

/// Calls without a pause until it is dropped.
struct Flood {
    stop: Arc<AtomicBool>,
    refused: Arc<AtomicUsize>,
    callers: JoinSet<()>,
}

impl Flood {
    fn start(node: &Node) -> Self {
        let (stop, refused) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let mut callers = JoinSet::new();
        for _ in 0..CALLERS {
            let (stop, refused, socket) = (Arc::clone(&stop), Arc::clone(&refused), node.socket().to_owned());
            callers.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let code = call(&socket, STATUS, &report("b1", "temperature", "1")).await.0;
                    refused.fetch_add(usize::from(code == EXHAUSTED), Ordering::Relaxed);
                }
            });
        }
        Self { stop, refused, callers }
    }

    async fn until_refused_once_more(&self) {
        let before = self.refused.load(Ordering::Relaxed);
        let more = eventually(async || (self.refused.load(Ordering::Relaxed) > before).then_some(())).await;
        assert!(more.is_some(), "nothing of the flood is refused");
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.callers.join_all().await;
    }
}

/// How many of so many calls, one after the other, were refused.
async fn refused(node: &Node, device: &str) -> usize {
    let mut refused = 0;
    for _ in 0..CALLS {
        let (code, words, _) = call(node.socket(), STATUS, &report(device, "temperature", "2")).await;
        assert!([OK, EXHAUSTED].contains(&code), "{words}");
        refused += usize::from(code == EXHAUSTED);
    }
    refused
}

#[tokio::test(flavor = "multi_thread")]
async fn while_one_mapper_floods_every_call_of_another_is_served() {
    let node = Node::with(|config| config.dmi.quotas.calls_per_second = CALLS).await;
    put_devices(&node);
    let (flooding, _) = register(&node, "m", "modbus", true).await;
    let (other, _) = register(&node, "other", "opcua", true).await;
    let _servers = (MapperServer::willing(&flooding), MapperServer::willing(&other));
    for name in ["b1", "x1"] {
        node.until(name, |v| condition(v, "Ready").status).await;
    }
    let flood = Flood::start(&node);
    flood.until_refused_once_more().await;
    assert_eq!(refused(&node, "x1").await, 0, "calls of the other mapper were refused");
    flood.until_refused_once_more().await;
    // The control: the same calls, of the mapper that floods.
    let own = refused(&node, "b1").await;
    assert!(own > 0, "the flood takes nothing from anybody, so the test shows nothing");
    flood.end().await;
    node.until("x1", |v| twin(v, "temperature").reported.as_deref() == Some("2")).await;
}

/// Sends values as fast as the stream takes them.
fn flood(mut mapper: Mapper) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        for sequence in 1..=FLOOD / 100 {
            let values = (0..100).map(|n| value("temperature", pb::value::Value::Integer(n))).collect();
            let devices = vec![pb::DeviceValues { device: Some(key("b1")), values }];
            mapper.say(Up::Reports(pb::Reports { sequence: sequence as u64, devices })).await;
        }
        // Until it is ended from outside: what was sent must be read.
        mapper.end().await;
    })
}

async fn taken(node: &Node, mapper: &str) -> u64 {
    let mappers = node.devices().list_mappers(pb::ListMappersRequest {}).await.unwrap().into_inner().mappers;
    mappers.iter().find(|view| view.name == mapper).map_or(0, |view| view.values)
}

/// How much was taken of a flood by the time that another mapper's batches were, with this quota.
async fn streams(values_per_second: u32, flood_is_taken_first: bool) -> (u64, f64) {
    let node = Node::with(|config| config.dmi.quotas.values_per_second = values_per_second).await;
    put_devices(&node);
    let mut flooding = Mapper::connect(&node, "m").await;
    flooding.take_device().await;
    let mut other = Mapper::connect_as(node.socket(), "other", "opcua").await;
    other.take_device().await;
    let started = Instant::now();
    let flooding = flood(flooding);
    if flood_is_taken_first {
        eventually(async || (taken(&node, "m").await >= FLOOD as u64).then_some(())).await;
    }
    // A second's worth, so that none of it waits.
    for n in 0..i64::from(VALUES / 50) {
        let values = (0..50).map(|_| value("temperature", pb::value::Value::Integer(n))).collect();
        assert!(other.report("x1", values).await.refused.is_empty());
    }
    let (flooded, seconds) = (taken(&node, "m").await, started.elapsed().as_secs_f64());
    assert_eq!(taken(&node, "other").await, u64::from(VALUES));
    flooding.abort();
    (flooded, seconds)
}

#[tokio::test(flavor = "multi_thread")]
async fn while_one_stream_floods_every_batch_of_another_is_taken() {
    let (flooded, seconds) = streams(VALUES, false).await;
    // A second's worth at once, a batch that was begun, and the rate since.
    let most = f64::from(VALUES) * (seconds + 1.0) + 100.0;
    assert!(flooded as f64 <= most, "{flooded} values in {seconds} s, with {VALUES} a second");
    assert!(flooded < FLOOD as u64, "the flood was over before the others were served: {seconds} s");
}

#[tokio::test(flavor = "multi_thread")]
async fn control_without_a_quota_a_stream_s_flood_is_taken_whole() {
    assert_eq!(streams(u32::MAX, true).await.0, FLOOD as u64);
}
