//! Builds small container images as OCI archives, in memory and without any tool.
//!
//! Called by the private runtime when an image is missing, on a blocking thread. An archive is the
//! OCI image layout in a tar: one layer, one config, one manifest, one index that carries the name.
//!
//! Invariants: the same image gives the same bytes (no times, fixed order), so that a second import
//! changes nothing. Limits: the whole archive is in memory; these images are a few MB. A file that
//! cannot be read fails the build before anything is written.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use aws_lc_rs::digest;
use serde_json::json;

use crate::error::Error;

/// What a file in an image holds.
#[derive(Debug, Clone)]
pub enum FileContent {
    /// These bytes.
    Bytes(Vec<u8>),
    /// A copy of a file of this machine.
    CopyOf(PathBuf),
    /// A symbolic link to this target.
    Link(String),
    /// A directory.
    Directory,
}

/// One entry in an image.
#[derive(Debug, Clone)]
pub struct ImageFile {
    /// Path without a leading slash, at most 100 bytes.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// What it holds.
    pub content: FileContent,
}

/// A container image to be built.
#[derive(Debug, Clone)]
pub struct Image {
    /// Full name with registry and tag.
    pub name: String,
    /// Entries of the only layer; parents before children.
    pub files: Vec<ImageFile>,
    /// The entry point.
    pub entrypoint: Vec<String>,
    /// Default arguments.
    pub cmd: Vec<String>,
    /// Environment, `NAME=value`.
    pub env: Vec<String>,
    /// User, as a number or a name; empty is root.
    pub user: String,
}

const PATH_ENV: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// A static program that waits and reaps, from the package catatonit: with a shared process namespace
/// the sandbox's first process is the parent of every orphan of the pod.
const PAUSE: &str = "/usr/bin/catatonit";
/// Where Debian's busybox-static puts its program.
const BUSYBOX: &str = "/bin/busybox";

/// Where programs name their loader.
#[cfg(target_arch = "x86_64")]
const LOADER: &str = "lib64/ld-linux-x86-64.so.2";
/// Where programs name their loader.
#[cfg(not(target_arch = "x86_64"))]
const LOADER: &str = "lib/ld-linux-aarch64.so.1";

/// The shared libraries in a table of a process's memory (`proc_pid_maps(5)`), each once.
fn libraries(table: &str) -> BTreeSet<&str> {
    let paths = table.lines().filter_map(|line| line.split_whitespace().nth(5));
    paths.filter(|path| path.starts_with('/') && path.contains(".so")).collect()
}

impl Image {
    /// An image with the machine's static busybox and all its applets; runs a shell by default.
    pub fn busybox(name: &str) -> Self {
        let mut image = Self::base(name);
        for applet in applets() {
            if applet != "busybox" {
                image.files.push(ImageFile {
                    path: format!("bin/{applet}"),
                    mode: 0o777,
                    content: FileContent::Link("busybox".into()),
                });
            }
        }
        image.cmd = vec!["/bin/sh".into()];
        image
    }

    /// An image that runs a program of this machine, with the shared libraries that this very process runs
    /// with: enough for what comes from the same build.
    ///
    /// # Errors
    /// When the libraries cannot be found out.
    pub fn program(name: &str, program: &Path) -> Result<Self, Error> {
        let maps = Path::new("/proc/self/maps");
        let table = fs::read_to_string(maps).map_err(|e| Error::io(maps, e))?;
        let mut image = Self::base(name);
        for library in libraries(&table) {
            let path = library.trim_start_matches('/').to_owned();
            image.add_parents(&path);
            image.files.push(ImageFile { path, mode: 0o755, content: FileContent::CopyOf(library.into()) });
        }
        let file = program.file_name().unwrap_or_default().to_string_lossy();
        let path = format!("bin/{file}");
        image.entrypoint = vec![format!("/{path}")];
        image.files.push(ImageFile { path, mode: 0o755, content: FileContent::CopyOf(program.to_owned()) });
        // The kernel looks for the loader where the program names it, which may be a link on this machine.
        image.add_parents(LOADER);
        if !image.files.iter().any(|f| f.path == LOADER) && Path::new("/").join(LOADER).exists() {
            let content = FileContent::CopyOf(Path::new("/").join(LOADER));
            image.files.push(ImageFile { path: LOADER.into(), mode: 0o755, content });
        }
        Ok(image)
    }

    fn add_parents(&mut self, path: &str) {
        for (at, _) in path.match_indices('/') {
            let parent = path.get(..at).unwrap_or_default();
            if !self.files.iter().any(|f| f.path == parent) {
                let content = FileContent::Directory;
                self.files.push(ImageFile { path: parent.into(), mode: 0o755, content });
            }
        }
    }

    /// The image of the sandbox container: a process that waits and reaps.
    pub fn pause(name: &str) -> Self {
        Self {
            name: name.into(),
            files: vec![ImageFile { path: "pause".into(), mode: 0o755, content: FileContent::CopyOf(PAUSE.into()) }],
            entrypoint: vec!["/pause".into(), "-P".into()],
            cmd: Vec::new(),
            env: vec![PATH_ENV.into()],
            user: String::new(),
        }
    }

