//! etcd and the policy server, in the namespace `ctl`, reached over the underlay.

use crate::process::Process;
use crate::shell::{binary, command_in, sh_in};
use crate::underlay::{CTL, netns};
use crate::wait::PATIENCE;
use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use std::path::{Path, PathBuf};

/// The bearer token of a lab's policy server.
pub const TOKEN: &str = "lab-token-for-tests-only";

/// Debian's etcd.
#[derive(Debug)]
pub struct Etcd {
    lab: String,
    folder: PathBuf,
    durable: bool,
    process: Option<Process>,
}

impl Etcd {
    /// etcd's client URL.
    #[must_use]
    pub fn url() -> String {
        format!("http://{CTL}:2379")
    }

    /// Starts it with an empty store; `durable` as in [`crate::LabOptions`].
    ///
    /// # Errors
    /// It is not installed, or does not become healthy.
    pub fn start(lab: &str, folder: &Path, durable: bool) -> Result<Self> {
        let mut etcd = Self { lab: lab.to_owned(), folder: folder.to_owned(), durable, process: None };
        etcd.restart()?;
        Ok(etcd)
    }

    /// Starts it on the store it had.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn restart(&mut self) -> Result<()> {
        let url = Self::url();
        let peer = format!("http://{CTL}:2380");
        let mut command = command_in(&netns(&self.lab, "ctl"), Path::new("etcd"));
        command
            .env_remove("ETCD_UNSUPPORTED_ARCH")
            .args(["--name", "lab", "--log-level", "warn"])
            .args((!self.durable).then_some("--unsafe-no-fsync"))
            .arg("--data-dir")
            .arg(self.folder.join("etcd"))
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("lab={peer}")]);
        let mut process = Process::start("etcd", &mut command, &self.folder.join("etcd.log"))?;
        let ctl = netns(&self.lab, "ctl");
        process.wait_until("etcd to be healthy", PATIENCE, || {
            Ok(listens(&ctl, 2379) && sh_in(&ctl, &etcdctl("endpoint health")).is_ok())
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// Kills it.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().context("etcd does not run")?.kill()
    }

    /// Stops it as it stands: connections stay open, and nothing answers.
    ///
    /// # Errors
    /// It does not run.
    pub fn freeze(&self) -> Result<()> {
        self.process.as_ref().context("etcd does not run")?.freeze()
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// It does not run.
    pub fn thaw(&self) -> Result<()> {
        self.process.as_ref().context("etcd does not run")?.signal(Signal::SIGCONT)
    }

    /// Throws its store away; only while it does not run.
    ///
    /// # Errors
    /// The folder cannot be removed.
    pub fn wipe(&mut self) -> Result<()> {
        anyhow::ensure!(self.process.is_none(), "etcd runs");
        std::fs::remove_dir_all(self.folder.join("etcd")).context("cannot remove etcd's folder")
    }

    /// Runs `etcdctl` on it.
    ///
    /// # Errors
    /// It fails.
    pub fn ctl(&self, line: &str) -> Result<String> {
        sh_in(&netns(&self.lab, "ctl"), &etcdctl(line))
    }
}

/// An `etcdctl` that is as patient as the lab: its own limits are 2 and 5 s.
fn etcdctl(line: &str) -> String {
    let (url, limit) = (Etcd::url(), PATIENCE.as_secs());
    format!("etcdctl --endpoints {url} --dial-timeout {limit}s --command-timeout {limit}s {line}")
}

/// Whether somebody takes connections at a port of the services' address.
fn listens(ctl: &Path, port: u16) -> bool {
    crate::probe::connects(ctl, (CTL, port).into(), PATIENCE).is_ok()
}

/// weft-policy-server.
#[derive(Debug)]
pub struct PolicyServer {
    lab: String,
    folder: PathBuf,
    process: Option<Process>,
}

impl PolicyServer {
    /// Its base URL.
    #[must_use]
    pub fn url() -> String {
        format!("http://{CTL}:4002")
    }

    /// Starts it.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start(lab: &str, folder: &Path) -> Result<Self> {
        let mut server = Self { lab: lab.to_owned(), folder: folder.to_owned(), process: None };
        server.restart()?;
        Ok(server)
    }

    /// Starts it again.
    ///
    /// # Errors
    /// It does not come up.
    pub fn restart(&mut self) -> Result<()> {
        let token = self.folder.join("token");
        std::fs::write(&token, TOKEN)?;
        let ctl = netns(&self.lab, "ctl");
        let mut command = command_in(&ctl, &binary("weft-policy-server")?);
        command.args(["--listen", &format!("{CTL}:4002"), "--etcd", &Etcd::url(), "--token-file"]).arg(&token);
        let mut process = Process::start("weft-policy-server", &mut command, &self.folder.join("policy-server.log"))?;
        process.wait_until("the policy server to answer", PATIENCE, || Ok(listens(&ctl, 4002)))?;
        self.process = Some(process);
        Ok(())
    }

    /// Kills it.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().context("the policy server does not run")?.kill()
    }
}
