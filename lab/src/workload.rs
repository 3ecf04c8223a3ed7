//! Workloads, wired by the real plugin called as runtimes call it: environment and stdin are those
//! that containerd 2.3 and garden-external-networker were recorded to send, with our plugin's name
//! and section in them.

use crate::host::Host;
use crate::shell::{binary, command_in};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};

/// Which runtime speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dialect {
    /// containerd's CRI on a Kubernetes node.
    Containerd {
        /// The pod's namespace.
        namespace: String,
        /// The annotation `weft/policy-group`, if any.
        group: Option<String>,
    },
    /// garden-external-networker on a Diego cell.
    Garden {
        /// The app's GUID; `None`: the rep's health check, which has no identity.
        app: Option<String>,
    },
}

/// What a workload should be.
#[derive(Debug, Clone)]
pub struct WorkloadOptions {
    /// Its name: part of its namespace's and of its container id.
    pub name: String,
    /// Who starts it.
    pub dialect: Dialect,
    /// More of `runtimeConfig`.
    pub runtime: serde_json::Map<String, Value>,
}

impl WorkloadOptions {
    /// A pod.
    #[must_use]
    pub fn pod(name: &str, namespace: &str) -> Self {
        Self::new(name, Dialect::Containerd { namespace: namespace.to_owned(), group: None })
    }

    /// A workload without capabilities.
    #[must_use]
    pub fn new(name: &str, dialect: Dialect) -> Self {
        Self { name: name.to_owned(), dialect, runtime: serde_json::Map::new() }
    }

    /// An app instance.
    #[must_use]
    pub fn app(name: &str, app: &str) -> Self {
        Self::new(name, Dialect::Garden { app: Some(app.to_owned()) })
    }

    /// With a capability of `runtimeConfig`, as its runtime writes it.
    #[must_use]
    pub fn with(mut self, capability: &str, value: Value) -> Self {
        self.runtime.insert(capability.to_owned(), value);
        self
    }

    /// The group policies know it by, in a lab (cluster `lab`).
    #[must_use]
    pub fn group(&self) -> Option<String> {
        match &self.dialect {
            Dialect::Containerd { namespace, group: None } => Some(format!("k8s:lab/{namespace}")),
            Dialect::Containerd { namespace, group: Some(group) } => Some(format!("k8s:lab/{namespace}/{group}")),
            Dialect::Garden { app } => app.clone(),
        }
    }
}

/// A wired workload.
#[derive(Debug, Clone)]
pub struct Workload {
    /// What it is.
    pub options: WorkloadOptions,
    /// Its container id.
    pub container_id: String,
    /// Its namespace.
    pub netns: PathBuf,
    /// Its address.
    pub ip: Ipv4Addr,
    /// The plugin's result.
    pub result: Value,
}

