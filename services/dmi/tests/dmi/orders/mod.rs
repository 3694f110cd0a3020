//! Start orders and restarts of the node's agent, of mappers and of Devices.
//!
//! The programs are processes, and a restart is kill -9. In each of the six orders they are restarted again and
//! again: by turns all three at once, and one after the other while the others run. Beside them are mappers and
//! devices that nobody touches. `SKERRY_ROUNDS` multiplies the ten restarts of each order.

mod kubeedge;
mod line;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use skerry_common::{drain, kinds};
use skerry_proto::dmi::v1 as pb;
use skerry_proto::dmi::v1::devices_client::DevicesClient;
use skerry_rpc::Channel;
use skerry_test_support::Hub;

use self::kubeedge::KubeEdgeMapper;
use self::line::Line;
use crate::node::{condition, key};
use crate::process::{Mapper, Process, agent};

const ROUNDS: u16 = 10;
/// From the last start until a device is Online with a value of now.
const ONLINE: Duration = Duration::from_secs(5);
/// How often devices are read.
const CYCLE: Duration = Duration::from_secs(1);

/// The agent, two mappers that are restarted and two that are not, with a device each.
struct Site {
    dir: tempfile::TempDir,
    hub: Arc<Hub>,
    _hub: drain::Trigger,
    agent: Option<Process>,
    mapper: Option<Mapper>,
    kubeedge: Option<KubeEdgeMapper>,
    steady: Mapper,
    steady_kubeedge: KubeEdgeMapper,
    line: Line,
    steady_line: Line,
    /// Counts Devices, so that each has a uid of its own.
    devices: u32,
}

impl Site {
    /// Everything that is not restarted runs.
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (hub, trigger) = Hub::start_at(&dir.path().join("edgehub.sock")).await;
        std::fs::write(dir.path().join("value"), "0").unwrap();
        let site = Self {
            agent: None,
            mapper: None,
            kubeedge: None,
            steady: Mapper::start(dir.path(), "steady").await,
            steady_kubeedge: KubeEdgeMapper::start(dir.path(), "steady-kubeedge").await,
            line: Line::start().await,
            steady_line: Line::start().await,
            devices: 0,
            hub,
            _hub: trigger,
            dir,
        };
        site.hub.put(kinds::DEVICE_MODEL, "plant", "gauge", model());
        site.put("steady", "steady-1", site.steady_line.port);
        site.put("steady-kubeedge", "steady-2", 0);
        site
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The device of a protocol; it has the same name.
    fn put(&self, protocol: &str, uid: &str, port: u16) {
        self.hub.put(kinds::DEVICE, "plant", protocol, device(protocol, uid, port));
    }

    async fn stop(&mut self, what: char) {
        match what {
            'a' => {
                if let Some(agent) = self.agent.take() {
                    agent.kill().await;
                }
            }
            'm' => {
                if let Some(mapper) = self.mapper.take() {
                    mapper.process.kill().await;
                }
                if let Some(mapper) = self.kubeedge.take() {
                    mapper.process.kill().await;
                }
            }
            _ => ["modbus", "kubeedge"].iter().for_each(|name| self.hub.delete(kinds::DEVICE, "plant", name)),
        }
    }

    async fn go(&mut self, what: char) {
        match what {
            'a' => {
                let agent = agent(self.path(), 0);
                let served = crate::node::eventually(async || self.view("steady").await).await;
                assert!(served.is_some(), "{}", agent.said());
                self.agent = Some(agent);
            }
            'm' => {
                self.mapper = Some(Mapper::start(self.path(), "modbus").await);
                self.kubeedge = Some(KubeEdgeMapper::start(self.path(), "kubeedge").await);
            }
            _ => {
                self.devices += 1;
                self.put("modbus", &format!("modbus-{}", self.devices), self.line.port);
                self.put("kubeedge", &format!("kubeedge-{}", self.devices), 0);
            }
        }
    }

    async fn view(&self, name: &str) -> Option<pb::DeviceView> {
        let mut devices = DevicesClient::new(Channel::unix(self.path().join("dmi.sock")));
        let request = pb::GetDeviceRequest { device: Some(key(name)) };
        devices.get_device(request).await.ok().map(tonic::Response::into_inner)
    }

