//! The cases. Each has a mapper and a node of its own, and ends both.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use super::{Api, BACK_WITHIN, Node, ONLINE_WITHIN, Running, Stage, paced};
use crate::{DeviceKey, DeviceState, Driver, Quality};

/// Cycle of the devices in most cases.
const CYCLE: Duration = Duration::from_millis(200);
/// How long a case that measures gaps looks.
const LOOK: Duration = Duration::from_secs(4);
/// How long is waited for something that must not happen.
const QUIET: Duration = Duration::from_secs(1);
/// A device may need its deadline to be found dead, then its values must be doubted.
const DOUBTED_WITHIN: Duration = Duration::from_secs(15);
/// A write that is not shown is given up after the SDK's patience.
const REFUSED_WITHIN: Duration = Duration::from_secs(10);

pub(super) enum Skip {
    /// The subject or the interface has not what the case needs.
    NotApplicable,
    Failed(String),
}

impl From<String> for Skip {
    fn from(words: String) -> Self {
        Self::Failed(words)
    }
}

type Case<D> = for<'a> fn(&'a Stage<'a, D>) -> Pin<Box<dyn Future<Output = Result<(), Skip>> + Send + 'a>>;

pub(super) fn all<D: Driver>() -> Vec<(&'static str, Case<D>)> {
    vec![
        ("every start order", |stage| Box::pin(start_orders(stage))),
        ("desired is written once", |stage| Box::pin(desired_once(stage))),
        ("what is refused is shown", |stage| Box::pin(refused_shown(stage))),
        ("a dead device does not stop others", |stage| Box::pin(dead_device(stage))),
        ("the node comes back", |stage| Box::pin(node_restart(stage))),
        ("the mapper comes back", |stage| Box::pin(mapper_restart(stage))),
        ("a storm of edits", |stage| Box::pin(edits(stage))),
        ("the line comes back", |stage| Box::pin(line_cut(stage))),
        ("a device that is removed is left alone", |stage| Box::pin(removal(stage))),
    ]
}

/// Waits until all devices are online with good values that came after `since`.
async fn online<D: Driver>(stage: &Stage<'_, D>, node: &Node, since: Instant, within: Duration) -> Result<(), String> {
    let devices = stage.devices(CYCLE);
    let all = |seen: &super::Seen| {
        devices.iter().all(|device| {
            let good = |name: &str| seen.last(&device.key, name).is_some_and(|o| o.is_good() && o.at >= since);
            seen.state(&device.key) == Some(DeviceState::Online) && device.properties.iter().all(|p| good(&p.name))
        })
    };
    node.until("all devices online with good values", within, all).await
}

fn set_all<D: Driver>(stage: &Stage<'_, D>, node: &Node) {
    for device in stage.devices(CYCLE) {
        node.set(&device, "1");
    }
}

async fn begun<D: Driver>(stage: &Stage<'_, D>) -> Result<(Node, Running), String> {
    let node = stage.node().await?;
    set_all(stage, &node);
    let mapper = stage.mapper().await?;
    online(stage, &node, Instant::now(), ONLINE_WITHIN).await?;
    Ok((node, mapper))
}

async fn end(node: Node, mapper: Running) {
    mapper.stop().await;
    node.stop().await;
}

async fn start_orders<D: Driver>(stage: &Stage<'_, D>) -> Result<(), Skip> {
    // The order of the node, the mapper and the Devices; Devices before the node are there when it starts.
    for order in ["ndm", "nmd", "mnd", "dnm", "mdn", "dmn"] {
        let (mut node, mut mapper, mut devices) = (None, None, false);
        for step in order.chars() {
            match step {
                'n' => {
                    let started = stage.node().await?;
                    if devices {
                        set_all(stage, &started);
                    }
                    node = Some(started);
                }
                'm' => mapper = Some(stage.mapper().await?),
                _ => {
                    devices = true;
                    if let Some(node) = &node {
                        set_all(stage, node);
                    }
                }
            }
        }
        let (Some(node), Some(mapper)) = (node, mapper) else { continue };
        let result = online(stage, &node, Instant::now(), ONLINE_WITHIN).await;
        let set = mapper.counters.devices_set();
        end(node, mapper).await;
        result.map_err(|words| format!("order {order}: {words}"))?;
        let devices = u64::try_from(stage.subject.devices.len()).unwrap_or(u64::MAX);
        if set != devices {
            return Err(Skip::Failed(format!("order {order}: {devices} devices were set up {set} times")));
        }
    }
    Ok(())
}

