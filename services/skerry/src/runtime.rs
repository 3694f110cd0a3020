//! The private containerd of `skerry up`: `skerry runtime` keeps it running.
//!
//! The options follow from the directory alone, so that `skerry down` finds everything also after a
//! crash or with half of the directory gone. When this process stops, containerd stops and the pods
//! go on; when it is killed, the next one takes over. [`READY`] exists while the runtime answers and
//! has its images.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use skerry_common::shutdown;
use skerry_edged::private_runtime::{Image, LeftOvers, MAX_SOCKET_PATH, PrivateRuntime, RuntimeOptions};

use crate::failure::{Context as _, Failure, Result};

/// File in the directory of `up` that says that the runtime is ready.
pub(crate) const READY: &str = "run/runtime.ready";
/// What the image of a mapper is called, before its protocol.
pub(crate) const MAPPER_IMAGE: &str = "skerry.test/mapper-";
/// How often the daemon is looked at.
const WATCH: Duration = Duration::from_millis(500);
/// Programs and files without which there is no private runtime, with their Debian packages.
const NEEDED: [(&str, &str); 5] = [
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("busybox", "busybox-static"),
    ("catatonit", "catatonit"),
    ("ip", "iproute2"),
];

/// Options of `skerry runtime`.
#[derive(Debug, Args)]
pub(crate) struct RuntimeArgs {
    /// Directory of `skerry up`.
    #[arg(long)]
    dir: PathBuf,
    /// A mapper that was built beside this program, whose image is wanted; may be given several times.
    #[arg(long)]
    mapper: Vec<String>,
}

/// The options of the runtime that belongs to a directory of `up`.
pub(crate) fn options(dir: &Path) -> RuntimeOptions {
    let id = fnv1a(dir.as_os_str().as_bytes());
    let mut options = RuntimeOptions::new(dir.join("images"), dir.join("runtime"));
    if options.socket().as_os_str().len() > MAX_SOCKET_PATH {
        options.state = Path::new("/run").join(format!("skerry-{id:08x}"));
    }
    options.bridge = format!("skerry-{:06x}", id & 0xff_ffff);
    // Two systems on one machine get different bridges and, very likely, different subnets.
    options.subnet = format!("10.{}.{}.0/24", 88 + (id >> 8) % 16, id % 256);
    options.cgroup_root = format!("skerrypods_{:06x}", id & 0xff_ffff);
    options.left_overs = LeftOvers::Adopt;
    options
}

/// The image of a mapper that was built beside this program.
fn mapper(protocol: &str) -> Result<Image> {
    let what = || format!("cannot make the image of the mapper {protocol}");
    let here = std::env::current_exe().or_fail(what)?;
    let program = here.with_file_name(format!("skerry-mapper-{protocol}"));
    if !program.exists() {
        return Err(Failure::usage(what()).cause(format!("{} is not there", program.display())).cure("make build"));
    }
    Image::program(&format!("{MAPPER_IMAGE}{protocol}:1"), &program).or_fail(what)
}

/// What is missing for a private runtime, as Debian packages.
pub(crate) fn missing_packages() -> Vec<&'static str> {
    use crate::check::find_program;
    NEEDED.iter().filter(|(program, _)| find_program(program).is_none()).map(|(_, package)| *package).collect()
}

/// Keeps containerd running until told to stop.
pub(crate) async fn run(args: RuntimeArgs) -> Result<()> {
    let dir = crate::places::absolute(&args.dir)?;
    let ready = dir.join(READY);
    let _ = fs::remove_file(&ready);
    let missing = missing_packages();
    if !missing.is_empty() {
        return Err(Failure::new("cannot start a container runtime")
            .cause(format!("missing: {}", missing.join(", ")))
            .cure(format!("apt-get install {}", missing.join(" "))));
    }
    let mut options = options(&dir);
    for protocol in &args.mapper {
        options.images.push(mapper(protocol)?);
    }
    let mut runtime = PrivateRuntime::start(options).await.or_fail(|| "cannot start a container runtime".into())?;
    fs::write(&ready, "").or_fail(|| format!("cannot write {}", ready.display()))?;
    tracing::info!(socket = %runtime.socket().display(), "container runtime is ready");
    let stop = shutdown::requested();
    tokio::pin!(stop);
    let ended = loop {
        tokio::select! {
            signal = &mut stop => {
                tracing::info!(signal = signal.unwrap_or("none"), "stopping");
                break Ok(());
            }
            () = tokio::time::sleep(WATCH) => {
                if !runtime.is_running() {
                    // The supervisor starts this process again, which takes over what containerd left.
                    break Err(Failure::new("containerd ended").cure("see runtime/containerd.log"));
                }
            }
        }
    };
    let _ = fs::remove_file(&ready);
    let _ = tokio::task::spawn_blocking(move || runtime.detach()).await;
    ended
}

/// A hash that is the same in every version of this program.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_options_follow_from_the_directory() {
        let one = options(Path::new("/srv/a/.skerry"));
        let again = options(Path::new("/srv/a/.skerry"));
        let other = options(Path::new("/srv/b/.skerry"));
        assert_eq!((&one.bridge, &one.subnet), (&again.bridge, &again.subnet));
        assert_ne!(one.bridge, other.bridge);
        assert!(one.bridge.len() <= 15);
        let deep = options(Path::new(&format!("/srv/{}", "a/".repeat(60))));
        assert!(deep.socket().as_os_str().len() <= MAX_SOCKET_PATH);
    }
}
