//! The processes of `skerry up`, and the configuration files of those that have one.
//!
//! Either one process for the cloud and one for the node, or every service as its own program; the
//! services cannot tell the difference. Files are written anew each time: they follow from the state.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::str::FromStr;

use serde_json::{Value, json};

use super::state::{Ports, State};
use crate::edge::EdgeConfig;
use crate::failure::{Context as _, Failure, Result};
use crate::files::write_atomically;
use crate::supervise::{Places, Unit};
use crate::{cloud, cluster, places};

/// Longest time that a service has to stop; the services' own deadlines are shorter.
const STOP_SECONDS: u64 = 35;

/// A program that is not ours. Words are divided at blanks; there is no shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Command {
    name: String,
    program: PathBuf,
    arguments: Vec<String>,
}

impl FromStr for Command {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (name, command) = text.split_once('=').ok_or("expected name=/path/to/program arguments")?;
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || !name.chars().all(plain) {
            return Err(format!("{name:?} is not a name: lower-case letters, digits and `-`"));
        }
        let mut words = command.split_whitespace().map(str::to_owned);
        let program = PathBuf::from(words.next().unwrap_or_default());
        if !program.is_absolute() {
            return Err(format!("{} is not an absolute path of a program", program.display()));
        }
        Ok(Self { name: format!("run-{name}"), program, arguments: words.collect() })
    }
}

/// What the user wants to run beside.
pub(super) fn beside(found: &Places, commands: &[Command]) -> Result<()> {
    commands.iter().try_for_each(|c| found.want(&c.name, &unit(10, c.program.clone(), c.arguments.clone())))
}

/// The private container runtime.
pub(super) fn runtime(found: &Places, mappers: &BTreeSet<String>) -> Result<()> {
    let dir = text(&found.dir)?;
    let mut arguments = vec!["runtime", "--dir", &dir];
    arguments.extend(mappers.iter().flat_map(|protocol| ["--mapper", protocol]));
    found.want("runtime", &ours(1, &arguments)?)
}

/// The control plane; in one process, with the cloud services.
pub(super) fn control_plane(found: &Places, state: &State) -> Result<()> {
    if !state.processes {
        return found.want("cloud", &ours(2, &["cloud", "--dir", &text(&found.dir)?])?);
    }
    let ports = &state.ports;
    let arguments = [
        ("--data-dir", text(&found.dir.join(cloud::APISERVER_DATA))?),
        ("--listen", ports.apiserver.to_string()),
        ("--kubeconfig-out", text(&found.dir.join(places::KUBECONFIG))?),
        ("--kubelet-credentials", text(&cluster::credentials_of(&found.dir, cluster::APISERVER))?),
        ("--trust-domain", places::TRUST_DOMAIN.to_owned()),
        ("--admin", ports.admin.apiserver.to_string()),
    ];
    let arguments = arguments.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
    found.want("apiserver", &unit(2, program("apiserver")?, arguments))
}

/// Controllers, edgecontroller and devicecontroller as processes of their own.
pub(super) fn controllers(found: &Places, state: &State) -> Result<()> {
    let ports = &state.ports;
    let kubeconfig = text(&found.dir.join(places::KUBECONFIG))?;
    let admin = ports.admin.controllers.to_string();
    let arguments = vec!["--kubeconfig".into(), kubeconfig, "--admin".into(), admin];
    found.want("controllers", &unit(3, program("controllers")?, arguments))?;
    let edgecontroller = json!({
        "listen": ports.edgecontroller,
        "kubeconfig": found.dir.join(places::KUBECONFIG),
        "trustDomain": places::TRUST_DOMAIN,
        "credentials": cluster::kept_credentials(&found.dir),
    });
    service(found, 4, "edgecontroller", &edgecontroller, ports.admin.edgecontroller, &[])?;
    let devicecontroller = json!({
        "listen": ports.devicecontroller,
        "webhook": ports.webhook,
        "webhookUrl": format!("https://{}", ports.webhook),
        "kubeconfig": found.dir.join(places::KUBECONFIG),
        "trustDomain": places::TRUST_DOMAIN,
        "credentials": cluster::credentials_of(&found.dir, cluster::DEVICECONTROLLER),
    });
    service(found, 4, "devicecontroller", &devicecontroller, ports.admin.devicecontroller, &[])
}

