//! Real traffic, in turn with the same without us: round trips on one host against a plain Linux bridge,
//! throughput between hosts against the same VXLAN without programs, and with our nftables rules alone.
//!
//! Throughput is said twice. By the clock (`…_ratio`) it is what users see, and on a machine that others use as well it is
//! mostly their doing. By processor time (`…_cpu_ratio`: bytes for each microsecond that both ends' threads ran) it is
//! what a byte costs: a packet is carried from end to end by whoever sends it, both hosts being namespaces of one kernel,
//! so both ends' system calls and all programs, rules and devices between them are in it, on two processors in all. Left
//! out is what the kernel does in threads of its own when it is late.

use super::Summary;
use super::stats::median_with_bounds;
use crate::lab::Lab;
use crate::probe::inside;
use crate::shell::sh_in;
use crate::underlay::{add_netns, netns, plug, prefix};
use crate::workload::WorkloadOptions;
use anyhow::{Context, Result};
use nix::time::{ClockId, clock_gettime};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

const PAIRS: usize = 40;
const ROUND_TRIPS: usize = 1000;
const TRANSFER: Duration = Duration::from_millis(200);
const PORT: u16 = 8080;

pub(super) fn measure(lab: &mut Lab, summary: &mut Summary) -> Result<()> {
    let client = lab.add("n1", &WorkloadOptions::pod("client", "traffic"))?;
    let near = lab.add("n1", &WorkloadOptions::pod("near", "traffic"))?;
    let far = lab.add("n2", &WorkloadOptions::pod("far", "traffic"))?;
    lab.weft(&[
        "policies",
        "allow",
        "--from",
        "k8s:lab/traffic",
        "--to",
        "k8s:lab/traffic",
        "--port",
        "8080",
        "--wait",
    ])?;
    let plain = Plain::make(lab)?;
    let near_by = Pair::connect(&client.netns, &near.netns, near.ip)?;
    let bridge = Pair::connect(&plain.netns("a"), &plain.netns("b"), Plain::B)?;
    let turn = Turn { name: "rr_same_host", ours: &near_by, baseline: &bridge };
    let [rates, _] = in_turn(summary, &turn, Pair::round_trips)?;
    // Time, not rate: less is better.
    put_ratio(summary, turn.name, &rates.iter().map(|rate| 1.0 / rate).collect::<Vec<_>>());
    throughput(summary, &Turn { name: "tput_same_host", ..turn })?;
    let across = Pair::connect(&client.netns, &far.netns, far.ip)?;
    let vxlan = Pair::connect(&plain.netns("a"), &plain.netns("c"), Plain::C)?;
    throughput(summary, &Turn { name: "tput_cross_host", ours: &across, baseline: &vxlan })?;
    // What of it is our rules': the same VXLAN with them, against ours.
    plain.take_rules_of(lab)?;
    throughput(summary, &Turn { name: "tput_cross_host_programs", ours: &across, baseline: &vxlan })?;
    for (host, workload) in [("n1", &client), ("n1", &near), ("n2", &far)] {
        lab.del(host, workload)?;
    }
    Ok(())
}

/// Two hosts as any VXLAN network makes them: a bridge, veths, routes; no programs, no policy. `a` and `b`
/// are on the first, `c` on the second. The names are those of our devices, so that our rules fit.
struct Plain {
    lab: String,
}

