//! PodStatus and PodDeletion.
//!
//! Both concern exactly one pod object: the one with the reported uid. When it is gone, or another pod has
//! its name, the report is committed without a write, and the node is told to look again, so that the
//! tombstone or the new pod reaches it.

use serde_json::Value;

use skerry_kubesync::{API_RETRY, ApiError, Applied, Job, Kind, Verb, quick_hash};

use super::Applier;

/// The pod of a report, as far as it is known.
enum Target {
    /// It is there and the node's own; hash of its status.
    Here(u64),
    /// It is gone; nothing that is reported of it matters any more.
    Gone,
}

impl Applier {
    pub(super) async fn pod_status(&self, job: &Job) -> Applied {
        self.try_pod_status(job).await.unwrap_or_else(|answer| answer)
    }

    pub(super) async fn pod_deletion(&self, job: &Job) -> Applied {
        self.try_pod_deletion(job).await.unwrap_or_else(|answer| answer)
    }

    async fn try_pod_status(&self, job: &Job) -> Result<Applied, Applied> {
        let uid = uid(job)?;
        let Some(status) = job.body.get("status").and_then(Value::as_object) else {
            return Err(Applied::rejected("the report has no status"));
        };
        let Target::Here(current) = self.target(job, &uid, Verb::UpdateStatus).await? else {
            return Ok(self.gone(job));
        };
        let report = quick_hash(&job.body);
        if self.written.is_same(&uid, report, current) {
            return Ok(Applied::Committed);
        }
        self.turn(&self.statuses, job).await?;
        match self.write_status(Kind::Pod, &job.key, Some(&uid), status).await {
            Ok(result) => {
                self.written.remember(&uid, report, result);
                Ok(Applied::Committed)
            }
            Err(ApiError::NotFound) => {
                self.prove(Kind::Pod, &job.key).await?;
                Ok(self.gone(job))
            }
            Err(error @ ApiError::Conflict(_)) => {
                // The uid did not match, or somebody was faster: see what is there now.
                self.prove(Kind::Pod, &job.key).await?;
                match self.target(job, &uid, Verb::UpdateStatus).await? {
                    Target::Gone => Ok(self.gone(job)),
                    Target::Here(_) => Err(Applied::failed(&error)),
                }
            }
            Err(error) => Err(Applied::failed(&error)),
        }
    }

    async fn try_pod_deletion(&self, job: &Job) -> Result<Applied, Applied> {
        let uid = uid(job)?;
        let Target::Here(_) = self.target(job, &uid, Verb::Delete).await? else {
            return Ok(self.gone(job));
        };
        self.turn(&self.statuses, job).await?;
        match self.api.delete(Kind::Pod, &job.key, &uid, Some(0)).await {
            Ok(()) => {}
            // Gone, or another pod has the name: what was to be deleted is not there.
            Err(ApiError::NotFound | ApiError::Conflict(_)) => {
                self.prove(Kind::Pod, &job.key).await?;
                if let Target::Here(_) = self.target(job, &uid, Verb::Delete).await? {
                    let after = API_RETRY;
                    return Err(Applied::Later { after, reason: "the pod was not deleted".to_owned() });
                }
            }
            Err(error) => return Err(Applied::failed(&error)),
        }
        self.written.forget(&uid);
        Ok(self.gone(job))
    }

    /// Finds the pod of a report. What the cache has is believed when the uid is the reported one;
    /// otherwise the API server is asked, because the cache may be behind.
    async fn target(&self, job: &Job, uid: &str, verb: Verb) -> Result<Target, Applied> {
        if self.cache.bound(&job.key).is_none_or(|(known, _)| &*known != uid) {
            self.prove(Kind::Pod, &job.key).await?;
        }
        match self.cache.bound(&job.key) {
            Some((known, facts)) if &*known == uid => {
                self.allowed(job, verb, Kind::Pod, &job.key).await?;
                Ok(Target::Here(facts.status_hash))
            }
            _ => Ok(Target::Gone),
        }
    }

    fn gone(&self, job: &Job) -> Applied {
        self.subs.wake(&job.node, Kind::Pod, &job.key);
        Applied::Committed
    }
}

fn uid(job: &Job) -> Result<String, Applied> {
    let own = job.body.get("metadata").and_then(|meta| meta.get("uid")).and_then(Value::as_str).unwrap_or_default();
    match (job.uid.as_str(), own) {
        ("", "") => Err(Applied::rejected("the report names no uid")),
        ("", uid) | (uid, "") => Ok(uid.to_owned()),
        (a, b) if a == b => Ok(a.to_owned()),
        _ => Err(Applied::rejected("the report names two uids")),
    }
}
