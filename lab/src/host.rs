//! One host of a lab: a namespace on the switch and its agent.

use crate::process::Process;
use crate::services::Etcd;
use crate::shell::{binary, command_in, output, sh_in};
use crate::signals;
use crate::underlay::{add_netns, plug};
use crate::wait::PATIENCE;
use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use weft_api::agent::{EndpointView, Status};
use weft_model::group::HostKind;

/// What a host should be.
#[derive(Debug, Clone)]
pub struct HostOptions {
    /// Its name, short: part of its namespace's.
    pub name: String,
    /// What it runs.
    pub kind: HostKind,
    /// More flags for its agent.
    pub flags: Vec<String>,
    /// More of its agent's environment.
    pub environment: Vec<(&'static str, String)>,
}

impl HostOptions {
    /// A host without special flags.
    #[must_use]
    pub fn new(name: &str, kind: HostKind) -> Self {
        Self { name: name.to_owned(), kind, flags: Vec::new(), environment: Vec::new() }
    }
}

/// A host of a lab.
#[derive(Debug)]
pub struct Host {
    /// The lab's name.
    pub lab: String,
    /// What it should be.
    pub options: HostOptions,
    /// Its namespace.
    pub netns: PathBuf,
    /// Its underlay address.
    pub address: Ipv4Addr,
    folder: PathBuf,
    agent: Option<Process>,
}

impl Host {
    /// Makes the host's namespace and folders and plugs it in; the agent does not run yet.
    ///
    /// # Errors
    /// `ip` or `mount` fails.
    pub fn add(lab: &str, folder: &Path, options: HostOptions, address: Ipv4Addr) -> Result<Self> {
        let netns = add_netns(lab, &options.name)?;
        plug(lab, &options.name, address)?;
        let folder = folder.join(&options.name);
        let _making = signals::making();
        for sub in ["run", "state", "bpf"] {
            std::fs::create_dir_all(folder.join(sub))?;
        }
        let none: Option<&str> = None;
        nix::mount::mount(Some("weft-lab"), &folder.join("bpf"), Some("bpf"), nix::mount::MsFlags::empty(), none)
            .with_context(|| format!("cannot mount a bpffs on {}", folder.join("bpf").display()))?;
        Ok(Self { lab: lab.to_owned(), options, netns, address, folder, agent: None })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// The agent's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.join("run/agent.sock")
    }

    /// A file of the host's run folder.
    #[must_use]
    pub fn run_file(&self, name: &str) -> PathBuf {
        self.folder.join("run").join(name)
    }

    /// A file of the host's state folder.
    #[must_use]
    pub fn state_file(&self, name: &str) -> PathBuf {
        self.folder.join("state").join(name)
    }

    /// The folder of its bpffs.
    #[must_use]
    pub fn bpf_dir(&self) -> PathBuf {
        self.folder.join("bpf")
    }

    /// The agent's command line.
    ///
    /// # Errors
    /// weftd is not built.
    pub fn agent_command(&self) -> Result<std::process::Command> {
        let kind = match self.options.kind {
            HostKind::Kubernetes => "kubernetes",
            HostKind::Cell => "cell",
        };
        let mut command = command_in(&self.netns, &binary("weftd")?);
        command
            .args(["--kind", kind, "--hostname", self.name(), "--interface", "eth0", "--network", "10.255.0.0/16"])
            .args(["--cluster", "lab", "--kernel-log", "--etcd-endpoints", &Etcd::url()])
            .arg("--run-dir")
            .arg(self.folder.join("run"))
            .arg("--state-dir")
            .arg(self.folder.join("state"))
            .arg("--bpf-dir")
            .arg(self.bpf_dir())
            .args(&self.options.flags)
            .envs(self.options.environment.iter().map(|(name, value)| (name, value)));
        Ok(command)
    }