/// The hub as a process of its own; edgecontroller has issued its certificate by now.
pub(super) fn hub(found: &Places, state: &State) -> Result<()> {
    let ports = &state.ports;
    let hub = json!({
        "name": cloud::HUB_NAME,
        "listen": ports.hub,
        "credentials": cluster::credentials_of(&found.dir, cluster::CLOUDHUB),
        "trustDomain": places::TRUST_DOMAIN,
        "sources": hub_sources(ports),
        "registry": cluster::EDGECONTROLLER,
    });
    service(found, 5, "cloudhub", &hub, ports.admin.hub, &[])
}

/// The node, which has joined by now.
pub(super) fn edge(found: &Places, state: &State) -> Result<()> {
    let data_dir = found.dir.join("edge");
    if !state.processes {
        return found.want("edge", &ours(9, &["edge", "--data-dir", &text(&data_dir)?])?);
    }
    let config = EdgeConfig::load(&data_dir)?;
    let socket = text(&data_dir.join(places::EDGE_SOCKET))?;
    service(found, 8, "edgehub", &config.edgehub_file(), config.admin_listen, &["--socket", &socket])?;
    service(found, 9, "edged", &config.edged_file(), config.edged_admin(), &[])?;
    service(found, 9, "dmi", &config.dmi_file(), config.dmi_admin(), &[])
}

fn hub_sources(ports: &Ports) -> Vec<Value> {
    let sources = cloud::sources(ports).into_iter();
    let file = sources.map(|source| {
        json!({"name": source.name, "addresses": source.addresses, "kinds": source.kinds, "reports": source.reports})
    });
    file.collect()
}

/// A unit that runs this program.
fn ours(order: u32, arguments: &[&str]) -> Result<Unit> {
    let program = std::env::current_exe().or_fail(|| "cannot find this program".into())?;
    Ok(unit(order, program, arguments.iter().map(|&a| a.to_owned()).collect()))
}

/// A service with its own program and configuration file.
fn service(
    found: &Places,
    order: u32,
    name: &str,
    config: &Value,
    admin: std::net::SocketAddr,
    more: &[&str],
) -> Result<()> {
    let program = program(name)?;
    let file = found.dir.join("config").join(format!("{name}.yaml"));
    let yaml = serde_saphyr::to_string(config).or_fail(|| format!("cannot write {}", file.display()))?;
    write_atomically(&file, yaml.as_bytes(), 0o600)?;
    let mut arguments = vec!["--config".to_owned(), text(&file)?, "--admin".to_owned(), admin.to_string()];
    arguments.extend(more.iter().map(|&a| a.to_owned()));
    found.want(name, &unit(order, program, arguments))
}

/// The program of a service: next to this one.
fn program(service: &str) -> Result<PathBuf> {
    let here = std::env::current_exe().or_fail(|| "cannot find this program".into())?;
    let program = here.with_file_name(format!("skerry-{service}"));
    if program.exists() {
        return Ok(program);
    }
    Err(Failure::usage(format!("{} is not there", program.display()))
        .cause("with --processes every service has its own program")
        .cure("make build, or leave --processes out"))
}

fn unit(order: u32, program: PathBuf, arguments: Vec<String>) -> Unit {
    Unit { order, program, arguments, environment: BTreeMap::new(), stop_seconds: STOP_SECONDS }
}

fn text(path: &std::path::Path) -> Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| Failure::usage(format!("the path {} is not text", path.display())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_command_is_a_name_and_words() {
        let command: Command = "boiler=/usr/bin/python3 simulator.py --port 5020".parse().unwrap();
        assert_eq!((command.name.as_str(), command.arguments.len()), ("run-boiler", 3));
        for wrong in ["", "boiler", "=/bin/true", "b/../c=/bin/true", "boiler=", "boiler=python3 x.py"] {
            assert!(wrong.parse::<Command>().is_err(), "{wrong:?}");
        }
    }
}
