//! Who plays: a web server and a DNS server in pods, an app on the cell, and their groups.

use crate::lab::Lab;
use crate::probe::{self, HttpServer, Seen};
use crate::process::Process;
use crate::shell::command_in;
use crate::wait::PATIENCE;
use crate::workload::{Workload, WorkloadOptions};
use anyhow::Result;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long an answer to a datagram is waited for before it is sent again.
const AGAIN: Duration = Duration::from_secs(1);

/// The web server's group.
pub(super) const SHOP: &str = "k8s:lab/shop";
/// The DNS server's group.
pub(super) const DNS: &str = "k8s:lab/dns";
/// The app's GUID.
pub(super) const APP: &str = "1081ceac-f5c4-47a8-95e8-88e1e302efb5";
/// The name the DNS server knows.
pub(super) const NAME: &str = "web.shop.svc.cluster.local";

pub(super) struct Cast {
    pub(super) web: Workload,
    pub(super) app: Workload,
    pub(super) dns: Workload,
    server: HttpServer,
    _dnsmasq: Process,
}

impl Cast {
    /// Starts everybody. Two policies that have nothing to do with the story isolate the two
    /// namespaces (kind kubernetes: a group is isolated once some policy names it as destination) and
    /// make the app known (a group has a tag once some policy names it).
    pub(super) fn assemble(lab: &mut Lab) -> Result<Self> {
        let web = lab.add("n1", &WorkloadOptions::pod("web-0", "shop"))?;
        let dns = lab.add("n2", &WorkloadOptions::pod("kube-dns-0", "dns"))?;
        let app = lab.add("c1", &WorkloadOptions::app("app", APP))?;
        let server = HttpServer::start(&web.netns, 8080)?;
        let mut command = command_in(&dns.netns, Path::new("dnsmasq"));
        command
            .args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--log-facility=-"])
            .args(["--user=root", "--pid-file=", "--bind-interfaces", "--listen-address"])
            .args([dns.ip.to_string(), format!("--address=/{NAME}/{}", web.ip)]);
        let mut dnsmasq = Process::start("dnsmasq", &mut command, &lab.folder.join("dnsmasq.log"))?;
        let here = SocketAddr::from((dns.ip, 53));
        dnsmasq.wait_until("dnsmasq to answer in its own pod", PATIENCE, || {
            Ok(probe::resolve(&dns.netns, here, NAME, AGAIN).is_ok())
        })?;
        lab.weft(&["policies", "allow", "--from", "monitoring", "--to", SHOP, "--port", "9100"])?;
        lab.weft(&["policies", "allow", "--from", "monitoring", "--to", DNS, "--port", "9100"])?;
        lab.weft(&["policies", "allow", "--from", APP, "--to", "billing", "--port", "8080", "--wait"])?;
        Ok(Self { web, app, dns, server, _dnsmasq: dnsmasq })
    }

    /// The app's request to the web server.
    pub(super) fn request(&self) -> io::Result<Seen> {
        probe::get(&self.app.netns, self.web_address(), PATIENCE)
    }

    /// The app's look-up, asked again while nothing comes back: a datagram may be lost.
    pub(super) fn look_up(&self) -> io::Result<Ipv4Addr> {
        let (start, server) = (Instant::now(), SocketAddr::from((self.dns.ip, 53)));
        loop {
            match probe::resolve(&self.app.netns, server, NAME, AGAIN) {
                Err(silence) if silence.kind() == io::ErrorKind::WouldBlock && start.elapsed() < PATIENCE => {}
                end => return end,
            }
        }
    }

    pub(super) fn web_address(&self) -> SocketAddr {
        SocketAddr::from((self.web.ip, self.server.port()))
    }
}
