//! A real containerd (Debian's) on a host of a lab, apart from any other: own root, state and sockets, in
//! mount and process namespaces of its own, whose end takes everything with it. Changes to `/etc`, `/opt`
//! and `/var/lib` stay in there too, so the usual folders can be used.

use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use weft_lab::process::Process;
use weft_lab::shell::{binary, output, sh};
use weft_lab::wait::PATIENCE;
use weft_lab::{Host, Lab, wait};

/// The one image: a static busybox that serves HTTP on port 8080 unless told otherwise. It is also what
/// pods' sandboxes run.
pub const IMAGE: &str = "weft.test/busybox:1";

/// A containerd.
#[derive(Debug)]
pub struct Containerd {
    lab: String,
    folder: PathBuf,
    socket: PathBuf,
    /// The first process of the namespaces; everything in them ends with it.
    holder: Child,
    daemon: Option<Process>,
}

impl Containerd {
    /// Starts one on a host, with the image.
    ///
    /// # Errors
    /// `containerd`, `runc`, `ctr` or busybox is not installed (`scripts/setup`), or does not work.
    pub fn start(lab: &Lab, host: &str) -> Result<Self> {
        let folder = lab.folder.join(format!("containerd-{host}"));
        for sub in ["etc", "opt", "lib", "work-etc", "work-opt", "work-lib", "image"] {
            std::fs::create_dir_all(folder.join(sub))?;
        }
        let script = "for pair in etc:/etc opt:/opt lib:/var/lib; do name=${pair%%:*}; \
              mount -t overlay -o lowerdir=${pair#*:},upperdir=$0/$name,workdir=$0/work-$name overlay ${pair#*:}; done; \
            mkdir -p /run/containerd /opt/cni/bin /etc/cni/net.d; mount -t tmpfs none /run/containerd; \
            touch $0/ready; exec sleep infinity";
        let holder = Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "--mount-proc", "--kill-child=KILL", "nsenter"])
            .arg(format!("--net={}", lab.host(host).netns.display()))
            .args(["sh", "-ec", script])
            .arg(&folder)
            .stdin(Stdio::null())
            .spawn()?;
        let socket = folder.join("containerd.sock");
        let mut started = Self { lab: lab.name.clone(), folder, socket, holder, daemon: None };
        let ready = started.folder.join("ready");
        wait::until_true("containerd's namespaces", PATIENCE, || Ok(ready.exists()))?;
        started.start_daemon()?;
        let image = make_image(&started.folder.join("image"))?;
        for namespace in [lab.name.as_str(), "k8s.io"] {
            started.ctr(namespace, &["image", "import", &image])?;
        }
        Ok(started)
    }

    /// Starts the daemon, which finds the containers of an earlier one.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start_daemon(&mut self) -> Result<()> {
        let config = self.folder.join("config.toml");
        let shown = self.folder.display();
        // The oom score of a pod's sandbox cannot be lowered everywhere tests run.
        let text = format!(
            "version = 2\nroot = \"{shown}/root\"\nstate = \"{shown}/state\"\n[grpc]\naddress = \"{shown}/containerd.sock\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"{IMAGE}\"\n\
             netns_mounts_under_state_dir = true\nrestrict_oom_score_adj = true\n[timeouts]\n{}",
            // Its own are 2 and 5 s; a shim that takes longer, on a busy machine, would be given up.
            ["shim.load", "shim.cleanup", "shim.shutdown", "task.state"]
                .map(|what| format!("\"io.containerd.timeout.{what}\" = \"{}s\"\n", PATIENCE.as_secs()))
                .concat()
        );
        std::fs::write(&config, text)?;
        let mut command = self.command(Path::new("containerd"))?;
        command.arg("--config").arg(config);
        let mut daemon = Process::start("containerd", &mut command, &self.folder.join("containerd.log"))?;
        // Its CRI refuses all calls until it has looked at what an earlier one left, which is after it listens.
        daemon.wait_until("containerd", PATIENCE, || Ok(self.cri("Status", &[]).is_ok()))?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Kills the daemon without warning; its containers live on.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill_daemon(&mut self) -> Result<()> {
        let mut daemon = self.daemon.take().context("containerd does not run")?;
        // Ours is nsenter, which waits for it. The next one would find its database locked until it is gone.
        sh(&format!("kill -KILL {}", child_of(daemon.id())?))?;
        wait::until_true("containerd's end", PATIENCE, || Ok(daemon.check().is_err())).map(drop)
    }

    /// A program in containerd's namespaces.
    ///
    /// # Errors
    /// They are gone.
    pub fn command(&self, program: &Path) -> Result<Command> {
        let mut command = Command::new("nsenter");
        let first = child_of(self.holder.id())?;
        command.args(["--target", &first.to_string(), "--mount", "--pid", "--net", "--"]).arg(program);
        Ok(command)
    }

    /// `weft-cni install` (or another command of it), with the usual folders.
    ///
    /// # Errors
    /// What it says.
    pub fn weft_cni(&self, host: &Host, word: &str, more: &[&str]) -> Result<String> {
        let mut command = self.command(&binary("weft-cni")?)?;
        output(command.arg(word).arg("--socket").arg(host.socket()).args(more))
    }

    /// Runs `ctr` in one of containerd's namespaces.
    ///
    /// # Errors
    /// What it says.
    pub fn ctr(&self, namespace: &str, args: &[&str]) -> Result<String> {
        output(&mut self.ctr_command(namespace, args)?)
    }

    fn ctr_command(&self, namespace: &str, args: &[&str]) -> Result<Command> {
        let mut command = self.command(Path::new("ctr"))?;
        command.arg("--address").arg(&self.socket).args(["--namespace", namespace]).args(args);
        Ok(command)
    }

    /// `ctr run --cni` in the foreground: it calls ADD before the container starts and DEL when it ended.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn run(&self, id: &str, command: &[&str]) -> Result<Child> {
        let log = std::fs::File::create(self.folder.join(format!("{id}.log")))?;
        let args = [&["run", "--rm", "--cni", IMAGE, id][..], command].concat();
        let mut ctr = self.ctr_command(&self.lab, &args)?;
        Ok(ctr.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?)
    }

    /// What `ctr run` said.
    #[must_use]
    pub fn log(&self, id: &str) -> String {
        std::fs::read_to_string(self.folder.join(format!("{id}.log"))).unwrap_or_default()
    }

    /// Fetches a page from within a container that [`Containerd::run`] started; the server's first line.
    ///
    /// # Errors
    /// The connection fails.
    pub fn fetch(&self, id: &str, from: std::net::SocketAddr) -> Result<String> {
        let fetch = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | /bin/busybox nc -w 5 {} {}", from.ip(), from.port());
        // One that failed half-way may still be known by its name.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let exec = format!("fetch-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let said =
            self.ctr(&self.lab, &["task", "exec", "--exec-id", &exec, id, "/bin/busybox", "sh", "-c", &fetch])?;
        ensure!(said.starts_with("HTTP/1."), "no answer: {said:?}");
        Ok(said.lines().next().unwrap_or_default().to_owned())
    }

    /// The network namespace of a pod's sandbox, as seen from outside.
    ///
    /// # Errors
    /// It does not run.
    pub fn netns_of_pod(&self, id: &str) -> Result<PathBuf> {
        let tasks = self.ctr("k8s.io", &["task", "ls"])?;
        let line = tasks.lines().find(|line| line.starts_with(id)).with_context(|| format!("no {id}:\n{tasks}"))?;
        let pid = line.split_whitespace().nth(1).context("no process id")?;
        Ok(format!("/proc/{}/root/proc/{pid}/ns/net", child_of(self.holder.id())?).into())
    }

    /// Calls `runtime.v1.RuntimeService`, as a kubelet does: gRPC over the socket, by curl.
    ///
    /// # Errors
    /// What containerd answers.
    pub fn cri(&self, method: &str, request: &[u8]) -> Result<Vec<u8>> {
        let (body, answer) = (self.folder.join("request"), self.folder.join("answer"));
        // One message, not compressed.
        let length = u32::try_from(request.len())?.to_be_bytes();
        std::fs::write(&body, [&[0][..], &length, request].concat())?;
        let mut curl = Command::new("curl");
        curl.args(["-sSv", "--max-time", "60", "--http2-prior-knowledge", "--unix-socket"]).arg(&self.socket);
        curl.args(["-H", "content-type: application/grpc", "-H", "te: trailers", "--data-binary"]);
        curl.arg(format!("@{}", body.display())).arg("-o").arg(&answer);
        let said = curl.arg(format!("http://localhost/runtime.v1.RuntimeService/{method}")).output()?;
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        let trailer = |name: &str| said.lines().find_map(|line| line.strip_prefix("< ")?.strip_prefix(name));
        if trailer("grpc-status: ").map(str::trim) != Some("0") {
            bail!("{method}: {}", trailer("grpc-message: ").unwrap_or(&said));
        }
        Ok(std::fs::read(answer)?.split_off(5))
    }

    /// Its log.
    #[must_use]
    pub fn daemon_log(&self) -> String {
        std::fs::read_to_string(self.folder.join("containerd.log")).unwrap_or_default()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        drop(self.daemon.take());
        // With the first of its processes the kernel ends all others, and then only that one: the holder has
        // waited for it. What still ran would keep cgroups and folders from being removed.
        let ended = child_of(self.holder.id()).and_then(|first| sh(&format!("kill -KILL {first}")));
        if ended.is_err() {
            drop(self.holder.kill());
        }
        drop(self.holder.wait());
        // Containers' cgroups outlive those who were killed.
        let groups = "find /sys/fs/cgroup -depth -type d -path";
        drop(sh(&format!("{groups} */{}* -exec rmdir {{}} ;", self.lab)));
    }
}

