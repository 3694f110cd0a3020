//! What any mapper can be held to, with its own driver.
//!
//! A mapper's test describes a [`Subject`] — its devices, what can be written, what is refused, which device does
//! not answer — and runs [`check`]. The kit starts the mapper against a node of its own ([`Node`]) with
//! either of the node's interfaces, and looks at what a user would see: states, values, what became of desired
//! values, and the mapper's own counters. Nothing is faked on the mapper's side.
//!
//! Available with the feature `conformance`.

mod cases;
mod line;
mod node;
mod node_v1;
mod node_v1beta1;
mod wire;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use skerry_telemetry::{Readiness, Registry};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use self::line::line;
pub use self::node::{Api, Node, Observed, Seen};
use crate::config::{Common, Config, GrpcServer, Rest};
use crate::mapper::Counters;
use crate::{About, Definition, DeviceKey, Driver, Mapper};

/// A device is served so soon after the last of node, mapper and Device is there.
pub const ONLINE_WITHIN: Duration = Duration::from_secs(5);
/// Values are back so soon after a line is.
pub const BACK_WITHIN: Duration = Duration::from_secs(2);

/// What is tested.
pub struct Subject<D: Driver> {
    /// What the mapper is.
    pub about: About,
    /// Makes the driver; called for each start of the mapper. Devices keep their values across starts.
    pub driver: Box<dyn Fn() -> D + Send + Sync>,
    /// Devices that work, on one line, all of whose properties can be read. The cycles are the kit's to set.
    pub devices: Vec<Definition>,
    /// A property that can be written, and two values for it that the device does not have.
    pub writable: Write,
    /// A property and a value that its device refuses, though the model allows it.
    pub refused: Option<Write>,
    /// A device on the same line that does not answer.
    pub dead: Option<Definition>,
    /// Takes the line away and brings it back.
    pub cut: Option<Box<dyn Fn(bool) + Send + Sync>>,
    /// A folder for sockets, of the test's own.
    pub folder: PathBuf,
}

/// A write.
#[derive(Debug, Clone)]
pub struct Write {
    /// Index into the devices.
    pub device: usize,
    /// Name of the property.
    pub property: String,
    /// Values, as in a Device.
    pub values: Vec<String>,
}

/// What came of each case.
#[derive(Debug)]
pub struct Results(Vec<(&'static str, Result<(), String>)>);

impl Results {
    /// Names of the cases that passed.
    pub fn passed(&self) -> Vec<&str> {
        self.0.iter().filter(|(_, result)| result.is_ok()).map(|(name, _)| *name).collect()
    }

    /// Names of the cases that failed.
    pub fn failed(&self) -> Vec<&str> {
        self.0.iter().filter(|(_, result)| result.is_err()).map(|(name, _)| *name).collect()
    }
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, result) in &self.0 {
            match result {
                Ok(()) => writeln!(f, "ok      {name}")?,
                Err(words) => writeln!(f, "FAILED  {name}: {words}")?,
            }
        }
        Ok(())
    }
}

/// Runs the cases that the subject has what is needed for, against one interface of the node.
pub async fn check<D: Driver>(subject: &Subject<D>, api: Api) -> Results {
    check_some(subject, api, |_| true).await
}

/// Runs the cases whose name `picked` takes.
pub async fn check_some<D: Driver>(subject: &Subject<D>, api: Api, picked: impl Fn(&str) -> bool) -> Results {
    let mut results = Vec::new();
    for (name, case) in cases::all::<D>().into_iter().filter(|(name, _)| picked(name)) {
        let stage = Stage { subject, api };
        match case(&stage).await {
            Ok(()) => results.push((name, Ok(()))),
            Err(cases::Skip::NotApplicable) => {}
            Err(cases::Skip::Failed(words)) => results.push((name, Err(words))),
        }
    }
    Results(results)
}

/// One case's own mapper and node.
struct Stage<'a, D: Driver> {
    subject: &'a Subject<D>,
    api: Api,
}

/// A mapper that runs.
struct Running {
    counters: Counters,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl<D: Driver> Stage<'_, D> {
    async fn node(&self) -> Result<Node, String> {
        Node::start(&self.subject.folder.join("dmi.sock"), self.api).await.map_err(|error| error.to_string())
    }

    async fn mapper(&self) -> Result<Running, String> {
        let folder = &self.subject.folder;
        let config = Config {
            grpc_server: GrpcServer { socket_path: Some(folder.join("mapper.sock")) },
            common: Common { edgecore_sock: Some(folder.join("dmi.sock").display().to_string()), ..Common::default() },
            rest: Rest { enabled: false, ..Rest::default() },
            ..Config::default()
        };
        let driver = (self.subject.driver)();
        let (registry, readiness) = (Registry::new(), Readiness::new());
        let built = Mapper::build(&config, &self.subject.about, driver, &registry, &readiness).await;
        let mapper = built.map_err(|error| error.to_string())?;
        let counters = mapper.counters();
        let stop = CancellationToken::new();
        let task = tokio::spawn(mapper.run(stop.clone()));
        Ok(Running { counters, stop, task })
    }

    /// The devices, read and reported in this cycle.
    fn devices(&self, cycle: Duration) -> Vec<Arc<Definition>> {
        self.subject.devices.iter().map(|device| paced(device, cycle)).collect()
    }

    fn key(&self, write: &Write) -> Result<DeviceKey, String> {
        let device = self.subject.devices.get(write.device);
        device.map(|device| device.key.clone()).ok_or_else(|| "the subject has no such device".to_owned())
    }
}

fn paced(device: &Definition, cycle: Duration) -> Arc<Definition> {
    let mut device = device.clone();
    for property in device.properties.iter_mut().map(Arc::make_mut) {
        property.collect_cycle = cycle;
        property.report_cycle = cycle;
        property.report_to_cloud = true;
    }
    Arc::new(device)
}

impl Running {
    async fn stop(self) {
        self.stop.cancel();
        // A mapper that panicked has said so.
        let _ = self.task.await;
    }
}

impl<D: Driver> fmt::Debug for Subject<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject").field("about", &self.about).finish_non_exhaustive()
    }
}
