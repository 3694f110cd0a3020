//! From the Kubernetes API to the sync protocol and back: what the controllers of the cloud share.
//!
//! EdgeController and DeviceController do the same for different kinds. Downwards: informers fill a cache of
//! trimmed bytes, which knows what each node may see; every subscription is a view of it. Upwards: reports
//! run through lanes to whoever applies them, after their form and their session were checked. A controller
//! adds what its kinds mean: what is written for a report, what is watched beside, what is made for a node.
//!
//! Start reading at `kinds` (the closed table of kinds), `cache` (what a node may see) and `report` (what
//! happens to a report). Nothing here survives a crash, and nothing has to: all of it is rebuilt from the API
//! and from what nodes say that they hold.

mod api;
mod authorize;
mod cache;
mod confirm;
mod events;
mod informer;
mod kinds;
mod metrics;
mod refs;
mod report;
mod service;
mod sessions;
mod sink;
mod source;
mod subs;
mod trim;
mod view;
mod work;

pub use api::{ApiError, KubeApi, Other, Resource};
pub use authorize::{
    Decision, Graph, NOT_ALLOWED, NOT_REFERENCED, OTHER_NODE, OTHER_NODES_DEVICE, OTHER_NODES_POD, Verb, authorize,
};
pub use cache::{Cache, Inner, PodToken, Wake};
pub use confirm::{Confirm, Confirmer, confirm, prove};
pub use events::{Recorded, Tell, Told, create_or_count, cut, tell};
pub use informer::{Informer, Observer};
pub use kinds::Kind;
pub use metrics::{KindLabel, Metrics, Refused};
pub use refs::{References, TokenSpec, of_pod};
pub use report::{API_RETRY, Applied, Apply, Job};
pub use service::{HUB_SERVICE, TaskEnded, Tasks, kube_client, patiently};
pub use sessions::{OnFence, SESSION, Sessions};
pub use sink::SinkService;
pub use source::SourceService;
pub use subs::Subs;
pub use trim::{BoundFacts, Facts, NodeFacts, Trimmed, compress, quick_hash};
pub use view::{Derive, encoding};
pub use work::{RateLimit, RatePerKey, WorkSet};