    fn base(name: &str) -> Self {
        let dir = |path: &str, mode| ImageFile { path: path.into(), mode, content: FileContent::Directory };
        let text = |path: &str, text: &str| ImageFile {
            path: path.into(),
            mode: 0o644,
            content: FileContent::Bytes(text.as_bytes().to_vec()),
        };
        Self {
            name: name.into(),
            files: vec![
                dir("bin", 0o755),
                dir("etc", 0o755),
                dir("proc", 0o555),
                dir("sys", 0o555),
                dir("dev", 0o755),
                dir("tmp", 0o1777),
                dir("root", 0o700),
                text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
                text("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
                ImageFile { path: "bin/busybox".into(), mode: 0o755, content: FileContent::CopyOf(BUSYBOX.into()) },
            ],
            entrypoint: Vec::new(),
            cmd: Vec::new(),
            env: vec![PATH_ENV.into()],
            user: String::new(),
        }
    }

    /// The OCI archive.
    ///
    /// # Errors
    /// When a file to be copied cannot be read.
    pub fn archive(&self) -> Result<Vec<u8>, Error> {
        let mut layer = Tar::default();
        for file in &self.files {
            match &file.content {
                FileContent::Bytes(bytes) => layer.file(&file.path, file.mode, bytes),
                FileContent::CopyOf(source) => {
                    let bytes = fs::read(source).map_err(|e| Error::io(source, e))?;
                    layer.file(&file.path, file.mode, &bytes);
                }
                FileContent::Link(target) => layer.entry(&file.path, file.mode, b'2', target, &[]),
                FileContent::Directory => layer.entry(&format!("{}/", file.path), file.mode, b'5', "", &[]),
            }
        }
        let layer = layer.finish();
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "riscv64" => "riscv64",
            other => other,
        };
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "config": {
                "Entrypoint": self.entrypoint, "Cmd": self.cmd, "Env": self.env, "User": self.user, "WorkingDir": "/",
            },
            "rootfs": { "type": "layers", "diff_ids": [digest_of(&layer)] },
        })
        .to_string()
        .into_bytes();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
        })
        .to_string()
        .into_bytes();
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
        if let Some(entry) = entry.as_object_mut() {
            entry.insert("annotations".into(), json!({ "io.containerd.image.name": self.name }));
        }
        let index = json!({ "schemaVersion": 2, "manifests": [entry] }).to_string();

        let mut tar = Tar::default();
        tar.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#);
        tar.file("index.json", 0o644, index.as_bytes());
        for blob in [&config, &manifest, &layer] {
            tar.file(&format!("blobs/sha256/{}", hex_of(blob)), 0o644, blob);
        }
        Ok(tar.finish())
    }
}

fn applets() -> Vec<String> {
    let listed = Command::new(BUSYBOX).arg("--list").output();
    let listed = listed.map(|out| String::from_utf8_lossy(&out.stdout).into_owned()).unwrap_or_default();
    let plain = |l: &&str| !l.is_empty() && l.chars().all(|c| c.is_ascii_alphanumeric() || "[._-".contains(c));
    listed.lines().filter(plain).map(str::to_owned).collect()
}

fn hex_of(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex_of(bytes))
}

fn descriptor(media_type: &str, bytes: &[u8]) -> serde_json::Value {
    json!({ "mediaType": media_type, "digest": digest_of(bytes), "size": bytes.len() })
}

/// The part of the ustar format that images need.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    const BLOCK: usize = 512;

    fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entry(path, mode, b'0', "", content);
    }

    fn entry(&mut self, path: &str, mode: u32, kind: u8, link: &str, content: &[u8]) {
        let mut header = Vec::with_capacity(Self::BLOCK);
        let mut field = |text: &[u8], width: usize| {
            let taken = text.len().min(width);
            header.extend(text.iter().take(taken));
            header.resize(header.len() + width - taken, 0);
        };
        field(path.as_bytes(), 100);
        field(format!("{mode:07o}").as_bytes(), 8);
        field(b"0000000", 8); // owner
        field(b"0000000", 8); // group
        field(format!("{:011o}", content.len()).as_bytes(), 12);
        field(b"00000000000", 12); // time
        field(b"        ", 8); // checksum, counted as blanks
        field(&[kind], 1);
        field(link.as_bytes(), 100);
        field(b"ustar\x0000", 8);
        field(b"", Self::BLOCK - 265);
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        for (slot, byte) in header.iter_mut().skip(148).zip(format!("{sum:06o}\0 ").bytes()) {
            *slot = byte;
        }
        self.0.extend(header);
        self.0.extend_from_slice(content);
        let rest = content.len() % Self::BLOCK;
        if rest > 0 {
            self.0.resize(self.0.len() + Self::BLOCK - rest, 0);
        }
    }

    fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 2 * Self::BLOCK, 0);
        self.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn the_same_image_gives_the_same_bytes() {
        let mut image = Image::pause("a.test/b:1");
        image.files.retain(|f| !matches!(f.content, FileContent::CopyOf(_)));
        assert_eq!(image.archive().unwrap(), image.archive().unwrap());
    }

    #[test]
    fn tar_headers_are_blocks_with_a_right_checksum() {
        let mut tar = Tar::default();
        tar.file("a", 0o644, b"hello");
        let bytes = tar.finish();
        assert_eq!(bytes.len(), 512 * 4);
        let sum: u32 = bytes[..512]
            .iter()
            .enumerate()
            .map(|(i, b)| if (148..156).contains(&i) { 32 } else { u32::from(*b) })
            .sum();
        assert_eq!(&bytes[148..154], format!("{sum:06o}").as_bytes());
        assert_eq!(&bytes[257..262], b"ustar");
    }
}
