//! A node with devices: dmi on a socket of its own, and what stands in for edgehub.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use skerry_common::{NodeName, drain, kinds};
use skerry_dmi::{Config, Connect, Dmi};
use skerry_proto::dmi::v1 as pb;
use skerry_proto::dmi::v1::devices_client::DevicesClient;
use skerry_rpc::{Channel, PipeConnector};
use skerry_test_support::Hub;
use tokio::task::JoinHandle;

/// Longest time that a test waits for something.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Node {
    pub(crate) hub: Arc<Hub>,
    connector: PipeConnector,
    dir: tempfile::TempDir,
    config: Config,
    running: Option<(drain::Trigger, JoinHandle<Result<(), skerry_dmi::Error>>)>,
    _hub: drain::Trigger,
}

impl Node {
    /// A node whose dmi runs.
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// A node whose dmi runs, configured otherwise.
    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut node = Self::stopped(change).await;
        node.run().await;
        node
    }

    /// A node whose dmi does not run yet.
    pub(crate) async fn stopped(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (hub, connector, trigger) = Hub::start().await;
        let mut config = Config::new(NodeName::parse("edge-1").unwrap(), dir.path().join("store"));
        config.dmi.socket = dir.path().join("dmi.sock");
        config.dmi.mapper_socket_dirs = vec![dir.path().to_owned()];
        config.dmi.status_seconds = 1;
        change(&mut config);
        Self { hub, connector, dir, config, running: None, _hub: trigger }
    }

    pub(crate) async fn run(&mut self) {
        // One that was killed lets go of its store when its last task is gone.
        let dmi = eventually(async || {
            let connect = Connect::Pipe(self.connector.clone());
            match Dmi::build(self.config.clone(), connect, &skerry_telemetry::Registry::new()).await {
                Err(skerry_dmi::Error::Store(error)) if error.code() == "store_in_use" => None,
                built => Some(built.unwrap()),
            }
        });
        let dmi = dmi.await.unwrap();
        let (trigger, watch) = drain::channel(Duration::from_secs(5));
        self.running = Some((trigger, tokio::spawn(dmi.run(watch))));
    }

    /// Stops in good order.
    pub(crate) async fn stop(&mut self) {
        let (trigger, task) = self.running.take().unwrap();
        trigger.drain().await;
        task.await.unwrap().unwrap();
    }

    /// Ends at once, as a crash.
    pub(crate) async fn kill(&mut self) {
        let (trigger, task) = self.running.take().unwrap();
        task.abort();
        let _ = task.await;
        drop(trigger);
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.config.dmi.socket
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn channel(&self) -> Channel {
        Channel::unix(self.socket())
    }

    pub(crate) fn devices(&self) -> DevicesClient<Channel> {
        DevicesClient::new(self.channel()).max_decoding_message_size(4 << 20)
    }

    /// Puts the model `boiler` and a device of it.
    pub(crate) fn put_boiler(&self, name: &str) {
        self.hub.put(kinds::DEVICE_MODEL, "plant", "boiler", model());
        self.hub.put(kinds::DEVICE, "plant", name, device(name));
    }

    pub(crate) async fn view(&self, name: &str) -> Option<pb::DeviceView> {
        let request = pb::GetDeviceRequest { device: Some(key(name)) };
        self.devices().get_device(request).await.ok().map(tonic::Response::into_inner)
    }

    /// The device when it is as wanted.
    pub(crate) async fn until(&self, name: &str, what: impl Fn(&pb::DeviceView) -> bool) -> pb::DeviceView {
        let mut last = None;
        let found = eventually(async || {
            last = self.view(name).await;
            last.clone().filter(|view| what(view))
        });
        match found.await {
            Some(view) => view,
            None => panic!("the device is {last:#?}"),
        }
    }

    /// The newest status that the cloud was told, when it is as wanted.
    pub(crate) async fn status(&self, name: &str, what: impl Fn(&Value) -> bool) -> Value {
        let uid = format!("uid-{name}");
        let mut last = None;
        let found = eventually(async || {
            last = self.hub.newest(kinds::DEVICE_STATUS, &uid);
            last.clone().filter(|status| what(status))
        });
        match found.await {
            Some(status) => status,
            None => panic!("the status is {last:#?}"),
        }
    }
}

/// Asks again until there is an answer.
pub(crate) async fn eventually<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = ask().await {
            return Some(found);
        }
        if tokio::time::Instant::now() > deadline {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) fn key(name: &str) -> pb::DeviceKey {
    pb::DeviceKey { namespace: "plant".into(), name: name.into() }
}

/// The twin of a property.
pub(crate) fn twin<'v>(view: &'v pb::DeviceView, property: &str) -> &'v pb::TwinView {
    view.twins.iter().find(|twin| twin.property == property).unwrap()
}

/// The condition of a type; an empty one before the node has judged.
pub(crate) fn condition(view: &pb::DeviceView, r#type: &str) -> pb::ConditionView {
    view.conditions.iter().find(|condition| condition.r#type == r#type).cloned().unwrap_or_default()
}

pub(crate) fn model() -> Value {
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel",
        "metadata": { "uid": "uid-boiler" },
        "spec": {
            "protocol": "modbus",
            "protocolConfigData": { "timeoutMs": 500, "unit": 9 },
            "properties": [
                { "name": "temperature", "description": "of the water", "type": "DOUBLE", "accessMode": "ReadOnly", "unit": "C",
                  "visitors": { "protocolName": "modbus", "configData": { "register": "InputRegister", "scale": 0.5 } } },
                { "name": "setpoint", "type": "INT", "accessMode": "ReadWrite", "minimum": "0", "maximum": "90" },
            ],
        },
    })
}

pub(crate) fn device(name: &str) -> Value {
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
        "metadata": { "uid": format!("uid-{name}"), "generation": 1 },
        "spec": {
            "deviceModelRef": { "name": "boiler" },
            "nodeName": "edge-1",
            "protocol": { "protocolName": "modbus", "configData": { "address": "10.0.0.7", "unit": 1, "keepAlive": true } },
            "stateReport": { "reportToCloud": true, "reportCycle": 2000 },
            "properties": [
                { "name": "temperature", "collectCycle": 500, "reportCycle": 1000, "reportToCloud": true,
                  "visitors": { "protocolName": "modbus", "configData": { "offset": 4 } } },
                { "name": "setpoint", "reportToCloud": true, "desired": { "value": "40", "metadata": { "by": "ada" } } },
            ],
            "methods": [{ "name": "heat", "description": "sets the temperature", "propertyNames": ["setpoint"] }],
        },
    })
}
