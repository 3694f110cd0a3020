//! When the Node is registered and its status is told.
//!
//! One task. The Node is registered at the start, when its object was deleted, and when the link
//! comes back; the status is sent on change, with every registration, and every [`RESEND`]. Facts are
//! read every [`LOOK`], which costs a few small files. Invariants: an unchanged status is not sent
//! more often than [`RESEND`]; a change of the runtime's health is sent at once. When the task ends,
//! the agent ends.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerImage, Node, NodeStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skerry_common::{Key, kinds};
use skerry_hubclient::Report;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::shutdown::NODE_MESSAGE;
use super::status::{self, MAX_IMAGES, MAX_NAMES, View};
use super::{allocatable, facts};
use crate::config::Config;
use crate::context::Context;
use crate::events::{Kind, Subject};

/// As designed: idle nodes are quiet.
const RESEND: Duration = Duration::from_secs(300);
/// How soon pressure or a new address is noticed.
const LOOK: Duration = Duration::from_secs(10);
/// Listing images is not free, and nobody waits for it.
const IMAGES_EVERY: Duration = Duration::from_secs(300);

/// See the module documentation.
pub(crate) struct NodeTask {
    context: Arc<Context>,
    config: Config,
    news: Arc<Notify>,
    images: Vec<ContainerImage>,
    images_at: Option<Instant>,
    /// The status that was sent last, and when; no time if it must be sent again.
    sent: Option<(Option<Instant>, NodeStatus)>,
    was_connected: bool,
}

impl NodeTask {
    pub(crate) fn new(context: Arc<Context>, config: Config, news: Arc<Notify>) -> Self {
        Self { context, config, news, images: Vec::new(), images_at: None, sent: None, was_connected: false }
    }

