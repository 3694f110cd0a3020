//! What the files of configMap, secret, downwardAPI and projected volumes hold.
//!
//! Pure: objects are read from memory, nothing is written. Invariants: every path is relative, stays
//! inside, and does not begin with `..` (which the atomic scheme keeps for itself); an optional
//! source that is missing adds nothing; a later source of a projection wins over an earlier one.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, Pod, ServiceAccountTokenProjection, Volume};

use super::atomic::File;
use crate::env::{Problem, no_config_map, no_secret};
use crate::fields::{self, Facts};
use crate::objects::Objects;
use crate::pod::spec::PodExt;

/// Mode of files when neither volume nor item says another.
const DEFAULT_MODE: i32 = 0o644;
/// Life of a token when the projection does not say.
const DEFAULT_TOKEN_SECONDS: i64 = 3600;
/// The kernel's longest path, and Kubernetes' longest key.
const MAX_PATH: usize = 4096;
const MAX_NAME: usize = 253;

/// Whether a path of an item or a key stays inside its volume.
pub(crate) fn path_is_safe(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= MAX_PATH
        && !path.starts_with('/')
        && !path.starts_with("..")
        && !path.contains('\0')
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != ".." && part.len() <= MAX_NAME)
}

type Files = BTreeMap<String, File>;

struct Collector<'a> {
    pod: &'a Pod,
    objects: &'a Objects,
    facts: &'a Facts,
    mode: i32,
    group: Option<u32>,
    files: Files,
}

/// The files of a volume.
pub(super) fn collect(
    pod: &Pod,
    volume: &Volume,
    objects: &Objects,
    facts: &Facts,
    group: Option<u32>,
) -> Result<Files, Problem> {
    let mut all = Collector { pod, objects, facts, mode: DEFAULT_MODE, group, files: Files::new() };
    if let Some(source) = &volume.config_map {
        all.mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        all.config_map(&source.name, source.items.as_deref(), source.optional)?;
    } else if let Some(source) = &volume.secret {
        all.mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        all.secret(source.secret_name.as_deref().unwrap_or_default(), source.items.as_deref(), source.optional)?;
    } else if let Some(source) = &volume.downward_api {
        all.mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        all.downward(source.items.as_deref())?;
    } else if let Some(projected) = &volume.projected {
        all.mode = projected.default_mode.unwrap_or(DEFAULT_MODE);
        for source in projected.sources.iter().flatten() {
            if let Some(s) = &source.config_map {
                all.config_map(&s.name, s.items.as_deref(), s.optional)?;
            }
            if let Some(s) = &source.secret {
                all.secret(&s.name, s.items.as_deref(), s.optional)?;
            }
            if let Some(s) = &source.downward_api {
                all.downward(s.items.as_deref())?;
            }
            if let Some(s) = &source.service_account_token {
                all.token(s)?;
            }
            if source.cluster_trust_bundle.is_some() {
                return Err(Problem::Config("clusterTrustBundle projections are not supported".into()));
            }
        }
    }
    Ok(all.files)
}

