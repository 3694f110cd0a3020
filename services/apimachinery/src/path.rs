//! What a request path and query mean: resource or not, group, version, namespace, name, subresource, options.
//!
//! Called first for every request, on the connection's task. Invariants: a path is either understood in
//! full or refused (`None`); percent escapes are decoded per segment, so an escaped slash never makes a
//! new segment; empty segments, `.` and `..` never name anything.
//! Limits: [`MAX_SEGMENTS`], [`MAX_QUERY_PAIRS`]. Pure functions: nothing to lose on a crash.

use crate::error::ApiError;

/// More segments than any resource path has.
pub(crate) const MAX_SEGMENTS: usize = 16;
/// More pairs than any known client sends.
pub(crate) const MAX_QUERY_PAIRS: usize = 64;

/// A path below `/api` or `/apis` that names a resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResourcePath {
    /// API group, empty for core.
    pub group: String,
    /// API version, such as `v1`.
    pub version: String,
    /// Namespace, empty for cluster-scoped requests and requests over all namespaces.
    pub namespace: String,
    /// Plural resource.
    pub resource: String,
    /// Object name, empty for a collection.
    pub name: String,
    /// Subresource, such as `status`.
    pub subresource: String,
    /// What comes after the subresource `proxy`, without a slash at either end.
    pub subpath: String,
    /// The deprecated `/watch/` prefix was used.
    pub watch_prefix: bool,
}

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiPath {
    /// A resource.
    Resource(ResourcePath),
    /// Anything else: discovery, health, version, or a path that nobody serves.
    Other(Vec<String>),
}

/// Decodes percent escapes; `None` when an escape is broken or the result is not UTF-8.
pub fn percent_decode(text: &str, plus_is_space: bool) -> Option<String> {
    if !text.contains(['%', '+']) {
        return Some(text.to_owned());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let high = char::from(bytes.next()?).to_digit(16)?;
                let low = char::from(bytes.next()?).to_digit(16)?;
                out.push(u8::try_from(high * 16 + low).ok()?);
            }
            b'+' if plus_is_space => out.push(b' '),
            other => out.push(other),
        }
    }
    String::from_utf8(out).ok()
}

/// Parses a request path. `None`: the path is malformed.
pub fn parse_path(path: &str) -> Option<ApiPath> {
    let mut segments = Vec::new();
    for raw in path.split('/').filter(|s| !s.is_empty()) {
        let segment = percent_decode(raw, false)?;
        if segment == "." || segment == ".." || segment.contains(['/', '\0']) || segments.len() == MAX_SEGMENTS {
            return None;
        }
        segments.push(segment);
    }
    let mut rest = segments.iter().map(String::as_str);
    let (group, version) = match rest.next() {
        Some("api") => ("", rest.next()),
        Some("apis") => match (rest.next(), rest.next()) {
            (Some(group), version) => (group, version),
            _ => return Some(ApiPath::Other(segments)),
        },
        _ => return Some(ApiPath::Other(segments)),
    };
    let (Some(version), Some(mut next)) = (version, rest.next()) else {
        return Some(ApiPath::Other(segments));
    };
    let mut parsed = ResourcePath { group: group.to_owned(), version: version.to_owned(), ..ResourcePath::default() };
    if next == "watch" {
        parsed.watch_prefix = true;
        let Some(after) = rest.next() else { return Some(ApiPath::Other(segments)) };
        next = after;
    }
    if next == "namespaces" {
        // `/namespaces/x/status` is a subresource of the namespace; `/namespaces/x/pods` a resource within it.
        let tail: Vec<&str> = rest.collect();
        match tail.as_slice() {
            [] => parsed.resource = next.to_owned(),
            [name] => (parsed.resource, parsed.name) = (next.to_owned(), (*name).to_owned()),
            [name, sub @ ("status" | "finalize")] if group.is_empty() => {
                (parsed.resource, parsed.name, parsed.subresource) =
                    (next.to_owned(), (*name).to_owned(), (*sub).to_owned());
            }
            [namespace, tail @ ..] => {
                parsed.namespace = (*namespace).to_owned();
                fill(&mut parsed, tail)?;
            }
        }
    } else {
        let tail: Vec<&str> = std::iter::once(next).chain(rest).collect();
        fill(&mut parsed, &tail)?;
    }
    if group.is_empty() && parsed.resource == "namespaces" && !parsed.name.is_empty() {
        parsed.namespace = String::new();
    }
    Some(ApiPath::Resource(parsed))
}