    /// Waits until all devices are Online with a value.
    async fn online(&self, value: &str, last: Instant, round: &str) {
        for name in ["modbus", "kubeedge", "steady", "steady-kubeedge"] {
            loop {
                let view = self.view(name).await;
                let is_online = view.as_ref().is_some_and(|view| {
                    let twin = &view.twins[0];
                    let good = twin.quality() == pb::Quality::Good && twin.reported.as_deref() == Some(value);
                    good && condition(view, "Online").status && condition(view, "Ready").status
                });
                if is_online {
                    break;
                }
                if last.elapsed() > ONLINE {
                    let said = |process: Option<&Process>| process.map(Process::said).unwrap_or_default();
                    panic!(
                        "{round}: after {:?} {name} is {view:#?}\n\nthe agent:\n{}\nthe mappers:\n{}\n{}",
                        last.elapsed(),
                        said(self.agent.as_ref()),
                        said(self.mapper.as_ref().map(|mapper| &mapper.process)),
                        said(self.kubeedge.as_ref().map(|mapper| &mapper.process)),
                    );
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Restarts everything in an order. `rolling`: one after the other, while the others run.
    async fn restart(&mut self, order: &str, rolling: bool, round: u16) {
        let (name, value) = (format!("{order}, rolling: {rolling}, round {round}"), round.to_string());
        if !rolling {
            for what in order.chars() {
                self.stop(what).await;
            }
        }
        self.line.set(round);
        self.steady_line.set(round);
        // Whole at any moment.
        std::fs::write(self.path().join("value.new"), &value).unwrap();
        std::fs::rename(self.path().join("value.new"), self.path().join("value")).unwrap();
        let mut last = Instant::now();
        for what in order.chars() {
            if rolling {
                self.stop(what).await;
            }
            last = Instant::now();
            self.go(what).await;
        }
        self.online(&value, last, &name).await;
        // A mapper that was there before has had the Device of before, too.
        let most = if rolling && order.find('m') < order.find('d') { 2 } else { 1 };
        let set = self.mapper.as_ref().unwrap().devices_set().await;
        assert!((1..=most).contains(&set), "{name}: the mapper set its device up {set} times");
        let kubeedge = self.kubeedge.as_ref().unwrap();
        let set = kubeedge.count("set") + kubeedge.count("updated");
        // An agent that is killed between a call and its row repeats the call.
        let most = most as usize + usize::from(rolling && order == "mda");
        assert!((1..=most).contains(&set), "{name}: KubeEdge's set its device up {set} times");
    }
}

fn model() -> Value {
    let properties = json!([{ "name": "value", "type": "INT", "accessMode": "ReadOnly" }]);
    json!({ "metadata": { "uid": "gauge" }, "spec": { "properties": properties } })
}

fn device(protocol: &str, uid: &str, port: u16) -> Value {
    let config = json!({ "communicateMode": "TCP", "ip": "127.0.0.1", "port": port, "slaveID": 1 });
    let visitors = json!({ "register": "HoldingRegister", "offset": 0, "limit": 1 });
    let cycle = CYCLE.as_millis() as u64;
    json!({
        "metadata": { "uid": uid, "generation": 1 },
        "spec": {
            "deviceModelRef": { "name": "gauge" },
            "nodeName": "edge-1",
            "protocol": { "protocolName": protocol, "configData": config },
            "properties": [{
                "name": "value", "collectCycle": cycle, "reportCycle": cycle, "reportToCloud": true,
                "visitors": { "protocolName": protocol, "configData": visitors },
            }],
        },
    })
}

async fn restarts(order: &str, rounds: u16) {
    let mut site = Site::start().await;
    for what in order.chars() {
        site.go(what).await;
    }
    site.online("0", Instant::now(), order).await;
    let start = Instant::now();
    for round in 1..=rounds {
        site.restart(order, round % 2 == 0, round).await;
    }
    // Who was not restarted has felt nothing of it.
    let gap = site.steady_line.longest_gap(start);
    assert!(gap < CYCLE * 2, "{order}: the device was not read for {gap:?}");
    assert_eq!((site.steady_line.connections(), site.steady.devices_set().await), (1, 1), "{order}");
    let steady = &site.steady_kubeedge;
    let done = (steady.count("set"), steady.count("updated"), steady.count("removed"));
    assert_eq!(done, (1, 0, 0), "{order}: set up, updated, removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_in_every_order_are_felt_by_nobody_else() {
    let factor: u16 = std::env::var("SKERRY_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1);
    let orders = ["amd", "adm", "mad", "mda", "dam", "dma"];
    futures::future::join_all(orders.map(|order| restarts(order, ROUNDS * factor))).await;
}

/// A device that changes is set up again, and a mapper that stands still reads nothing: what the test above looks
/// at would show it.
#[tokio::test]
async fn control_the_checks_of_the_restarts_see_what_is_planted() {
    let mut site = Site::start().await;
    site.go('a').await;
    site.go('m').await;
    site.go('d').await;
    site.online("0", Instant::now(), "planted").await;
    for (name, port) in [("steady", site.steady_line.port), ("steady-kubeedge", 0)] {
        let mut changed = device(name, name, port);
        changed["spec"]["protocol"]["configData"]["slaveID"] = 2.into();
        site.hub.put(kinds::DEVICE, "plant", name, changed);
    }
    let again = crate::node::eventually(async || {
        let set = site.steady.devices_set().await + site.steady_kubeedge.count("set") as u64;
        (set + site.steady_kubeedge.count("updated") as u64 >= 4).then_some(())
    });
    assert!(again.await.is_some(), "a device that was set up again is not seen");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(site.steady.process.pid()).unwrap());
    let start = Instant::now();
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    tokio::time::sleep(CYCLE * 3).await;
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).unwrap();
    assert!(site.steady_line.longest_gap(start) >= CYCLE * 2);
}
