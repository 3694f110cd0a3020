//! A laboratory: a topology made real, with what can be done to it while programs run in it.
//!
//! Dropping it ends what still runs in its hosts and removes every namespace, and with them links, addresses and
//! rules. Threads of this process that are inside keep a namespace alive, without its name, until they end.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::fault::{Faults, Passed};
use crate::namespace::{self, Netns};
use crate::plan::Plan;
use crate::process::Process;
use crate::pump::{Ends, Pump};
use crate::{LabError, Topology, command, gateway};

/// How long the kernel may take to bring a link up: it does so at once, and within a second when it has much to do.
const SETTLE: Duration = Duration::from_secs(10);

/// Numbers of interfaces: one for all ends at nodes, others for the far ends. The kernel lets an end wait for a second
/// that has the number of its peer, which it takes for no peer at all.
const NEAR: usize = 100;
const FAR: usize = 1000;

/// How a cable is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The node sees that its cable has been pulled.
    Unplugged,
    /// Packets disappear, and nobody is told.
    Silent,
}

/// A topology made real.
#[derive(Debug)]
pub struct Lab {
    plan: Plan,
    nodes: BTreeMap<String, Netns>,
    pump: Option<Pump>,
}

impl Lab {
    /// Sweeps up after killed processes and builds a topology.
    ///
    /// # Errors
    /// [`LabError`]; what was built until then is removed.
    pub fn build(topology: &Topology) -> Result<Self, LabError> {
        static LABS: AtomicU32 = AtomicU32::new(0);
        namespace::sweep()?;
        let plan = Plan::new(topology)?;
        let prefix = format!("{}{}-", namespace::owner()?, LABS.fetch_add(1, Ordering::Relaxed));
        let netns = |node: &String| (node.clone(), Netns::new(format!("{prefix}{node}")));
        let nodes = plan.namespaces.keys().map(netns).collect();
        // From here on a failure drops it, which cleans up.
        let mut lab = Self { plan, nodes, pump: None };
        lab.lay_cables()?;
        for (node, netns) in &lab.nodes {
            if let Some(plan) = lab.plan.namespaces.get(node) {
                netns.enter(|| configure(plan))??;
            }
        }
        for node in lab.nodes.keys() {
            lab.settle(node)?;
        }
        Ok(lab)
    }

    /// The kernel begins to use a link some time after both ends are up; until then it drops what is sent.
    fn settle(&self, node: &str) -> Result<(), LabError> {
        let near = self.plan.cables.get(node).map(|wire| wire.near);
        let ports = self.plan.cables.values().filter(|wire| wire.far == node).map(|wire| wire.port.as_str());
        let interfaces: Vec<&str> = near.into_iter().chain(ports).collect();
        let began = Instant::now();
        while !self.in_host(node, || command::carry(&interfaces))?? {
            if began.elapsed() > SETTLE {
                return Err(LabError::Down(node.into()));
            }
        }
        Ok(())
    }

    fn lay_cables(&mut self) -> Result<(), LabError> {
        let created: Vec<String> = self.nodes.values().map(|netns| format!("netns add {}", netns.name())).collect();
        command::ip(&created)?;
        let (mut direct, mut faulty) = (Vec::new(), Vec::new());
        for (node, netns) in &self.nodes {
            netns.enter(prepare)??;
            let Some(wire) = self.plan.cables.get(node) else {
                continue;
            };
            let far = self.netns(&wire.far)?;
            match wire.cable.faults {
                None => {
                    let (near, inside, port, around) = (wire.near, netns.name(), &wire.port, far.name());
                    let index = FAR + direct.len();
                    direct.push(format!(
                        "link add {near} index {NEAR} netns {inside} type veth peer name {port} index {index} netns {around}"
                    ));
                }
                Some(faults) => faulty.push(Ends { node, near: (netns, wire.near), far: (far, &wire.port), faults }),
            }
        }
        command::ip(&direct)?;
        if !faulty.is_empty() {
            self.pump = Some(Pump::start(&faulty)?);
        }
        Ok(())
    }

    fn netns(&self, node: &str) -> Result<&Netns, LabError> {
        self.nodes.get(node).ok_or_else(|| LabError::Unknown(node.into()))
    }

    fn wire(&self, node: &str) -> Result<&crate::plan::Wire, LabError> {
        self.plan.cables.get(node).ok_or_else(|| LabError::Unknown(node.into()))
    }

    /// Names of all hosts and gateways, and of the internet.
    pub fn nodes(&self) -> impl Iterator<Item = &str> {
        self.nodes.keys().map(String::as_str)
    }

    /// The name of a node's namespace, for `ip netns exec`.
    ///
    /// # Errors
    /// [`LabError::Unknown`].
    pub fn namespace(&self, node: &str) -> Result<&str, LabError> {
        self.netns(node).map(Netns::name)
    }

    /// Addresses of a host, or of a gateway outside: IPv4 before IPv6.
    ///
    /// # Errors
    /// [`LabError::Unknown`].
    pub fn addresses(&self, node: &str) -> Result<Vec<IpAddr>, LabError> {
        self.wire(node).map(crate::plan::Wire::addresses)
    }

    /// The first of its addresses.
    ///
    /// # Errors
    /// [`LabError::Unknown`], also for a node that has none.
    pub fn address(&self, node: &str) -> Result<IpAddr, LabError> {
        self.addresses(node)?.first().copied().ok_or_else(|| LabError::Unknown(node.into()))
    }

