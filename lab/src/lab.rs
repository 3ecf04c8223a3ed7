//! A lab: its services, hosts and workloads.

use crate::host::{Host, HostOptions};
use crate::services::{Etcd, PolicyServer, TOKEN};
use crate::shell::{binary, command_in, output, sh};
use crate::underlay::{CTL, add_netns, add_switch, netns, plug, prefix};
use crate::wait::{PATIENCE, until_true};
use crate::workload::{Workload, WorkloadOptions, add_call, address, del_call};
use crate::{signals, teardown};
use anyhow::{Context, Result};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use weft_model::group::HostKind;

/// What a lab should be.
#[derive(Debug, Clone)]
pub struct LabOptions {
    /// Its name, at most 20 characters.
    pub name: String,
    /// Its hosts.
    pub hosts: Vec<HostOptions>,
    /// Whether etcd waits for the disk at every write, as it does in production. A store that outlives etcd, but
    /// not the machine, needs no more than the kernel's memory, and tests need not wait for a busy disk.
    pub durable: bool,
}

impl LabOptions {
    /// Two hosts of kind kubernetes and one of kind cell.
    #[must_use]
    pub fn three(name: &str) -> Self {
        Self::of(name, 2, 1)
    }

    /// Hosts `n1`, `n2`, … of kind kubernetes and `c1`, `c2`, … of kind cell.
    #[must_use]
    pub fn of(name: &str, nodes: u8, cells: u8) -> Self {
        let nodes = (1..=nodes).map(|number| HostOptions::new(&format!("n{number}"), HostKind::Kubernetes));
        let cells = (1..=cells).map(|number| HostOptions::new(&format!("c{number}"), HostKind::Cell));
        Self { name: name.to_owned(), hosts: nodes.chain(cells).collect(), durable: false }
    }

    /// A name nobody else has: of this process, counted.
    #[must_use]
    pub fn unique_name(stem: &str) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        format!("{stem}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
    }
}

/// A running lab; dropped, it is removed.
#[derive(Debug)]
pub struct Lab {
    /// Its name.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
    /// Its etcd.
    pub etcd: Etcd,
    /// Its policy server.
    pub policy_server: PolicyServer,
    hosts: Vec<Host>,
    keep: bool,
}

impl Lab {
    /// Makes everything and waits until every host would serve an ADD, and knows all others.
    ///
    /// # Errors
    /// The first thing that failed; what was made is removed.
    pub fn up(options: LabOptions) -> Result<Self> {
        let mut lab = Self::without_agents(options)?;
        for host in &mut lab.hosts {
            host.start_agent()?;
        }
        for host in &mut lab.hosts {
            host.wait_ready(PATIENCE)?;
        }
        // Ready is who can serve; of hosts that became it later it may not know yet.
        let all = lab.hosts.len();
        for host in &lab.hosts {
            let routes = || Ok(host.sh("ip route show proto 119")?.lines().count() == all);
            until_true(&format!("{} to have a route to every host", host.name()), PATIENCE, routes)?;
        }
        Ok(lab)
    }

    /// As [`Self::up`], without starting agents.
    ///
    /// # Errors
    /// As [`Self::up`].
    pub fn without_agents(options: LabOptions) -> Result<Self> {
        let LabOptions { name, hosts, durable } = options;
        anyhow::ensure!(nix::unistd::geteuid().is_root(), "a lab needs root: it makes network namespaces");
        // The services' address ends the range.
        anyhow::ensure!((1..100).contains(&hosts.len()), "hosts: invalid number {}: 1 to 99", hosts.len());
        anyhow::ensure!((1..=20).contains(&name.len()), "name: invalid value {name:?}: 1 to 20 characters");
        anyhow::ensure!(
            teardown::leftovers(&name).is_empty(),
            "a lab named {name} exists: `weft-lab down {name}` removes it"
        );
        signals::register(&name);
        let made = Self::make(&name, hosts, durable);
        if made.is_err() {
            drop(teardown::down(&name));
            signals::unregister(&name);
        }
        made
    }

    fn make(name: &str, hosts: Vec<HostOptions>, durable: bool) -> Result<Self> {
        let folder = teardown::folder(name);
        {
            let _making = signals::making();
            std::fs::create_dir_all(&folder)?;
        }
        add_switch(name)?;
        add_netns(name, "ctl")?;
        plug(name, "ctl", CTL)?;
        let etcd = Etcd::start(name, &folder, durable)?;
        let policy_server = PolicyServer::start(name, &folder)?;
        let mut made = Vec::new();
        for (options, number) in hosts.into_iter().zip(1u8..100) {
            made.push(Host::add(name, &folder, options, Ipv4Addr::new(192, 0, 2, number))?);
        }
        Ok(Self { name: name.to_owned(), folder, etcd, policy_server, hosts: made, keep: false })
    }

    /// A host by its name.
    ///
    /// # Panics
    /// There is none.
    #[must_use]
    pub fn host(&self, name: &str) -> &Host {
        self.hosts
            .iter()
            .find(|host| host.name() == name)
            .unwrap_or_else(|| panic!("no host {name} in lab {}", self.name))
    }

    /// A host by its name, to be changed.
    ///
    /// # Panics
    /// There is none.
    pub fn host_mut(&mut self, name: &str) -> &mut Host {
        let lab = &self.name;
        self.hosts.iter_mut().find(|host| host.name() == name).unwrap_or_else(|| panic!("no host {name} in lab {lab}"))
    }