/// The only child of a process.
fn child_of(id: u32) -> Result<u32> {
    let path = format!("/proc/{id}/task/{id}/children");
    let children = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    children.split_whitespace().next().and_then(|id| id.parse().ok()).with_context(|| format!("{path} is empty"))
}

/// Packs busybox and a page the way `docker save` does; the archive's path.
fn make_image(folder: &Path) -> Result<String> {
    std::fs::create_dir_all(folder.join("layer/bin"))?;
    std::fs::copy("/bin/busybox", folder.join("layer/bin/busybox")).context("busybox-static is not installed")?;
    std::fs::write(folder.join("layer/index.html"), "hello\n")?;
    let at = folder.display();
    sh(&format!("tar -C {at}/layer -cf {at}/layer.tar ."))?;
    let digest = sh(&format!("sha256sum {at}/layer.tar"))?;
    let digest = digest.split(' ').next().unwrap_or_default();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Entrypoint": ["/bin/busybox", "httpd", "-f", "-p", "8080", "-h", "/"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
    });
    let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]);
    std::fs::write(folder.join("config.json"), config.to_string())?;
    std::fs::write(folder.join("manifest.json"), manifest.to_string())?;
    sh(&format!("tar -C {at} -cf {at}/image.tar manifest.json config.json layer.tar"))?;
    Ok(format!("{at}/image.tar"))
}

/// A field of a protocol buffer that holds bytes: text, a message, an entry of a map.
#[must_use]
pub fn field(number: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    let mut length = value.len();
    while length > 127 {
        bytes.push(u8::try_from(length & 127).unwrap_or(0) | 128);
        length >>= 7;
    }
    bytes.push(u8::try_from(length).unwrap_or(0));
    bytes.extend_from_slice(value);
    bytes
}
