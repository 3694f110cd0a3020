//! Removes the pods of a node from a container runtime, for `reset` and `down`.
//!
//! Only sandboxes that carry the label of edged with this node's name are touched: the runtime may
//! serve others too. Safe to repeat; a runtime that is gone has no pods.

use std::path::Path;
use std::time::Duration;

use skerry_proto::cri::v1 as cri;
use skerry_proto::cri::v1::runtime_service_client::RuntimeServiceClient;
use tonic::{Request, Status};

use crate::check::socket_path;
use crate::failure::{Failure, Result};

/// The label that edged puts on everything it makes.
const NODE_LABEL: &str = "skerry.io/node";
/// Stopping a sandbox kills its containers and takes its network away.
const STOP: Duration = Duration::from_secs(60);
/// For the quick calls.
const CALL: Duration = Duration::from_secs(10);

/// Stops and removes every pod of the node.
pub(crate) async fn remove(endpoint: &str, node: &str) -> Result<usize> {
    let path = socket_path(endpoint);
    if !Path::new(&path).exists() {
        return Ok(0);
    }
    let failed = |status: Status| {
        Failure::new("cannot remove the pods of this node")
            .cause(format!("{}: {}", path.display(), status.message()))
            .cure("check the container runtime, then run it again")
    };
    let mut runtime = RuntimeServiceClient::new(crate::dial::unix(&path));
    let filter = cri::PodSandboxFilter {
        label_selector: [(NODE_LABEL.to_owned(), node.to_owned())].into(),
        ..Default::default()
    };
    let request = cri::ListPodSandboxRequest { filter: Some(filter) };
    let found = runtime.list_pod_sandbox(skerry_rpc::deadline(Request::new(request), CALL)).await.map_err(failed)?;
    let sandboxes = found.into_inner().items;
    let count = sandboxes.len();
    for sandbox in sandboxes {
        let stop = cri::StopPodSandboxRequest { pod_sandbox_id: sandbox.id.clone() };
        runtime.stop_pod_sandbox(skerry_rpc::deadline(Request::new(stop), STOP)).await.map_err(failed)?;
        let remove = cri::RemovePodSandboxRequest { pod_sandbox_id: sandbox.id };
        runtime.remove_pod_sandbox(skerry_rpc::deadline(Request::new(remove), CALL)).await.map_err(failed)?;
    }
    Ok(count)
}