impl Plain {
    const A: Ipv4Addr = Ipv4Addr::new(10, 255, 251, 2);
    const B: Ipv4Addr = Ipv4Addr::new(10, 255, 251, 3);
    const C: Ipv4Addr = Ipv4Addr::new(10, 255, 252, 2);
    const HOSTS: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 91), Ipv4Addr::new(192, 0, 2, 92)];

    fn make(lab: &Lab) -> Result<Self> {
        let plain = Self { lab: lab.name.clone() };
        for (number, address) in (1..).zip(Self::HOSTS) {
            plain.host(number, address)?;
        }
        for (name, host, address) in [("a", 1, Self::A), ("b", 1, Self::B), ("c", 2, Self::C)] {
            plain.workload(name, host, address)?;
        }
        Ok(plain)
    }

    fn netns(&self, name: &str) -> std::path::PathBuf {
        netns(&self.lab, &format!("plain-{name}"))
    }

    fn host(&self, number: u8, address: Ipv4Addr) -> Result<()> {
        let name = format!("plain-{number}");
        let host = add_netns(&self.lab, &name)?;
        plug(&self.lab, &name, address)?;
        let (own, other) = (250 + number, 253 - number);
        let mac = |subnet: u8| format!("ee:ee:0a:ff:{subnet:02x}:00");
        for line in [
            "sysctl -qw net.ipv4.ip_forward=1".to_owned(),
            "ip link add weft0 mtu 1450 type bridge".to_owned(),
            format!("ip addr add 10.255.{own}.1/24 dev weft0"),
            "ip link set weft0 up".to_owned(),
            format!(
                "ip link add weft-vx1 address {} mtu 1450 type vxlan id 1 dstport 8472 nolearning gbp dev eth0",
                mac(own)
            ),
            format!("ip addr add 10.255.{own}.0/32 dev weft-vx1"),
            "ip link set weft-vx1 up".to_owned(),
            format!("ip neigh add 10.255.{other}.0 lladdr {} dev weft-vx1", mac(other)),
            format!("bridge fdb add {} dev weft-vx1 dst {}", mac(other), Self::HOSTS[usize::from(2 - number)]),
            format!("ip route add 10.255.{other}.0/24 via 10.255.{other}.0 dev weft-vx1 onlink"),
        ] {
            sh_in(&host, &line)?;
        }
        Ok(())
    }

    fn workload(&self, name: &str, host: u8, address: Ipv4Addr) -> Result<()> {
        let inside = add_netns(&self.lab, &format!("plain-{name}"))?;
        let host = self.netns(&host.to_string());
        let peer = format!("{}plain-{name}", prefix(&self.lab));
        sh_in(&host, &format!("ip link add v{name} mtu 1450 type veth peer name eth0 netns {peer}"))?;
        sh_in(&host, &format!("ip link set v{name} master weft0 up"))?;
        let [_, _, subnet, _] = address.octets();
        for line in [
            "ip link set eth0 mtu 1450 up".to_owned(),
            format!("ip addr add {address}/24 dev eth0"),
            format!("ip route add default via 10.255.{subnet}.1"),
        ] {
            sh_in(&inside, &line)?;
        }
        Ok(())
    }

    /// Puts the rules of our own host in force here.
    fn take_rules_of(&self, lab: &Lab) -> Result<()> {
        let rules = lab.folder.join("bench.nft");
        // nft does not read what it lists of some rules of mapped ports, of which there are none here.
        let listed = lab.host("n1").sh("nft list table ip weft")?;
        let readable: Vec<&str> = listed.lines().filter(|line| !line.contains("ct original")).collect();
        std::fs::write(&rules, readable.join("\n"))?;
        for number in ["1", "2"] {
            sh_in(&self.netns(number), &format!("nft -f {}", rules.display()))?;
        }
        Ok(())
    }
}

/// A connection, both ends in our hands.
struct Pair {
    client: TcpStream,
    server: TcpStream,
}

impl Pair {
    fn connect(from: &Path, to: &Path, address: Ipv4Addr) -> Result<Self> {
        let listener = inside(to, || TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)))??;
        let to = SocketAddr::from((address, PORT));
        let client = inside(from, || TcpStream::connect_timeout(&to, Duration::from_secs(5)))?
            .with_context(|| format!("{} to {to}", from.display()))?;
        let (server, _) = listener.accept()?;
        for end in [&client, &server] {
            end.set_nodelay(true)?;
            end.set_read_timeout(Some(Duration::from_secs(30)))?;
            end.set_write_timeout(Some(Duration::from_secs(30)))?;
        }
        Ok(Self { client, server })
    }

    /// Round trips a microsecond.
    fn round_trips(&self) -> Result<Rate> {
        let mut byte = [0_u8; 1];
        std::thread::scope(|scope| {
            let echo = scope.spawn(|| -> std::io::Result<()> {
                let mut byte = [0_u8; 1];
                for _ in 0..ROUND_TRIPS {
                    (&self.server).read_exact(&mut byte)?;
                    (&self.server).write_all(&byte)?;
                }
                Ok(())
            });
            let start = Watch::start()?;
            for _ in 0..ROUND_TRIPS {
                (&self.client).write_all(&byte)?;
                (&self.client).read_exact(&mut byte)?;
            }
            let rate = start.rate(ROUND_TRIPS as u64)?;
            echo.join().map_err(|_panic| anyhow::anyhow!("the echo panicked"))??;
            Ok(rate)
        })
    }

    /// Bytes a microsecond, as the receiver has them.
    fn throughput(&self) -> Result<Rate> {
        let watch = Watch::start()?;
        let chunk = vec![b'.'; 256 << 10];
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| -> std::io::Result<u64> {
                let (start, mut sent) = (Instant::now(), 0);
                while start.elapsed() < TRANSFER {
                    (&self.client).write_all(&chunk)?;
                    sent += chunk.len() as u64;
                }
                // The receiver answers the last byte: nothing of this transfer is left for the next.
                (&self.client).write_all(b"!")?;
                Ok(sent + 1)
            });
            let (mut buffer, mut received) = (vec![0; 256 << 10], 0_u64);
            loop {
                let read = (&self.server).read(&mut buffer)?;
                anyhow::ensure!(read > 0, "the connection closed");
                received += read as u64;
                if buffer[read - 1] == b'!' {
                    break;
                }
            }
            let rate = watch.rate(received)?;
            let sent = sender.join().map_err(|_panic| anyhow::anyhow!("the sender panicked"))??;
            anyhow::ensure!(sent == received, "{sent} bytes sent, {received} received");
            Ok(rate)
        })
    }
}

