//! Cables with faults: a TAP device at each end, and one thread that carries frames between them.
//!
//! The thread has all such cables of a laboratory and ends with it. At most [`UNDER_WAY`] frames are under way in
//! one direction; further ones are dropped and counted, as at a full queue. When the process is killed the devices
//! go with it, which cuts the cables.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio_tun::Tun;

use crate::LabError;
use crate::fault::{Direction, Fate, Faults, Passed};
use crate::namespace::Netns;

/// Frames of one direction: 100 Mbit/s with a delay of a second.
const UNDER_WAY: usize = 10_000;
/// The largest frame: no device of ours has a larger MTU.
const FRAME: usize = 65_600;

/// A cable to be made.
#[derive(Debug)]
pub(crate) struct Ends<'a> {
    pub(crate) node: &'a str,
    pub(crate) near: (&'a Netns, &'a str),
    pub(crate) far: (&'a Netns, &'a str),
    pub(crate) faults: Faults,
}

/// The two directions of a cable: up from the node, and down to it.
#[derive(Debug, Clone)]
struct Lines([Arc<Mutex<Direction>>; 2]);

/// The thread.
#[derive(Debug)]
pub(crate) struct Pump {
    cables: BTreeMap<String, Lines>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Pump {
    /// Makes the devices and begins to carry.
    pub(crate) fn start(ends: &[Ends<'_>]) -> Result<Self, LabError> {
        let failed = || LabError::io("the thread of the cables with faults");
        let runtime = Builder::new_current_thread().enable_io().enable_time().build().map_err(failed())?;
        let mut cables = BTreeMap::new();
        for cable in ends {
            let near = device(runtime.handle(), cable.near)?;
            let far = device(runtime.handle(), cable.far)?;
            let lines = Lines([true, false].map(|up| Arc::new(Mutex::new(Direction::new(cable.faults, up)))));
            let [up, down] = lines.0.clone();
            runtime.spawn(carry(near.clone(), far.clone(), up));
            runtime.spawn(carry(far, near, down));
            cables.insert(cable.node.to_owned(), lines);
        }
        let (stop, stopped) = oneshot::channel();
        let run = move || {
            let _ = runtime.block_on(stopped);
        };
        let thread = std::thread::Builder::new().name("lab-cables".into()).spawn(run).map_err(failed())?;
        Ok(Self { cables, stop: Some(stop), thread: Some(thread) })
    }

    /// Other faults for a cable; `false` if it has none.
    pub(crate) fn change(&self, node: &str, faults: Faults) -> bool {
        let Some(Lines([up, down])) = self.cables.get(node) else {
            return false;
        };
        lock(up).change(faults, true);
        lock(down).change(faults, false);
        true
    }

    /// What went up and down a cable.
    pub(crate) fn passed(&self, node: &str) -> Option<[Passed; 2]> {
        self.cables.get(node).map(|lines| lines.0.each_ref().map(|line| lock(line).passed))
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It does not panic; and if it did, its cables are gone all the same.
            let _ = thread.join();
        }
    }
}

fn lock(direction: &Mutex<Direction>) -> MutexGuard<'_, Direction> {
    direction.lock().unwrap_or_else(PoisonError::into_inner)
}

fn device(runtime: &Handle, (namespace, interface): (&Netns, &str)) -> Result<Arc<Tun>, LabError> {
    let built = namespace.enter(|| {
        let _runtime = runtime.enter();
        Tun::builder().name(interface).tap().build()
    })?;
    let failed = || LabError::io(format!("the TAP device {interface} in {}", namespace.name()));
    let device = built.map_err(std::io::Error::other).map_err(failed())?.pop();
    device.map(Arc::new).ok_or_else(|| failed()(std::io::ErrorKind::NotFound.into()))
}

/// A frame under way: when it is due, its number, its bytes. The number keeps the order of those due at once.
type Frame = Reverse<(Instant, u64, Vec<u8>)>;

/// Carries frames in one direction until the device is gone.
async fn carry(from: Arc<Tun>, to: Arc<Tun>, direction: Arc<Mutex<Direction>>) {
    let mut buffer = vec![0; FRAME];
    let mut under_way: BinaryHeap<Frame> = BinaryHeap::new();
    let mut number = 0;
    loop {
        let now = Instant::now();
        while under_way.peek().is_some_and(|Reverse((due, ..))| *due <= now) {
            if let Some(Reverse((.., frame))) = under_way.pop() {
                // The device refuses while it is down: then the frame is lost, as on a pulled cable.
                let _ = to.send(&frame).await;
            }
        }
        let due = under_way.peek().map(|Reverse((due, ..))| tokio::time::Instant::from_std(*due));
        tokio::select! {
            () = async { if let Some(due) = due { tokio::time::sleep_until(due).await } }, if due.is_some() => {}
            read = from.recv(&mut buffer) => {
                let Ok(length) = read else {
                    return;
                };
                let frame = buffer.get(..length).unwrap_or_default();
                let full = under_way.len() >= UNDER_WAY;
                if let Fate::At(due) = lock(&direction).next(frame, Instant::now(), full) {
                    number += 1;
                    under_way.push(Reverse((due, number, frame.to_vec())));
                }
            }
        }
    }
}
