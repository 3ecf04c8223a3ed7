//! Measures the store against an etcd of its own, with and without waiting for the disk: how fast a
//! change reaches a follower, how many creates a second, how long lists and large requests take.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement for people to read")]

#[path = "../tests/common/mod.rs"]
mod common;

use common::Etcd;
use std::time::{Duration, Instant};
use weft_model::id::GroupId;
use weft_model::policy::{Policy, PortRange, Protocol};
use weft_store::EtcdStore;
use weft_store::policy::{PolicyFollower, PolicyStore};

fn policy(source: &str, destination: &str) -> Policy {
    Policy {
        source: GroupId::new(source).unwrap(),
        destination: GroupId::new(destination).unwrap(),
        protocol: Protocol::Tcp,
        ports: PortRange::new(8080, 8080).unwrap(),
    }
}

fn percentiles(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

/// From the call to the follower's view; half of it is the write itself.
async fn propagation(writer: &EtcdStore, reader: &EtcdStore, name: &str, count: usize) -> Vec<Duration> {
    let mut follower = reader.follow_policies(None).await.unwrap();
    let mut times = Vec::new();
    for n in 0..count {
        let started = Instant::now();
        let wanted = policy(&format!("{name}{n}"), "everybody");
        let request = [wanted.clone()];
        let (created, ()) = tokio::join!(writer.create(&request), async {
            while !follower.view().policies.contains(&wanted) {
                follower.changed().await.unwrap();
            }
            times.push(started.elapsed());
        });
        created.unwrap();
    }
    times
}

async fn creates(etcd: &Etcd, writers: usize, each: usize) -> f64 {
    let started = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let store = etcd.store(&writer.to_string());
            tokio::spawn(async move {
                for n in 0..each {
                    store
                        .create(&[policy(&format!("c{writers}-{writer}-{n}"), &format!("d{writers}-{writer}-{n}"))])
                        .await
                        .unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    f64::from(u32::try_from(writers * each).unwrap()) / started.elapsed().as_secs_f64()
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    for durable in [false, true] {
        let mut etcd = Etcd::down();
        etcd.durable = durable;
        etcd.up().await;
        println!("etcd {}", if durable { "with fsync" } else { "without fsync" });
        let (writer, reader) = (etcd.store("writer"), etcd.store("reader"));
        let (p50, p99) = percentiles(propagation(&writer, &reader, "p", 100).await);
        println!("  create to follower, 100 times: p50 {p50:?}, p99 {p99:?}");
        for writers in [1, 8] {
            println!(
                "  creates with two new groups, {writers} writers: {:.0}/s",
                creates(&etcd, writers, 400 / writers).await
            );
        }
        let many: Vec<_> = (0..60_000).map(|n| policy(&format!("s{}", n / 3), &format!("t{}", n % 20_000))).collect();
        let started = Instant::now();
        writer.create(&many).await.unwrap();
        println!("  60,000 policies in one request: {:?}", started.elapsed());
        let started = Instant::now();
        let view = reader.policies().await.unwrap();
        println!("  listing {}: {:?}", view.policies.len(), started.elapsed());
        let (p50, p99) = percentiles(propagation(&writer, &reader, "q", 100).await);
        println!("  create to follower among them: p50 {p50:?}, p99 {p99:?}");
        let started = Instant::now();
        writer.sweep().await.unwrap();
        println!("  sweep among them: {:?}", started.elapsed());
    }
}