/// How much of something a microsecond.
struct Rate {
    /// By the clock.
    wall: f64,
    /// By what this process ran.
    cpu: f64,
}

/// Both clocks at a beginning.
struct Watch {
    wall: Instant,
    cpu: Duration,
}

impl Watch {
    fn start() -> Result<Self> {
        Ok(Self { wall: Instant::now(), cpu: Self::ran()? })
    }

    /// Processor time of all threads of this process.
    fn ran() -> Result<Duration> {
        Ok(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?.into())
    }

    fn rate(&self, done: u64) -> Result<Rate> {
        let per_us = |took: Duration| done as f64 / took.as_secs_f64() / 1e6;
        Ok(Rate { wall: per_us(self.wall.elapsed()), cpu: per_us(Self::ran()?.saturating_sub(self.cpu)) })
    }
}

/// Something measured, and what it is measured against, each with a name of its own.
struct Turn<'a> {
    name: &'a str,
    ours: &'a Pair,
    baseline: &'a Pair,
}

/// Measures throughput, and puts its ratios.
fn throughput(summary: &mut Summary, turn: &Turn<'_>) -> Result<()> {
    let [wall, cpu] = in_turn(summary, turn, Pair::throughput)?;
    put_ratio(summary, turn.name, &wall);
    put_ratio(summary, &format!("{}_cpu", turn.name), &cpu);
    Ok(())
}

/// Measures both in turn, which of them first in turn as well; puts both rates. The ratios (ours ÷ baseline) of each
/// pair, by the clock and by processor time.
fn in_turn(summary: &mut Summary, turn: &Turn<'_>, rate: impl Fn(&Pair) -> Result<Rate>) -> Result<[Vec<f64>; 2]> {
    let (mut ours, mut baseline) = (Vec::new(), Vec::new());
    for pair in 0..=PAIRS {
        let first_ours = pair % 2 == 0;
        let first = rate(if first_ours { turn.ours } else { turn.baseline })?;
        let second = rate(if first_ours { turn.baseline } else { turn.ours })?;
        // One pair to warm up, not counted.
        if pair > 0 {
            let (one, other) = if first_ours { (first, second) } else { (second, first) };
            ours.push(one);
            baseline.push(other);
        }
    }
    let median = |rates: &[Rate]| median_with_bounds(&rates.iter().map(|rate| rate.wall).collect::<Vec<_>>()).0;
    summary.insert(format!("{}_per_us", turn.name), median(&ours));
    summary.insert(format!("{}_baseline_per_us", turn.name), median(&baseline));
    let ratios = |of: fn(&Rate) -> f64| ours.iter().zip(&baseline).map(|(ours, base)| of(ours) / of(base)).collect();
    Ok([ratios(|rate| rate.wall), ratios(|rate| rate.cpu)])
}

fn put_ratio(summary: &mut Summary, name: &str, ratios: &[f64]) {
    let (ratio, low, high) = median_with_bounds(ratios);
    summary.insert(format!("{name}_ratio"), ratio);
    summary.insert(format!("{name}_ratio_low"), low);
    summary.insert(format!("{name}_ratio_high"), high);
}