fn fill(parsed: &mut ResourcePath, tail: &[&str]) -> Option<()> {
    match tail {
        [resource] => parsed.resource = (*resource).to_owned(),
        [resource, name] => (parsed.resource, parsed.name) = ((*resource).to_owned(), (*name).to_owned()),
        [resource, name, sub] => {
            (parsed.resource, parsed.name, parsed.subresource) =
                ((*resource).to_owned(), (*name).to_owned(), (*sub).to_owned());
        }
        [resource, name, "proxy", rest @ ..] => {
            (parsed.resource, parsed.name, parsed.subresource) =
                ((*resource).to_owned(), (*name).to_owned(), "proxy".to_owned());
            parsed.subpath = rest.join("/");
        }
        _ => return None,
    }
    Some(())
}

/// How unknown fields in a body are treated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// Drop them silently.
    Ignore,
    /// Drop them and warn.
    #[default]
    Warn,
    /// Refuse the request.
    Strict,
}

/// The query options of every verb.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// `labelSelector`, as given.
    pub label_selector: String,
    /// `fieldSelector`, as given.
    pub field_selector: String,
    /// `limit`: at most so many items in one page; 0 is all.
    pub limit: usize,
    /// `continue` token.
    pub continue_token: String,
    /// `resourceVersion`, as given.
    pub resource_version: String,
    /// `resourceVersionMatch`, as given.
    pub version_match: String,
    /// `watch=true`.
    pub watch: bool,
    /// `allowWatchBookmarks=true`.
    pub bookmarks: bool,
    /// `sendInitialEvents`.
    pub send_initial_events: Option<bool>,
    /// `timeoutSeconds`.
    pub timeout_seconds: Option<u64>,
    /// `dryRun=All`.
    pub dry_run: bool,
    /// `fieldManager`.
    pub field_manager: String,
    /// `force=true` of an apply patch.
    pub force: bool,
    /// `fieldValidation`.
    pub field_validation: FieldValidation,
    /// `gracePeriodSeconds` of a delete.
    pub grace_period_seconds: Option<i64>,
    /// `propagationPolicy` of a delete.
    pub propagation_policy: String,
    /// `orphanDependents` of a delete (deprecated).
    pub orphan_dependents: Option<bool>,
}

impl Query {
    /// Parses a query string. Unknown options are ignored, as Kubernetes does.
    pub fn parse(query: &str) -> Result<Self, ApiError> {
        let mut out = Self::default();
        for (index, pair) in query.split('&').filter(|p| !p.is_empty()).enumerate() {
            if index == MAX_QUERY_PAIRS {
                return Err(ApiError::BadRequest(format!("more than {MAX_QUERY_PAIRS} query parameters")));
            }
            let (name, raw) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_decode(raw, true)
                .ok_or_else(|| ApiError::BadRequest(format!("query parameter {name} is not valid")))?;
            out.set(name, value)?;
        }
        Ok(out)
    }