    /// Runs until it is dropped.
    pub(crate) async fn run(mut self) {
        let mut health = self.context.health.clone();
        let mut pressure = self.context.pressure.clone();
        let mut going_down = self.context.going_down.subscribe();
        // A node is not registered as broken only because nobody has looked yet.
        let first = tokio::time::timeout(LOOK, health.wait_for(|h| h.answers)).await;
        drop(first);
        self.register();
        loop {
            self.look().await;
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                changed = health.changed() => if changed.is_err() { return },
                changed = pressure.changed() => if changed.is_err() { return },
                changed = going_down.changed() => if changed.is_err() { return },
                () = self.news.notified() => self.hear(),
            }
        }
    }

    /// The link came back, or the Node object is gone.
    fn hear(&mut self) {
        let connected = self.context.objects.link().is_some_and(|l| l.connected);
        let back = connected && !self.was_connected;
        self.was_connected = connected;
        let missing = self.context.objects.node().is_none() && self.context.objects.in_sync(kinds::NODE);
        if missing {
            self.register();
        }
        let given_up = self.context.objects.node().as_deref().is_some_and(status::is_given_up);
        if let Some((at, mut status)) = self.sent.take() {
            let due = back || missing || given_up;
            for c in status.conditions.iter_mut().flatten().filter(|c| given_up && c.type_ == "Ready") {
                // Its next status is a transition, seen from the API.
                c.status = "Unknown".into();
            }
            self.sent = Some((if due { None } else { at }, status));
        }
    }

    fn register(&mut self) {
        let node = status::registration(&self.config, &facts::machine());
        self.put(kinds::NODE_REGISTRATION, &node);
    }

    async fn look(&mut self) {
        let health = self.context.health.borrow().clone();
        if health.answers && self.images_at.is_none_or(|at| at.elapsed() >= IMAGES_EVERY) {
            if let Ok(images) = self.context.cri.list_images().await {
                self.images = shown(images);
            }
            self.images_at = Some(Instant::now());
        }
        let facts::Resources { capacity, allocatable } = facts::resources(&self.config);
        let addresses: Vec<String> = facts::addresses(self.config.node_ip).iter().map(ToString::to_string).collect();
        self.context.learn(|l| {
            l.facts.host_ips.clone_from(&addresses);
            l.facts.allocatable.clone_from(&allocatable);
        });
        let learned = self.context.learned();
        let trouble = if *self.context.going_down.borrow() { NODE_MESSAGE.to_owned() } else { health.trouble };
        let (node, driver, memory) =
            (self.config.node.clone(), learned.cgroups, self.context.resources.memory_capacity);
        let top = self.context.cgroups.top(driver);
        // Fails only when the agent stops.
        let _ = tokio::task::spawn_blocking(move || allocatable::enforce(&node, driver, &top, memory)).await;
        let view = View {
            machine: facts::machine(),
            addresses,
            capacity,
            allocatable,
            pressure: *self.context.pressure.borrow(),
            runtime: format!("{}://{}", learned.runtime, learned.runtime_version.trim_start_matches('v')),
            trouble,
            port: self.context.api_port,
            link: self.context.objects.link(),
            images: self.images.clone(),
        };
        // An agent that has just started goes on with what an earlier one told.
        let known = || self.context.objects.node().and_then(|n| n.status.clone());
        let before = self.sent.as_ref().map(|(_, s)| s.clone()).or_else(known);
        let new = status::status(&view, before.as_ref(), jiff::Timestamp::now());
        let due = self
            .sent
            .as_ref()
            .is_none_or(|(at, old)| at.is_none_or(|at| at.elapsed() >= RESEND) || !status::same(old, &new));
        if !due {
            return;
        }
        self.tell_transitions(&new);
        let node = Node {
            metadata: ObjectMeta { name: Some(self.context.node.clone()), ..ObjectMeta::default() },
            spec: None,
            status: Some(new.clone()),
        };
        self.put(kinds::NODE_STATUS, &node);
        self.sent = Some((Some(Instant::now()), new));
    }

    /// Events for conditions that changed.
    fn tell_transitions(&self, new: &NodeStatus) {
        let status_of = |s: &NodeStatus, kind: &str| {
            s.conditions.iter().flatten().find(|c| c.type_ == kind).map(|c| (c.status.clone(), c.message.clone()))
        };
        let Some((_, old)) = &self.sent else {
            self.event(Kind::Normal, "Starting", "Starting kubelet.");
            return;
        };
        for (kind, bad, when_true, when_false) in [
            ("Ready", "False", "NodeReady", "NodeNotReady"),
            ("MemoryPressure", "True", "NodeHasInsufficientMemory", "NodeHasSufficientMemory"),
            ("DiskPressure", "True", "NodeHasDiskPressure", "NodeHasNoDiskPressure"),
            ("PIDPressure", "True", "NodeHasInsufficientPID", "NodeHasSufficientPID"),
        ] {
            let (was, is) = (status_of(old, kind), status_of(new, kind));
            let Some((is, detail)) = is else { continue };
            if was.is_none_or(|(was, _)| was == is) {
                continue;
            }
            let reason = if is == "True" { when_true } else { when_false };
            let mut message = format!("Node {} status is now: {reason}", self.context.node);
            if is == bad
                && let Some(detail) = detail
            {
                message = format!("{message} ({detail})");
            }
            self.event(if is == bad { Kind::Warning } else { Kind::Normal }, reason, &message);
        }
    }

    fn event(&self, kind: Kind, reason: &str, message: &str) {
        self.context.events.record(&Subject::node(&self.context.node), kind, reason, message);
    }

    fn put(&self, kind: &'static str, node: &Node) {
        if let Ok(body) = serde_json::to_vec(node) {
            let key = Key::new("", self.context.node.as_str());
            self.context.outbox.put(Report { kind, key, uid: String::new(), body: body.into() });
        }
    }
}

/// The largest images, with their names.
fn shown(mut images: Vec<skerry_proto::cri::v1::Image>) -> Vec<ContainerImage> {
    images.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    images
        .into_iter()
        .filter(|i| !i.repo_tags.is_empty() || !i.repo_digests.is_empty())
        .take(MAX_IMAGES)
        .map(|i| ContainerImage {
            names: Some(i.repo_digests.into_iter().chain(i.repo_tags).take(MAX_NAMES).collect()),
            size_bytes: i64::try_from(i.size).ok(),
        })
        .collect()
}