    /// Starts the agent.
    ///
    /// # Errors
    /// It runs already, or cannot be started.
    pub fn start_agent(&mut self) -> Result<()> {
        self.start_agent_with(&[])
    }

    /// As [`Self::start_agent`], with more environment.
    ///
    /// # Errors
    /// As [`Self::start_agent`].
    pub fn start_agent_with(&mut self, environment: &[(&str, String)]) -> Result<()> {
        anyhow::ensure!(self.agent.is_none(), "the agent of {} runs already", self.name());
        let mut command = self.agent_command()?;
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        self.agent =
            Some(Process::start(&format!("weftd of {}", self.name()), &mut command, &self.folder.join("weftd.log"))?);
        Ok(())
    }

    /// Kills the agent without warning.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill_agent(&mut self) -> Result<()> {
        self.agent.take().context("the agent does not run")?.kill()
    }

    /// Stops the agent as it stands: its socket takes calls, and nothing answers.
    ///
    /// # Errors
    /// It does not run.
    pub fn freeze_agent(&self) -> Result<()> {
        self.agent.as_ref().context("the agent does not run")?.freeze()
    }

    /// Whether the agent has ended by itself; another one can be started then.
    pub fn agent_ended(&mut self) -> bool {
        let ended = self.agent.as_mut().is_none_or(|agent| agent.check().is_err());
        if ended {
            self.agent = None;
        }
        ended
    }

    /// Asks the agent to end.
    ///
    /// # Errors
    /// It does not run, or does not end.
    pub fn stop_agent(&mut self) -> Result<std::process::ExitStatus> {
        self.agent.take().context("the agent does not run")?.stop()
    }

    /// The agent's process id, if it runs.
    #[must_use]
    pub fn agent_id(&self) -> Option<u32> {
        self.agent.as_ref().map(Process::id)
    }

    /// The agent's log.
    #[must_use]
    pub fn agent_log(&self) -> String {
        std::fs::read_to_string(self.folder.join("weftd.log")).unwrap_or_default()
    }

    /// Waits until an ADD would work.
    ///
    /// # Errors
    /// It does not within the deadline; with the agent's last words.
    pub fn wait_ready(&mut self, deadline: Duration) -> Result<Duration> {
        let mut agent = self.agent.take().context("the agent does not run")?;
        let ready = || self.get::<serde_json::Value>("/v1/ready").map(|_| true);
        let waited = agent.wait_until(&format!("{} to be ready", self.name()), deadline, ready);
        self.agent = Some(agent);
        waited.with_context(|| format!("log of {}:\n{}", self.name(), tail(&self.agent_log())))
    }

    /// Asks the agent's API.
    ///
    /// # Errors
    /// The agent is away or answers an error.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let mut curl = std::process::Command::new("curl");
        curl.args(["-sS", "--max-time", &PATIENCE.as_secs().to_string(), "--unix-socket"]).arg(self.socket());
        let answer = output(curl.args(["-w", "\n%{http_code}", &format!("http://agent{path}")]))?;
        let (body, status) = answer.rsplit_once('\n').unwrap_or((answer.as_str(), ""));
        if status != "200" {
            bail!("{path}: {status}: {body}");
        }
        serde_json::from_str(body).with_context(|| format!("{path}: {body}"))
    }

    /// `GET /v1/status`.
    ///
    /// # Errors
    /// The agent is away.
    pub fn status(&self) -> Result<Status> {
        self.get("/v1/status")
    }

    /// `GET /v1/endpoints`.
    ///
    /// # Errors
    /// The agent is away.
    pub fn endpoints(&self) -> Result<Vec<EndpointView>> {
        self.get("/v1/endpoints")
    }

    /// Runs a command line in the host's namespace.
    ///
    /// # Errors
    /// It fails.
    pub fn sh(&self, line: &str) -> Result<String> {
        sh_in(&self.netns, line)
    }
}

/// The last lines of a log.
#[must_use]
pub fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}