    fn set(&mut self, name: &str, value: String) -> Result<(), ApiError> {
        let flag = |v: &str| v.is_empty() || v == "true" || v == "1";
        let bad = |v: &str| ApiError::BadRequest(format!("invalid value \"{v}\" for query parameter {name}"));
        match name {
            "labelSelector" => self.label_selector = value,
            "fieldSelector" => self.field_selector = value,
            // A negative limit means no limit, as in Kubernetes.
            "limit" => {
                self.limit =
                    value.parse::<i64>().map_or_else(|_| Err(bad(&value)), |n| Ok(usize::try_from(n).unwrap_or(0)))?
            }
            "continue" => self.continue_token = value,
            "resourceVersion" => self.resource_version = value,
            "resourceVersionMatch" => self.version_match = value,
            "watch" => self.watch = flag(&value),
            "allowWatchBookmarks" => self.bookmarks = flag(&value),
            "sendInitialEvents" => self.send_initial_events = Some(flag(&value)),
            "timeoutSeconds" => self.timeout_seconds = Some(value.parse().map_err(|_| bad(&value))?),
            "dryRun" => match value.as_str() {
                "All" => self.dry_run = true,
                "" => {}
                _ => return Err(bad(&value)),
            },
            "fieldManager" => self.field_manager = value,
            "force" => self.force = flag(&value),
            "fieldValidation" => {
                self.field_validation = match value.as_str() {
                    "Ignore" => FieldValidation::Ignore,
                    "" | "Warn" => FieldValidation::Warn,
                    "Strict" => FieldValidation::Strict,
                    _ => return Err(bad(&value)),
                }
            }
            "gracePeriodSeconds" => self.grace_period_seconds = Some(value.parse().map_err(|_| bad(&value))?),
            "propagationPolicy" => self.propagation_policy = value,
            "orphanDependents" => self.orphan_dependents = Some(flag(&value)),
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn resource(path: &str) -> ResourcePath {
        match parse_path(path).unwrap() {
            ApiPath::Resource(r) => r,
            ApiPath::Other(o) => panic!("{path} is not a resource: {o:?}"),
        }
    }

    #[test]
    fn paths() {
        // path, group, version, namespace, resource, name, subresource, watch
        let table = [
            ("/api/v1/pods", "", "v1", "", "pods", "", "", false),
            ("/api/v1/namespaces/default/pods/web/status", "", "v1", "default", "pods", "web", "status", false),
            ("/api/v1/namespaces", "", "v1", "", "namespaces", "", "", false),
            ("/api/v1/namespaces/x", "", "v1", "", "namespaces", "x", "", false),
            ("/api/v1/namespaces/x/finalize", "", "v1", "", "namespaces", "x", "finalize", false),
            ("/api/v1/namespaces/x/status", "", "v1", "", "namespaces", "x", "status", false),
            ("/apis/apps/v1/namespaces/d/deployments/w/scale", "apps", "v1", "d", "deployments", "w", "scale", false),
            ("/api/v1/watch/namespaces/d/pods", "", "v1", "d", "pods", "", "", true),
            ("/api/v1/nodes/n%2d1", "", "v1", "", "nodes", "n-1", "", false),
        ];
        for (path, group, version, namespace, res, name, sub, watch) in table {
            let r = resource(path);
            assert_eq!(
                (r.group.as_str(), r.version.as_str(), r.namespace.as_str(), r.resource.as_str(), r.name.as_str()),
                (group, version, namespace, res, name),
                "{path}"
            );
            assert_eq!((r.subresource.as_str(), r.watch_prefix), (sub, watch), "{path}");
        }
    }

    #[test]
    fn what_is_proxied() {
        let r = resource("/api/v1/nodes/n/proxy/stats/summary/");
        assert_eq!((r.resource.as_str(), r.name.as_str(), r.subresource.as_str()), ("nodes", "n", "proxy"));
        assert_eq!(r.subpath, "stats/summary");
        assert_eq!(resource("/api/v1/nodes/n/proxy").subpath, "");
        assert!(parse_path("/api/v1/nodes/n/proxy/../x").is_none());
    }

    #[test]
    fn other_and_malformed_paths() {
        for path in ["/", "/healthz", "/api", "/api/v1", "/apis", "/apis/apps", "/apis/apps/v1", "/openapi/v2"] {
            assert!(matches!(parse_path(path), Some(ApiPath::Other(_))), "{path}");
        }
        for path in
            ["/api/v1/pods/..", "/api/v1/namespaces/a/pods/b/c/d", "/api/v1/%zz", "/api/v1/namespaces/a%2fb/pods"]
        {
            assert!(parse_path(path).is_none(), "{path}");
        }
    }

    #[test]
    fn queries() {
        let q = Query::parse("labelSelector=a%3Db%2Cc&limit=500&watch=1&timeoutSeconds=5&fieldValidation=Strict&x=y")
            .unwrap();
        assert_eq!(q.label_selector, "a=b,c");
        assert_eq!((q.limit, q.watch, q.timeout_seconds), (500, true, Some(5)));
        assert_eq!(q.field_validation, FieldValidation::Strict);
        assert!(Query::parse("limit=x").is_err());
        assert!(Query::parse("dryRun=Some").is_err());
        assert!(Query::parse("watch=%z").is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_path_or_query_panics(text in ".{0,80}") {
            let _ = parse_path(&text);
            let _ = parse_path(&format!("/api/v1/{text}"));
            let _ = Query::parse(&text);
        }
    }
}
