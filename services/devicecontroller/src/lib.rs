//! DeviceController: Source and Sink for devices, their conditions, and admission.
//!
//! It stands between the Kubernetes API and CloudHub. Downwards it sends each node its Devices and their
//! DeviceModels; upwards it writes what nodes report of them, after the node authorizer allowed it: the
//! DeviceStatus, the conditions of the Device, and desired values that were set on the node. It judges what a
//! node cannot know: a model or node that is missing, a node that is away. For the API server it judges
//! Devices and DeviceModels before they are stored, where a schema cannot. It keeps nothing that it cannot
//! rebuild from the API and from what nodes say that they hold.
//!
//! Start reading at `app` (how the parts are put together), `judge` (what the conditions say) and `writer`
//! (how they reach the API).

mod app;
mod apply;
mod config;
mod error;
mod judge;
mod known;
mod merge;
mod metrics;
mod register;
mod told;
mod validate;
mod value;
mod webhook;
mod writer;

pub use app::{DeviceController, Sockets, kube_client};
pub use config::Config;
pub use error::DeviceControllerError;