/// Waits until a property has the value and its node knows that it was taken.
async fn taken(node: &Node, key: &DeviceKey, property: &str, value: &str, within: Duration) -> Result<(), String> {
    let what = format!("{property} = {value:?}, taken over");
    let done = |seen: &super::Seen| {
        seen.last(key, property).is_some_and(|o| o.is_good() && same(&o.value, value))
            && seen.outcome(key, property).is_some_and(|(version, refused)| same(&version, value) && refused.is_none())
    };
    node.until(&what, within, done).await
}

fn same(one: &str, other: &str) -> bool {
    let number = |text: &str| text.parse::<f64>().ok();
    one == other || number(one).zip(number(other)).is_some_and(|(a, b)| (a - b).abs() <= 1e-6 * a.abs().max(1.0))
}

async fn desired_once<D: Driver>(stage: &Stage<'_, D>) -> Result<(), Skip> {
    let write = &stage.subject.writable;
    let key = stage.key(write)?;
    let (node, mapper) = begun(stage).await?;
    let result = async {
        for (count, value) in (1_u64..).zip(&write.values) {
            node.desire(&key, &write.property, value);
            taken(&node, &key, &write.property, value, ONLINE_WITHIN).await?;
            // The same wish again, and time to write it twice.
            node.desire(&key, &write.property, value);
            tokio::time::sleep(QUIET).await;
            let writes = mapper.counters.writes();
            if writes != count {
                return Err(format!("{count} values were wanted and {writes} writes were done"));
            }
        }
        Ok(())
    };
    let result = result.await;
    end(node, mapper).await;
    Ok(result?)
}

async fn refused_shown<D: Driver>(stage: &Stage<'_, D>) -> Result<(), Skip> {
    let (Some(write), Api::V1) = (&stage.subject.refused, stage.api) else { return Err(Skip::NotApplicable) };
    let key = stage.key(write)?;
    let (node, mapper) = begun(stage).await?;
    let result = async {
        let value = write.values.first().ok_or("the subject names no value that is refused")?;
        node.desire(&key, &write.property, value);
        let refused = |seen: &super::Seen| {
            seen.outcome(&key, &write.property)
                .is_some_and(|(_, refused)| refused.is_some_and(|words| !words.is_empty()))
        };
        node.until("the refusal and its words", REFUSED_WITHIN, refused).await?;
        let writes = mapper.counters.writes();
        tokio::time::sleep(QUIET).await;
        let later = mapper.counters.writes();
        if later > 1 {
            return Err(format!("what was refused was written again: {writes}, then {later} writes"));
        }
        Ok(())
    };
    let result = result.await;
    end(node, mapper).await;
    Ok(result?)
}

/// The longest time without a value of a property, from `since`.
fn gap<D: Driver>(stage: &Stage<'_, D>, node: &Node, since: Instant) -> Result<Duration, String> {
    let now = Instant::now();
    let mut longest = Duration::ZERO;
    for device in &stage.subject.devices {
        for property in &device.properties {
            let times = node.times(&device.key, &property.name, since);
            if times.is_empty() {
                return Err(format!("no value of {} of {}", property.name, device.key));
            }
            let ends = times.iter().copied().chain([now]);
            let gaps = times.iter().copied().zip(ends.skip(1)).map(|(one, next)| next - one);
            longest = longest.max(gaps.max().unwrap_or_default());
        }
    }
    Ok(longest)
}

fn below_two_cycles(gap: Duration) -> Result<(), String> {
    if gap < CYCLE * 2 { Ok(()) } else { Err(format!("no value for {gap:?} with a cycle of {CYCLE:?}")) }
}

async fn dead_device<D: Driver>(stage: &Stage<'_, D>) -> Result<(), Skip> {
    let Some(dead) = &stage.subject.dead else { return Err(Skip::NotApplicable) };
    let (node, mapper) = begun(stage).await?;
    let result = async {
        node.set(&paced(dead, CYCLE), "1");
        let offline = |seen: &super::Seen| seen.state(&dead.key) == Some(DeviceState::Offline);
        node.until("the dead device offline", DOUBTED_WITHIN, offline).await?;
        let since = Instant::now();
        tokio::time::sleep(LOOK).await;
        below_two_cycles(gap(stage, &node, since)?)
    };
    let result = result.await;
    end(node, mapper).await;
    Ok(result?)
}

