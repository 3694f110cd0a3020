//! Rollouts played through: the plan is carried out on ReplicaSets whose pods become ready step by step.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::plan::{Action, plan};
use super::view::{DESIRED, REVISION};

struct World {
    d: Deployment,
    sets: Vec<ReplicaSet>,
    now: Timestamp,
    /// Readiness that new pods do not reach.
    broken_image: Option<String>,
}

fn deployment(replicas: i32, strategy: Value) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": "d", "namespace": "ns", "uid": "u", "generation": 1},
        "spec": {
            "replicas": replicas, "strategy": strategy, "selector": {"matchLabels": {"app": "a"}},
            "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "v1"}]}}
        }
    }))
    .unwrap()
}

fn rolling(surge: Value, unavailable: Value) -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
}

impl World {
    fn new(d: Deployment) -> Self {
        Self { d, sets: Vec::new(), now: "2026-01-01T00:00:00Z".parse().unwrap(), broken_image: None }
    }

    fn image(&mut self, image: &str) {
        let spec = self.d.spec.as_mut().unwrap();
        spec.template.spec.as_mut().unwrap().containers[0].image = Some(image.to_owned());
        *self.d.metadata.generation.as_mut().unwrap() += 1;
    }

    fn scale(&mut self, replicas: i32) {
        self.d.spec.as_mut().unwrap().replicas = Some(replicas);
        *self.d.metadata.generation.as_mut().unwrap() += 1;
    }

    /// One run of the controller. Returns how many writes it made.
    fn step(&mut self) -> usize {
        self.now += Duration::from_secs(1);
        let sets: Vec<Arc<ReplicaSet>> = self.sets.iter().cloned().map(Arc::new).collect();
        let has_pods = |rs: &ReplicaSet| rs.status.as_ref().is_some_and(|s| s.replicas > 0);
        let plan = plan(&self.d, &sets, has_pods, self.now);
        let count = plan.actions.len();
        for action in plan.actions {
            match action {
                Action::SetRevision(revision) => {
                    self.d.metadata.annotations.get_or_insert_default().insert(REVISION.into(), revision);
                }
                Action::Create(rs) => {
                    let mut rs = *rs;
                    rs.metadata.creation_timestamp = Some(Time(self.now));
                    rs.metadata.uid = rs.metadata.name.clone();
                    self.sets.push(rs);
                }
                Action::Scale { rs, to, annotations, .. } => {
                    let set = self.named(&rs);
                    set.spec.as_mut().unwrap().replicas = Some(to);
                    set.metadata.annotations.get_or_insert_default().extend(annotations);
                }
                Action::Annotate { rs, annotations, .. } => {
                    self.named(&rs).metadata.annotations.get_or_insert_default().extend(annotations);
                }
                Action::Delete(rs) => self.sets.retain(|s| s.metadata.name != rs.metadata.name),
            }
        }
        self.d.status = Some(plan.status);
        count
    }

    fn named(&mut self, rs: &ReplicaSet) -> &mut ReplicaSet {
        self.sets.iter_mut().find(|s| s.metadata.name == rs.metadata.name).unwrap()
    }

    /// The ReplicaSet controller and kubelets: pods follow the spec, at most `ready` more become ready.
    fn pods(&mut self, mut ready: i32) {
        for set in &mut self.sets {
            let wanted = set.spec.as_ref().unwrap().replicas.unwrap();
            let image = set.spec.as_ref().unwrap().template.as_ref().unwrap().spec.as_ref().unwrap().containers[0]
                .image
                .clone();
            let before = set.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0);
            let mut available = before.min(wanted);
            if image != self.broken_image {
                let more = (wanted - available).min(ready);
                available += more;
                ready -= more;
            }
            set.status = Some(ReplicaSetStatus {
                replicas: wanted,
                ready_replicas: Some(available),
                available_replicas: Some(available),
                ..Default::default()
            });
        }
    }

    fn total(&self) -> i32 {
        self.sets.iter().map(|s| s.spec.as_ref().unwrap().replicas.unwrap()).sum()
    }

    fn available(&self) -> i32 {
        self.sets.iter().map(|s| s.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)).sum()
    }

    fn condition(&self, type_: &str) -> String {
        let conditions = self.d.status.as_ref().unwrap().conditions.clone().unwrap_or_default();
        let found = conditions.into_iter().find(|c| c.type_ == type_);
        found.map(|c| format!("{} {}", c.status, c.reason.unwrap())).unwrap_or_default()
    }

    fn sizes(&self) -> Vec<i32> {
        self.sets.iter().map(|s| s.spec.as_ref().unwrap().replicas.unwrap()).collect()
    }

    fn settle(&mut self) {
        for _ in 0..200 {
            let writes = self.step();
            self.pods(1);
            if writes == 0 && self.condition("Progressing") == "True NewReplicaSetAvailable" {
                self.step();
                return;
            }
        }
        panic!("did not settle: {:?} {:?}", self.sizes(), self.d.status);
    }
}