/// One call of the plugin.
#[derive(Debug, Clone)]
pub struct CniCall {
    /// `CNI_COMMAND`.
    pub command: String,
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_NETNS`.
    pub netns: String,
    /// `CNI_ARGS`.
    pub args: String,
    /// Standard input.
    pub stdin: Value,
    /// More environment, or other values for the variables runtimes always set.
    pub environment: Vec<(&'static str, String)>,
}

impl CniCall {
    /// Runs the plugin in the host's namespace with exactly the environment runtimes give.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn run(&self, host: &Host) -> Result<Output> {
        Ok(self.start(host)?.wait_with_output()?)
    }

    /// Starts the plugin and waits for nothing.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&self, host: &Host) -> Result<Child> {
        let mut command = command_in(&host.netns, &binary("weft-cni")?);
        command
            .current_dir("/")
            .env("CNI_COMMAND", &self.command)
            .env("CNI_CONTAINERID", &self.container_id)
            .env("CNI_NETNS", &self.netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/opt/cni/bin")
            .env("CNI_ARGS", &self.args)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot start weft-cni")?;
        let stdin = serde_json::to_vec(&self.stdin)?;
        match child.stdin.take().context("no stdin")?.write_all(&stdin) {
            // A plugin that refuses its environment ends without reading; what it says is what counts.
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(child),
        }
    }

    /// Runs it and gives its result.
    ///
    /// # Errors
    /// It fails: its error document.
    pub fn expect(&self, host: &Host) -> Result<Value> {
        let Output { status, stdout, stderr } = self.run(host)?;
        let text = String::from_utf8_lossy(&stdout);
        if !status.success() {
            bail!(
                "weft-cni {} {}: {status}: {}{}",
                self.command,
                self.container_id,
                text.trim(),
                String::from_utf8_lossy(&stderr)
            );
        }
        if text.trim().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).with_context(|| format!("weft-cni printed {text:?}"))
    }
}

/// The call a runtime makes first.
#[must_use]
pub fn add_call(host: &Host, options: &WorkloadOptions, container_id: &str, netns: &Path) -> CniCall {
    let section = json!({"socket": host.socket()});
    let (args, mut stdin) = match &options.dialect {
        Dialect::Containerd { namespace, group } => {
            containerd(options, container_id, namespace, group.as_deref(), &section)
        }
        Dialect::Garden { app } => (String::new(), garden(app.as_deref(), &section)),
    };
    for (capability, value) in &options.runtime {
        stdin["runtimeConfig"][capability] = value.clone();
    }
    CniCall {
        command: "ADD".to_owned(),
        container_id: container_id.to_owned(),
        netns: netns.display().to_string(),
        args,
        stdin,
        environment: Vec::new(),
    }
}

fn containerd(
    options: &WorkloadOptions,
    container_id: &str,
    namespace: &str,
    group: Option<&str>,
    section: &Value,
) -> (String, Value) {
    let uid = "8c5a04e3-4f48-4cfb-8256-dbbd02734cde";
    let name = &options.name;
    let args = format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_INFRA_CONTAINER_ID={container_id};K8S_POD_UID={uid}"
    );
    let mut annotations = json!({
        "kubernetes.io/config.seen": "2026-11-21T07:10:50.392256146Z",
        "kubernetes.io/config.source": "api"
    });
    if let Some(group) = group {
        annotations["weft/policy-group"] = group.into();
    }
    let stdin = json!({
        "capabilities": {"bandwidth": true, "cgroupPath": true, "dns": true, "io.kubernetes.cri.pod-annotations": true},
        "cniVersion": "1.1.0",
        "name": "weft",
        "runtimeConfig": {
            "cgroupPath": format!("/kubepods/besteffort/pod{uid}"),
            "dns": {"Servers": ["10.96.0.10"], "Searches": ["default.svc.cluster.local", "svc.cluster.local", "cluster.local"], "Options": ["ndots:5"]},
            "io.kubernetes.cri.pod-annotations": annotations
        },
        "type": "weft-cni",
        "weft": section
    });
    (args, stdin)
}

fn garden(app: Option<&str>, section: &Value) -> Value {
    let metadata = match app {
        None => json!({"healthcheck": "true"}),
        Some(app) => json!({
            "app_id": app,
            "container_workload": "app",
            "log_config": format!("{{\"guid\":\"{app}\",\"index\":0,\"source_name\":\"APP/PROC/WEB\",\"tags\":{{\"app_id\":\"{app}\"}}}}"),
            "org_id": "6f",
            "policy_group_id": app,
            "ports": "8080",
            "space_id": "5e"
        }),
    };
    json!({
        "cniVersion": "1.0.0",
        "metadata": metadata,
        "name": "weft",
        "runtimeConfig": {"netOutRules": null, "portMappings": null},
        "type": "weft-cni",
        "weft": section
    })
}

/// The call a runtime makes at the end: containerd with the result and the namespace, Garden with
/// nothing of what ADD was told.
#[must_use]
pub fn del_call(host: &Host, workload: &Workload) -> CniCall {
    let mut call = add_call(host, &workload.options, &workload.container_id, &workload.netns);
    call.command = "DEL".to_owned();
    if let (Dialect::Garden { .. }, Some(stdin)) = (&workload.options.dialect, call.stdin.as_object_mut()) {
        stdin.remove("metadata");
        stdin.remove("runtimeConfig");
    }
    call.stdin["prevResult"] = workload.result.clone();
    call
}

/// The address in a result.
///
/// # Errors
/// There is none.
pub fn address(result: &Value) -> Result<Ipv4Addr> {
    let text = result["ips"][0]["address"].as_str().with_context(|| format!("no address in {result}"))?;
    Ok(text.split('/').next().unwrap_or_default().parse()?)
}
