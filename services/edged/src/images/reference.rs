//! Names of images: whether one can be one, and its long form. Pure.
//!
//! Short names are those of Docker Hub, as everywhere: `nginx` is `docker.io/library/nginx:latest`.

/// The registry of names without one.
pub(super) const DEFAULT_REGISTRY: &str = "docker.io";
/// As the registries' specification has it.
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

/// An image by registry, path, and tag or digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    pub(super) registry: String,
    pub(super) path: String,
    /// Empty when only a digest was given.
    pub(super) tag: String,
    pub(super) digest: String,
}

impl Reference {
    /// `None`: this cannot be the name of an image.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (rest, digest) = match name.split_once('@') {
            Some((rest, digest)) => (rest, digest),
            None => (name, ""),
        };
        let slash = rest.rfind('/').map_or(0, |i| i + 1);
        let colon = rest.get(slash..)?.find(':').map(|i| slash + i);
        let (repository, tag) = match colon {
            Some(i) => (rest.get(..i)?, rest.get(i + 1..)?),
            None => (rest, ""),
        };
        let (registry, path) = match repository.split_once('/') {
            Some((first, path)) if first.contains(['.', ':']) || first == "localhost" => (first, path.to_owned()),
            Some(_) => (DEFAULT_REGISTRY, repository.to_owned()),
            None => (DEFAULT_REGISTRY, format!("library/{repository}")),
        };
        let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
        let fits = path_is_valid(&path)
            && (colon.is_none() || tag_is_valid(tag))
            && (!name.contains('@') || digest_is_valid(digest))
            && registry.bytes().all(|b| b.is_ascii_alphanumeric() || b".:-[]_".contains(&b))
            && registry.len() + path.len() < MAX_NAME;
        let tag = if tag.is_empty() && digest.is_empty() { "latest" } else { tag };
        fits.then(|| Self { registry: registry.to_owned(), path, tag: tag.to_owned(), digest: digest.to_owned() })
    }

    /// Whether a runtime's name of an image means this one.
    pub(super) fn is(&self, other: &str) -> bool {
        Self::parse(other).is_some_and(|o| {
            let repository = o.registry == self.registry && o.path == self.path;
            let by_digest = !self.digest.is_empty() && o.digest == self.digest;
            repository && (by_digest || (self.digest.is_empty() && !o.tag.is_empty() && o.tag == self.tag))
        })
    }
}

/// Parts of small letters and digits, with single separators between them.
fn path_is_valid(path: &str) -> bool {
    let part = |part: &str| {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        part.bytes().all(|b| plain(b) || b"._-".contains(&b))
            && part.bytes().next().is_some_and(plain)
            && part.bytes().last().is_some_and(plain)
            && !part.contains("..")
    };
    path.split('/').all(part)
}

fn tag_is_valid(tag: &str) -> bool {
    let first = tag.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    first && tag.len() <= MAX_TAG && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

fn digest_is_valid(digest: &str) -> bool {
    digest.split_once(':').is_some_and(|(algorithm, hex)| {
        !algorithm.is_empty() && hex.len() >= 32 && hex.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn short_names_have_a_long_form() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (name, registry, path, tag) in [
            ("a", "docker.io", "library/a", "latest"),
            ("a/b:1", "docker.io", "a/b", "1"),
            ("localhost/a", "localhost", "a", "latest"),
            ("host:5000/a/b:v1", "host:5000", "a/b", "v1"),
            ("index.docker.io/library/a", "docker.io", "library/a", "latest"),
            (&format!("r.io/a@{digest}"), "r.io", "a", ""),
        ] {
            let r = Reference::parse(name).unwrap();
            assert_eq!((r.registry.as_str(), r.path.as_str(), r.tag.as_str()), (registry, path, tag), "{name}");
        }
        assert!(Reference::parse("a").unwrap().is("docker.io/library/a:latest"));
        assert!(!Reference::parse("a:1").unwrap().is("docker.io/library/a:latest"));
        assert!(Reference::parse(&format!("r.io/a:1@{digest}")).unwrap().is(&format!("r.io/a@{digest}")));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for bad in ["", "A", "a b", "a:", "a@", "a@sha256:1", "-a", "a//b", "a/../b", "r.io/", "a:-x", "/a"] {
            assert_eq!(Reference::parse(bad), None, "{bad}");
        }
    }
}