#[test]
fn a_new_deployment_becomes_available() {
    let mut w = World::new(deployment(3, rolling(json!("25%"), json!("25%"))));
    assert_eq!(w.step(), 2);
    assert_eq!(w.sizes(), [3]);
    assert_eq!(w.condition("Progressing"), "True NewReplicaSetCreated");
    assert_eq!(w.condition("Available"), "False MinimumReplicasUnavailable");
    w.settle();
    assert_eq!(w.condition("Available"), "True MinimumReplicasAvailable");
    assert_eq!(w.d.status.as_ref().unwrap().observed_generation, Some(1));
    assert_eq!(w.d.metadata.annotations.as_ref().unwrap()[REVISION], "1");
    assert_eq!(w.sets[0].metadata.annotations.as_ref().unwrap()[DESIRED], "3");
    assert_eq!(w.step(), 0, "nothing left to do");
}

#[test]
fn rollout_and_rollback_number_their_revisions() {
    let mut w = World::new(deployment(2, rolling(json!(1), json!(0))));
    w.settle();
    w.image("v2");
    w.settle();
    assert_eq!(w.sizes(), [0, 2]);
    assert_eq!(w.d.metadata.annotations.as_ref().unwrap()[REVISION], "2");
    // `kubectl rollout undo` writes the old template.
    w.image("v1");
    w.settle();
    assert_eq!(w.sizes(), [2, 0], "the old set is used again");
    assert_eq!(w.d.metadata.annotations.as_ref().unwrap()[REVISION], "3");
    let first = w.sets[0].metadata.annotations.as_ref().unwrap();
    assert_eq!(first[REVISION], "3");
    assert_eq!(first["deployment.kubernetes.io/revision-history"], "1");
}

#[test]
fn recreate_stops_everything_first() {
    let mut w = World::new(deployment(2, json!({"type": "Recreate"})));
    w.settle();
    w.image("v2");
    w.step();
    assert_eq!(w.sizes(), [0]);
    assert_eq!(w.step(), 0, "old pods still run");
    w.pods(9);
    w.step();
    assert_eq!(w.sizes(), [0, 2]);
    w.settle();
}

#[test]
fn a_stuck_rollout_says_so_and_keeps_what_works() {
    let mut w = World::new(deployment(4, rolling(json!(1), json!(1))));
    w.settle();
    w.broken_image = Some("broken".into());
    w.image("broken");
    for _ in 0..20 {
        w.step();
        w.pods(1);
        assert!(w.available() >= 3);
    }
    assert_eq!(w.condition("Progressing"), "True ReplicaSetUpdated");
    w.now += Duration::from_secs(601);
    w.step();
    assert_eq!(w.condition("Progressing"), "False ProgressDeadlineExceeded");
    w.image("v1");
    w.settle();
    assert_eq!(w.sizes(), [4, 0]);
}

#[test]
fn old_sets_beyond_the_limit_go() {
    let mut d = deployment(1, rolling(json!(1), json!(0)));
    d.spec.as_mut().unwrap().revision_history_limit = Some(1);
    let mut w = World::new(d);
    for image in ["v1", "v2", "v3", "v4"] {
        w.image(image);
        w.settle();
        w.pods(9);
        w.step();
    }
    assert_eq!(w.sets.len(), 2, "the current one and one old");
}

#[test]
fn paused_deployments_scale_but_do_not_roll() {
    let mut w = World::new(deployment(4, rolling(json!(1), json!(0))));
    w.settle();
    w.d.spec.as_mut().unwrap().paused = Some(true);
    w.image("v2");
    w.step();
    assert_eq!(w.sizes(), [4]);
    assert_eq!(w.condition("Progressing"), "Unknown DeploymentPaused");
    let before = w.d.status.clone();
    w.step();
    assert_eq!(w.d.status, before, "no write without a change");
    w.scale(6);
    w.step();
    assert_eq!(w.sizes(), [6]);
    w.d.spec.as_mut().unwrap().paused = None;
    w.settle();
    assert_eq!(w.sizes(), [0, 6]);
}

#[test]
fn scaling_in_the_middle_keeps_the_shares() {
    let mut w = World::new(deployment(10, rolling(json!(3), json!(2))));
    w.settle();
    w.broken_image = Some("broken".into());
    w.image("broken");
    for _ in 0..5 {
        w.step();
        w.pods(9);
    }
    assert_eq!(w.sizes(), [8, 5]);
    w.scale(15);
    w.step();
    assert_eq!(w.sizes(), [11, 7], "the example of the Kubernetes documentation");
    w.step();
    assert_eq!(w.total(), 18);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn a_rolling_update_keeps_its_limits(
        replicas in 1_i32..12, surge in 0_i32..4, unavailable in 0_i32..4,
        ready in proptest::collection::vec(0_i32..4, 1..20),
    ) {
        let mut w = World::new(deployment(replicas, rolling(json!(surge), json!(unavailable))));
        w.settle();
        w.image("v2");
        let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable.min(replicas) };
        for n in ready {
            w.step();
            prop_assert!(w.total() <= replicas + surge, "too many: {:?}", w.sizes());
            w.pods(n);
            prop_assert!(w.available() >= replicas - unavailable, "too few available: {}", w.available());
        }
        w.settle();
        prop_assert_eq!(w.sizes(), vec![0, replicas]);
        prop_assert_eq!(w.step(), 0);
    }
}
