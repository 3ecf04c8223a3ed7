//! Processes of a lab: started in a namespace, logged to a file, ended by their id.

use crate::wait::PATIENCE;
use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// A process in the background.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it in a process group of its own, so that Ctrl-C reaches the lab first.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let _making = crate::signals::making();
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot open {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).process_group(0);
        // What this process blocks (`signals`) its children would inherit: SIGTERM would not end them.
        // SAFETY: between fork and exec only `pthread_sigmask` is called, which is async-signal-safe.
        unsafe { command.pre_exec(|| SigSet::empty().thread_set_mask().map_err(Into::into)) };
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its log so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Fails with its last words if it has ended.
    ///
    /// # Errors
    /// It has ended.
    pub fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(15).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            bail!("{} ended with {status}; its last words:\n{}", self.name, tail.join("\n"));
        }
        Ok(())
    }

    /// Waits until `condition` holds, and no longer than the process lives.
    ///
    /// # Errors
    /// The deadline passed, or the process ended: its last words.
    pub fn wait_until(
        &mut self,
        what: &str,
        deadline: Duration,
        condition: impl Fn() -> Result<bool>,
    ) -> Result<Duration> {
        let mut death = None;
        let waited = crate::wait::until_true(what, deadline, || {
            death = self.check().err();
            Ok(death.is_some() || condition()?)
        });
        death.map_or(waited, Err)
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.child.id())?), signal)?)
    }

    /// Stops it as it stands, and returns once the last of its threads has stopped.
    ///
    /// # Errors
    /// The kernel refuses, or it ends instead.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)?;
        let pid = Pid::from_raw(i32::try_from(self.child.id())?);
        // Left for `wait` to be seen again, should it be an end.
        let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        match waitid(Id::Pid(pid), flags)? {
            WaitStatus::Stopped(..) => Ok(()),
            other => anyhow::bail!("{pid} did not stop: {other:?}"),
        }
    }

    /// Kills it without warning.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end and waits for it.
    ///
    /// # Errors
    /// It has not ended after [`PATIENCE`]; it is killed then.
    pub fn stop(mut self) -> Result<ExitStatus> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?);
        kill(pid, Signal::SIGTERM)?;
        let waited =
            crate::wait::until("the process's end", PATIENCE, || self.child.try_wait().ok().flatten().ok_or(()));
        match waited {
            Ok((status, _)) => Ok(status),
            Err(_) => {
                self.child.kill()?;
                self.child.wait()?;
                bail!("{} did not end within {PATIENCE:?} of SIGTERM and was killed", self.name)
            }
        }
    }
}

impl Drop for Process {
    /// Nothing of a lab outlives it.
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}