    /// All hosts.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The namespace of the services: the outside world to workloads.
    #[must_use]
    pub fn ctl(&self) -> PathBuf {
        netns(&self.name, "ctl")
    }

    /// A fresh, empty workload namespace and a container id that no other lab of the machine has: its
    /// processes are looked for by it.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn container(&mut self, host: &str, name: &str) -> Result<(String, PathBuf)> {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let suffix = format!("{host}-{name}-{number}");
        let _making = signals::making();
        sh(&format!("ip netns add {}{suffix}", prefix(&self.name)))?;
        let id = format!("{:064x}", (u128::from(std::process::id()) << 32) | u128::from(number));
        Ok((id, netns(&self.name, &suffix)))
    }

    /// Starts a workload: a namespace, then the plugin's ADD.
    ///
    /// # Errors
    /// The plugin's error.
    pub fn add(&mut self, host: &str, options: &WorkloadOptions) -> Result<Workload> {
        let (container_id, netns) = self.container(host, &options.name)?;
        let mut call = add_call(self.host(host), options, &container_id, &netns);
        // The plugin's own ten seconds are for runtimes; a busy machine may need more.
        call.stdin["weft"]["timeoutSeconds"] = PATIENCE.as_secs().into();
        let result = call.expect(self.host(host))?;
        let ip = address(&result)?;
        Ok(Workload { options: options.clone(), container_id, netns, ip, result })
    }

    /// Ends a workload: the plugin's DEL, then its namespace.
    ///
    /// # Errors
    /// The plugin's error.
    pub fn del(&self, host: &str, workload: &Workload) -> Result<()> {
        del_call(self.host(host), workload).expect(self.host(host))?;
        remove_netns(workload)
    }

    /// Runs `weft` where it reaches the policy server.
    ///
    /// # Errors
    /// It fails.
    pub fn weft(&self, args: &[&str]) -> Result<String> {
        let mut command = command_in(&self.ctl(), &binary("weft")?);
        command.env("WEFT_SERVER", PolicyServer::url()).env("WEFT_TOKEN", TOKEN).args(args);
        if args.contains(&"--wait") && !args.contains(&"--timeout") {
            // Its own limit is for people; here it only ends what would never come.
            command.args(["--timeout", &format!("{}s", PATIENCE.as_secs())]);
        }
        output(&mut command)
    }

    /// Runs `weft` for a host's agent.
    ///
    /// # Errors
    /// It fails.
    pub fn weft_on(&self, host: &str, args: &[&str]) -> Result<String> {
        let mut command = std::process::Command::new(binary("weft")?);
        command.env("WEFT_SOCKET", self.host(host).socket());
        output(command.args(args))
    }

    /// Calls the policy server: method, path, body → status, body.
    ///
    /// # Errors
    /// It does not answer.
    pub fn rest(&self, method: &str, path: &str, body: Option<&str>) -> Result<(u16, String)> {
        let url = format!("{}{path}", PolicyServer::url());
        crate::probe::inside(&self.ctl(), || rest(method, &url, body))?
    }

    /// Allows `from` to reach ports of `to` and returns at once.
    ///
    /// # Errors
    /// The server refuses.
    pub fn allow(&self, from: &str, to: &str, protocol: &str, port: u16) -> Result<()> {
        self.change("/networking/v1/external/policies", from, to, protocol, port)
    }

    /// Takes such a policy back and returns at once.
    ///
    /// # Errors
    /// The server refuses.
    pub fn disallow(&self, from: &str, to: &str, protocol: &str, port: u16) -> Result<()> {
        self.change("/networking/v1/external/policies/delete", from, to, protocol, port)
    }

    fn change(&self, path: &str, from: &str, to: &str, protocol: &str, port: u16) -> Result<()> {
        let body = serde_json::json!({"policies": [{
            "source": {"id": from},
            "destination": {"id": to, "protocol": protocol, "ports": {"start": port, "end": port}}
        }]});
        let (status, answer) = self.rest("POST", path, Some(&body.to_string()))?;
        anyhow::ensure!(status == 200, "{path}: {status}: {answer}");
        Ok(())
    }

    /// Leaves the lab running when this value goes; `weft-lab down` removes it.
    pub fn keep(mut self) {
        self.keep = true;
        signals::unregister(&self.name);
        // The processes would be ended by their owners' drop.
        std::mem::forget(self);
    }

    /// Removes the lab and says what could not be.
    ///
    /// # Errors
    /// See [`teardown::down`].
    pub fn down(mut self) -> Result<()> {
        self.keep = true;
        let removed = teardown::down(&self.name);
        signals::unregister(&self.name);
        removed
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.keep {
            drop(teardown::down(&self.name));
            signals::unregister(&self.name);
        }
    }
}

/// Removes a workload's namespace without telling anybody, as a crash does.
///
/// # Errors
/// `ip` fails.
pub fn remove_netns(workload: &Workload) -> Result<()> {
    let name = workload.netns.file_name().and_then(|name| name.to_str()).context("a namespace has a name")?;
    sh(&format!("ip netns del {name}")).map(drop)
}

fn rest(method: &str, url: &str, body: Option<&str>) -> Result<(u16, String)> {
    let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE));
    let agent = ureq::Agent::new_with_config(config.build());
    let bearer = format!("Bearer {TOKEN}");
    let mut response = match (method, body) {
        ("GET", _) => agent.get(url).header("Authorization", &bearer).call()?,
        (_, body) => agent.post(url).header("Authorization", &bearer).send(body.unwrap_or_default())?,
    };
    Ok((response.status().as_u16(), response.body_mut().read_to_string()?))
}