async fn node_restart<D: Driver>(stage: &Stage<'_, D>) -> Result<(), Skip> {
    let write = &stage.subject.writable;
    let key = stage.key(write)?;
    let (node, mapper) = begun(stage).await?;
    node.stop().await;
    let node = stage.node().await?;
    // Somebody wants something else meanwhile; the device has the same version.
    let value = write.values.first().cloned().unwrap_or_default();
    node.desire_quietly(&key, &write.property, &value);
    set_all(stage, &node);
    let result = async {
        online(stage, &node, Instant::now(), ONLINE_WITHIN).await?;
        taken(&node, &key, &write.property, &value, ONLINE_WITHIN).await?;
        let set = mapper.counters.devices_set();
        let devices = u64::try_from(stage.subject.devices.len()).unwrap_or(u64::MAX);
        if set == devices { Ok(()) } else { Err(format!("{devices} devices were set up {set} times")) }
    };
    let result = result.await;
    end(node, mapper).await;
    Ok(result?)
}

async fn mapper_restart<D: Driver>(stage: &Stage<'_, D>) -> Result<(), Skip> {
    let write = &stage.subject.writable;
    let key = stage.key(write)?;
    let (node, mapper) = begun(stage).await?;
    let value = write.values.first().cloned().unwrap_or_default();
    node.desire(&key, &write.property, &value);
    let first = taken(&node, &key, &write.property, &value, ONLINE_WITHIN).await;
    mapper.stop().await;
    let again = stage.mapper().await?;
    let result = async {
        first?;
        online(stage, &node, Instant::now(), ONLINE_WITHIN).await?;
        tokio::time::sleep(QUIET).await;
        match again.counters.writes() {
            0 => Ok(()),
            writes => Err(format!("a value that the device has was written {writes} times after the start")),
        }
    };
    let result = result.await;
    end(node, again).await;
    Ok(result?)
}

async fn edits<D: Driver>(stage: &Stage<'_, D>) -> Result<(), Skip> {
    let write = &stage.subject.writable;
    let key = stage.key(write)?;
    let (node, mapper) = begun(stage).await?;
    let result = async {
        let device = stage.devices(CYCLE).into_iter().find(|device| device.key == key).ok_or("no such device")?;
        let set = mapper.counters.devices_set();
        let since = Instant::now();
        let mut version = 1_u32;
        // Ten times a second, with nothing changed that a mapper sees but the wish.
        while since.elapsed() < LOOK {
            version += 1;
            let even = usize::from(version.is_multiple_of(2));
            let value = write.values.get(even).or(write.values.first()).cloned().unwrap_or_default();
            node.desire_quietly(&key, &write.property, &value);
            node.set(&device, &version.to_string());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        below_two_cycles(gap(stage, &node, since)?)?;
        let later = mapper.counters.devices_set();
        if later != set {
            return Err(format!("devices were set up {} times for nothing", later - set));
        }
        let last = node.desired(&key, &write.property).unwrap_or_default();
        taken(&node, &key, &write.property, &last, ONLINE_WITHIN).await
    };
    let result = result.await;
    end(node, mapper).await;
    Ok(result?)
}

async fn line_cut<D: Driver>(stage: &Stage<'_, D>) -> Result<(), Skip> {
    let Some(cut) = &stage.subject.cut else { return Err(Skip::NotApplicable) };
    let (node, mapper) = begun(stage).await?;
    let result = async {
        cut(true);
        let doubted = |seen: &super::Seen| {
            stage.subject.devices.iter().all(|device| {
                let uncertain = device
                    .properties
                    .iter()
                    .all(|property| seen.last(&device.key, &property.name).is_some_and(|o| o.quality != Quality::Good));
                // KubeEdge's interface has no quality: the state must say it.
                seen.state(&device.key) == Some(DeviceState::Offline) && (uncertain || stage.api == Api::V1Beta1)
            })
        };
        let result = node.until("values doubted and devices offline", DOUBTED_WITHIN, doubted).await;
        cut(false);
        result?;
        online(stage, &node, Instant::now(), BACK_WITHIN).await
    };
    let result = result.await;
    cut(false);
    end(node, mapper).await;
    Ok(result?)
}

async fn removal<D: Driver>(stage: &Stage<'_, D>) -> Result<(), Skip> {
    let (node, mapper) = begun(stage).await?;
    let result = async {
        for device in &stage.subject.devices {
            node.remove(&device.key);
        }
        // What was under way may still come.
        tokio::time::sleep(CYCLE * 2).await;
        let polls = mapper.counters.polls();
        tokio::time::sleep(QUIET).await;
        match mapper.counters.polls() - polls {
            0 => Ok(()),
            more => Err(format!("{more} reads after all devices were removed")),
        }
    };
    let result = result.await;
    end(node, mapper).await;
    Ok(result?)
}