impl Collector<'_> {
    fn put(&mut self, path: &str, content: Vec<u8>, mode: Option<i32>) -> Result<(), Problem> {
        if !path_is_safe(path) {
            return Err(Problem::Config(format!(
                "invalid path {path:?}: it must be relative and must not contain '..'"
            )));
        }
        // A file and a directory cannot share a name.
        let clash = self.files.keys().any(|other| is_below(other, path) || is_below(path, other));
        if clash {
            return Err(Problem::Config(format!("the path {path:?} is a file and a directory")));
        }
        let mut mode = u32::try_from(mode.unwrap_or(self.mode)).unwrap_or(0o644) & 0o777;
        if self.group.is_some() {
            mode |= 0o440;
        }
        self.files.insert(path.to_owned(), File { content, mode, owner: None, group: self.group });
        Ok(())
    }

    fn put_all(
        &mut self,
        data: &BTreeMap<&str, &[u8]>,
        items: Option<&[KeyToPath]>,
        optional: bool,
        what: &str,
    ) -> Result<(), Problem> {
        let Some(items) = items.filter(|i| !i.is_empty()) else {
            for (key, value) in data {
                self.put(key, value.to_vec(), None)?;
            }
            return Ok(());
        };
        for item in items {
            match data.get(item.key.as_str()) {
                Some(value) => self.put(&item.path, value.to_vec(), item.mode)?,
                None if optional => {}
                None => {
                    return Err(Problem::Config(format!("{what} references non-existent {what} key: {}", item.key)));
                }
            }
        }
        Ok(())
    }

    fn config_map(&mut self, name: &str, items: Option<&[KeyToPath]>, optional: Option<bool>) -> Result<(), Problem> {
        let optional = optional.unwrap_or(false);
        let Some(map) = self.objects.config_map(self.pod.namespace(), name) else {
            return if optional { Ok(()) } else { Err(no_config_map(self.objects, name)) };
        };
        let text = map.data.iter().flatten().map(|(k, v)| (k.as_str(), v.as_bytes()));
        let binary = map.binary_data.iter().flatten().map(|(k, v)| (k.as_str(), v.0.as_slice()));
        self.put_all(&text.chain(binary).collect(), items, optional, "configmap")
    }

    fn secret(&mut self, name: &str, items: Option<&[KeyToPath]>, optional: Option<bool>) -> Result<(), Problem> {
        let optional = optional.unwrap_or(false);
        let Some(secret) = self.objects.secret(self.pod.namespace(), name) else {
            return if optional { Ok(()) } else { Err(no_secret(self.objects, name)) };
        };
        let data = secret.data.iter().flatten().map(|(k, ByteString(v))| (k.as_str(), v.as_slice())).collect();
        self.put_all(&data, items, optional, "secret")
    }

    fn downward(&mut self, items: Option<&[DownwardAPIVolumeFile]>) -> Result<(), Problem> {
        for item in items.unwrap_or_default() {
            let value = if let Some(field) = &item.field_ref {
                fields::pod_field(self.pod, &field.field_path, self.facts)
                    .ok_or_else(|| Problem::Config(format!("field path {:?} is not supported", field.field_path)))?
            } else if let Some(selector) = &item.resource_field_ref {
                fields::resource_field(self.pod, None, selector, self.facts)
                    .ok_or_else(|| Problem::Config(format!("unsupported container resource: {}", selector.resource)))?
            } else {
                continue;
            };
            self.put(&item.path, value.into_bytes(), item.mode)?;
        }
        Ok(())
    }

    fn token(&mut self, source: &ServiceAccountTokenProjection) -> Result<(), Problem> {
        let audience = source.audience.as_deref().unwrap_or_default();
        let seconds = source.expiration_seconds.unwrap_or(DEFAULT_TOKEN_SECONDS);
        let Some(token) = self.objects.token(self.pod.uid(), audience, seconds) else {
            // The cloud issues it after it has bound the pod, so it comes a moment later.
            let what = self.pod.spec().service_account_name.as_deref().unwrap_or("default");
            return Err(Problem::Pending(format!(
                "failed to fetch token: the cloud has not issued one for service account {what:?} yet"
            )));
        };
        let mode = self.mode;
        self.put(&source.path, token.token.clone().into_bytes(), Some(mode))?;
        // Readable by the one user that the pod runs as, or by its group, and by nobody else.
        let user = user_of_all(self.pod);
        if let Some(file) = self.files.get_mut(&source.path) {
            if self.group.is_some() {
                file.mode = 0o640;
            } else if user.is_some() {
                (file.owner, file.mode) = (user, 0o600);
            }
        }
        Ok(())
    }
}

/// The user that all containers run as, if there is one.
fn user_of_all(pod: &Pod) -> Option<u32> {
    let of_pod = pod.spec().security_context.as_ref().and_then(|c| c.run_as_user);
    let of_each = pod.init_containers().iter().chain(pod.containers());
    let mut users = of_each.map(|c| c.security_context.as_ref().and_then(|s| s.run_as_user).or(of_pod));
    let first = users.next()??;
    users.all(|user| user == Some(first)).then(|| u32::try_from(first).ok()).flatten()
}

fn is_below(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
}