    /// Runs `work` on a thread inside a host. Sockets that it returns stay inside.
    ///
    /// # Errors
    /// [`LabError::Unknown`], or when the namespace cannot be entered.
    ///
    /// # Panics
    /// When `work` does.
    pub fn in_host<T: Send>(&self, host: &str, work: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        self.netns(host)?.enter(work)
    }

    /// Starts a program in a host.
    ///
    /// # Errors
    /// [`LabError::Unknown`], or when it cannot be started.
    pub fn spawn_in(&self, host: &str, mut command: Command) -> Result<Process, LabError> {
        let what = format!("{} in {host}", command.get_program().display());
        let child = self.in_host(host, move || command.spawn())?;
        child.map(Process::new).map_err(LabError::io(what))
    }

    /// Runs a program in a host and waits for its end.
    ///
    /// # Errors
    /// [`LabError::Unknown`], or when it cannot be started; a program that fails is no error.
    pub fn run_in(&self, host: &str, mut command: Command) -> Result<Output, LabError> {
        let what = format!("{} in {host}", command.get_program().display());
        self.in_host(host, move || command.output())?.map_err(LabError::io(what))
    }

    /// Cuts the cable of a host or gateway.
    ///
    /// # Errors
    /// [`LabError`].
    pub fn cut(&self, node: &str, how: Cut) -> Result<(), LabError> {
        let wire = self.wire(node)?;
        let faulty = wire.cable.faults.is_some();
        if how == Cut::Silent || faulty {
            self.in_host(&wire.far, || command::nft(&gateway::silence(&wire.port)))??;
        }
        match how {
            Cut::Silent => Ok(()),
            // Nobody but the thread of the cables is at the other end of a TAP device: the near one is told itself.
            Cut::Unplugged if faulty => self.carrier(node, "off"),
            Cut::Unplugged => self.in_host(&wire.far, || command::ip(&[format!("link set {} down", wire.port)]))?,
        }
    }

    /// Ends any cut.
    ///
    /// # Errors
    /// [`LabError`].
    pub fn restore(&self, node: &str) -> Result<(), LabError> {
        let wire = self.wire(node)?;
        self.in_host(&wire.far, || {
            command::nft(&gateway::speech(&wire.port))?;
            command::ip(&wire.far_lines())
        })??;
        if wire.cable.faults.is_some() {
            self.carrier(node, "on")?;
        }
        self.settle(node)
    }

    fn carrier(&self, node: &str, state: &str) -> Result<(), LabError> {
        let line = format!("link set dev {} carrier {state}", self.wire(node)?.near);
        self.in_host(node, || command::ip(&[line]))?
    }

    /// Gives a host or a gateway other addresses, as a provider does over night: routes follow, flows do not, and a
    /// NAT forgets its mappings. Returns the new addresses.
    ///
    /// # Errors
    /// [`LabError`].
    pub fn renumber(&mut self, node: &str) -> Result<Vec<IpAddr>, LabError> {
        let wire = self.plan.cables.get_mut(node).ok_or_else(|| LabError::Unknown(node.into()))?;
        let mut lines = wire.remove_lines();
        wire.renumber();
        lines.extend(wire.near_lines());
        let wire = self.wire(node)?;
        let uplink = self.plan.namespaces.get(node).and_then(|namespace| namespace.uplink.as_ref());
        self.in_host(node, || {
            command::ip(&lines)?;
            uplink.map_or(Ok(()), |uplink| command::nft(&gateway::gateway(uplink, wire.address4())))
        })??;
        self.in_host(&wire.far, || command::ip(&wire.far_lines()))??;
        self.addresses(node)
    }

    /// Changes the faults of a cable that has some.
    ///
    /// # Errors
    /// [`LabError::Topology`] for faults out of range, [`LabError::Faultless`].
    pub fn set_faults(&self, node: &str, faults: Faults) -> Result<(), LabError> {
        faults.validate().map_err(LabError::Topology)?;
        let changed = self.pump.as_ref().is_some_and(|pump| pump.change(node, faults));
        if changed { Ok(()) } else { Err(LabError::Faultless(node.into())) }
    }

    /// What went up a cable with faults, and down.
    ///
    /// # Errors
    /// [`LabError::Faultless`].
    pub fn passed(&self, node: &str) -> Result<[Passed; 2], LabError> {
        let passed = self.pump.as_ref().and_then(|pump| pump.passed(node));
        passed.ok_or_else(|| LabError::Faultless(node.into()))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.pump = None;
        let names: Vec<String> = self.nodes.values().map(|netns| netns.name().to_owned()).collect();
        // What cannot be removed now is removed by the next sweep, when this process is gone.
        let _ = namespace::remove(&names);
    }
}

/// Settings that must be there before the first interface is.
fn prepare() -> Result<(), LabError> {
    for scope in ["all", "default"] {
        // Addresses are ours: no search for duplicates, and nobody advertises routes.
        namespace::set(&format!("ipv6/conf/{scope}/accept_dad"), "0")?;
        namespace::set(&format!("ipv6/conf/{scope}/accept_ra"), "0")?;
    }
    Ok(())
}

fn configure(plan: &crate::plan::Namespace) -> Result<(), LabError> {
    if plan.router {
        namespace::set("ipv4/ip_forward", "1")?;
        namespace::set("ipv6/conf/all/forwarding", "1")?;
        // Members of a network are neighbours: their frames are no business of the gateway's firewall.
        for family in ["iptables", "ip6tables"] {
            namespace::set(&format!("bridge/bridge-nf-call-{family}"), "0")?;
        }
    }
    command::ip(&plan.lines)?;
    if !plan.shaping.is_empty() {
        command::tc(&plan.shaping)?;
    }
    if plan.rules.is_empty() { Ok(()) } else { command::nft(&plan.rules) }
}
