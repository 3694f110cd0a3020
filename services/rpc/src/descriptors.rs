//! What the protocol's descriptors say: which methods exist, which are unary, and the files that
//! reflection may show.
//!
//! Read once per process. The descriptors are embedded in the binary; if they cannot be read the
//! program was built wrongly, and binding a server says so.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::OnceLock;

use prost::Message as _;
use prost_types::{FileDescriptorProto, FileDescriptorSet};

use crate::error::BindError;
use crate::policy::Policy;

/// Health, reflection for today's tools, and reflection for those of yesterday (Python's client).
pub(crate) const HEALTH: &str = "grpc.health.v1.Health";
pub(crate) const REFLECTION: &str = "grpc.reflection.v1.ServerReflection";
pub(crate) const REFLECTION_ALPHA: &str = "grpc.reflection.v1alpha.ServerReflection";

/// Path of a method (`/service/Method`) → whether it is unary.
fn methods() -> &'static HashMap<String, bool> {
    static METHODS: OnceLock<HashMap<String, bool>> = OnceLock::new();
    METHODS.get_or_init(|| {
        let mut methods = HashMap::new();
        for file in files().unwrap_or_default() {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    methods.insert(path, !method.client_streaming() && !method.server_streaming());
                }
            }
        }
        methods
    })
}

fn files() -> Result<Vec<FileDescriptorProto>, prost::DecodeError> {
    let mut all = Vec::new();
    for set in [
        skerry_proto::FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ] {
        all.extend(FileDescriptorSet::decode(set)?.file);
    }
    Ok(all)
}

/// Whether the method takes one message and gives one. Unknown methods count as streaming: they get
/// no deadline that nobody asked for.
pub(crate) fn is_unary(path: &str) -> bool {
    methods().get(path).copied().unwrap_or(false)
}

/// Checks that everything in the table exists.
pub(crate) fn check(policy: &Policy) -> Result<(), BindError> {
    let known = methods();
    let services: HashSet<&str> =
        known.keys().filter_map(|path| path.strip_prefix('/')?.split_once('/')).map(|(service, _)| service).collect();
    for (service, method) in policy.entries() {
        let exists = method
            .map_or_else(|| services.contains(service), |method| known.contains_key(&format!("/{service}/{method}")));
        if !exists {
            let name = method.map_or_else(|| service.to_owned(), |method| format!("{service}/{method}"));
            return Err(BindError::UnknownMethod(name));
        }
    }
    Ok(())
}

/// The files that define the services, and those that they import; nothing else is shown.
pub(crate) fn files_of(services: &[&str]) -> Result<FileDescriptorSet, BindError> {
    let all: BTreeMap<String, FileDescriptorProto> = files()
        .map_err(|error| BindError::Descriptors(Box::new(error)))?
        .into_iter()
        .map(|file| (file.name().to_owned(), file))
        .collect();
    let mut wanted: Vec<String> = all
        .values()
        .filter(|file| {
            let package = file.package();
            file.service.iter().any(|service| services.contains(&format!("{package}.{}", service.name()).as_str()))
        })
        .map(|file| file.name().to_owned())
        .collect();
    let mut chosen = BTreeMap::new();
    // Ends: each file is taken once, and there are finitely many.
    while let Some(name) = wanted.pop() {
        if !chosen.contains_key(&name)
            && let Some(file) = all.get(&name)
        {
            wanted.extend(file.dependency.iter().cloned());
            chosen.insert(name, file.clone());
        }
    }
    Ok(FileDescriptorSet { file: chosen.into_values().collect() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::policy::Caller;

    #[test]
    fn methods_are_known_with_their_shape() {
        assert!(is_unary("/skerry.identity.v1.Identity/Join"));
        assert!(is_unary("/grpc.health.v1.Health/Check"));
        assert!(!is_unary("/skerry.sync.v1.Source/Subscribe"));
        assert!(!is_unary("/grpc.health.v1.Health/Watch"));
        assert!(!is_unary("/no.such.Service/Method"));
    }

    #[test]
    fn a_table_that_names_what_does_not_exist_is_refused() {
        let table = |what| check(&Policy::new().allow(what, &[Caller::Node]));
        assert!(table("skerry.sync.v1.Source").is_ok());
        assert!(table("skerry.sync.v1.Source/Subscribe").is_ok());
        assert!(table("skerry.sync.v1.Sauce").is_err());
        assert!(table("skerry.sync.v1.Source/Subscrbe").is_err());
    }

    #[test]
    fn reflection_shows_only_the_files_of_the_services() {
        let set = files_of(&["skerry.identity.v1.Identity"]).unwrap();
        let services: Vec<_> = set.file.iter().flat_map(|f| &f.service).map(|s| s.name().to_owned()).collect();
        assert!(services.contains(&"Identity".to_owned()));
        assert!(!services.contains(&"Source".to_owned()));
    }
}
