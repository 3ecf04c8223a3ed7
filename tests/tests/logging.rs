//! What a host logs of denied and allowed connections: its shape, its switches while traffic runs, its
//! file in the hands of log rotation and on a full disk.

#![expect(clippy::unwrap_used, reason = "in a test, what cannot be is a failure")]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use weft_api::logging::LoggingView;
use weft_lab::probe::{self, HttpServer};
use weft_lab::wait::{until, until_true};
use weft_lab::{Host, Lab, Workload, WorkloadOptions};
use weft_tests::{PATIENCE, lab_with};

/// A lab whose hosts leave out no record, with an app on the cell, a server in it, and a pod elsewhere.
struct Scene {
    lab: Lab,
    web: Workload,
    pod: Workload,
    _server: HttpServer,
}

fn scene(stem: &str, flags: &[&str]) -> Scene {
    let all = ["--denials-per-second", "0", "--workload-records-per-second", "0"];
    let mut lab = lab_with(stem, |host| host.flags.extend(all.iter().chain(flags).map(|flag| (*flag).to_owned())));
    let web = lab.add("c1", &WorkloadOptions::app("web", "3b1c")).unwrap();
    let pod = lab.add("n1", &WorkloadOptions::pod("pod", "shop")).unwrap();
    let server = HttpServer::start(&web.netns, 8080).unwrap();
    Scene { lab, web, pod, _server: server }
}

impl Scene {
    fn cell(&self) -> &Host {
        self.lab.host("c1")
    }

    fn log(&self) -> PathBuf {
        self.cell().run_file("denials.log")
    }

    fn to(&self, port: u16) -> SocketAddr {
        (self.web.ip, port).into()
    }

    /// Whether the pod reaches the app.
    fn reaches(&self) -> bool {
        probe::get(&self.pod.netns, self.to(8080), PATIENCE).is_ok()
    }

    /// A denied connection to a port, and its line in the log.
    fn denied(&self, port: u16) -> Value {
        drop(probe::connects(&self.pod.netns, self.to(port), PATIENCE));
        self.line(&format!("about port {port}"), |line| line["data"]["packet"]["dst_port"] == port)
    }

    /// The last line that is wanted: what a packet leaves is written some time after it.
    fn line(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let find = || {
            let text = fs::read_to_string(self.log())?;
            let lines: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
            lines.into_iter().rfind(&wanted).ok_or_else(|| anyhow::anyhow!("no such line in\n{text}"))
        };
        until(&format!("a line {what}"), PATIENCE, find).unwrap().0
    }

    /// A line of the kernel log with all these words. The kernel takes few lines of one process in a second, so
    /// what leaves one is done again. Where the log cannot be written, weft writes none.
    fn kernel_line(&self, words: &[&str], again: impl Fn()) {
        if File::options().write(true).open("/dev/kmsg").is_err() {
            return;
        }
        let find = || {
            again();
            Ok(weft_lab::shell::sh("dmesg")?.lines().any(|line| words.iter().all(|word| line.contains(word))))
        };
        until_true(&format!("a line of the kernel log with {words:?}"), PATIENCE, find).unwrap();
    }

    fn weft(&self, line: &str) -> String {
        self.lab.weft_on("c1", &line.split_whitespace().collect::<Vec<_>>()).unwrap()
    }

    fn logging(&self) -> LoggingView {
        self.cell().get("/v1/logging").unwrap()
    }

    fn hang_up(&self) {
        let id = i32::try_from(self.cell().agent_id().unwrap()).unwrap();
        kill(Pid::from_raw(id), Signal::SIGHUP).unwrap();
    }
}

#[test]
fn what_is_logged_and_what_only_is_are_switched_while_traffic_runs() {
    let mut scene = scene("switches", &[]);
    let stranger = scene.lab.add("c1", &WorkloadOptions::app("stranger", "ffff")).unwrap();
    // The shape of CF's iptables-logger.
    let line = scene.denied(81);
    let (packet, container) = (&line["data"]["packet"], &line["data"]["destination"]);
    assert_eq!(
        (&line["source"], &line["message"]),
        (&"cfnetworking.iptables".into(), &"cfnetworking.iptables.ingress-denied".into())
    );
    assert_eq!(
        (&container["container_id"], &container["app_guid"]),
        (&scene.web.container_id.clone().into(), &"3b1c".into())
    );
    assert_eq!((&container["space_guid"], &container["organization_guid"]), (&"5e".into(), &"6f".into()), "{line}");
    assert_eq!(container["host_ip"], scene.cell().address.to_string());
    assert_eq!((&packet["allowed"], &packet["protocol"]), (&false.into(), &"TCP".into()));
    assert_eq!(packet["src_ip"], scene.pod.ip.to_string());
    assert_eq!((&line["data"]["weft"]["reason"], &line["data"]["weft"]["rule"]), (&"policy".into(), &Value::Null));
    // The absence of a rule, and what closes the app then.
    let decision = &line["data"]["weft"]["decision"];
    let because = "the workload is isolated (isolation always)";
    assert_eq!(decision["text"], format!("no rule allows {} → 3b1c tcp 81: {because}", scene.pod.ip), "{line}");
    assert_eq!((&decision["because"], &decision["isolation"]), (&"isolated".into(), &"always".into()));

    // Audit of one group: it is reached, the other is not.
    assert!(!scene.reaches());
    let shown = scene.weft("logging set --audit-groups 3b1c");
    assert!(shown.contains("what is denied to these groups passes: 3b1c"), "{shown}");
    assert!(scene.reaches(), "audited, and yet denied");
    let _other = HttpServer::start(&stranger.netns, 8080).unwrap();
    assert!(probe::get(&scene.pod.netns, (stranger.ip, 8080).into(), PATIENCE).is_err(), "not its group");
    let line = scene.line("about the stranger", |line| line["data"]["packet"]["dst_ip"] == stranger.ip.to_string());
    assert_eq!(line["data"]["weft"]["action"], "reject", "{line}");
    let line = scene.line("about what was audited", |line| line["data"]["weft"]["action"] == "audit");
    assert_eq!(line["data"]["packet"]["allowed"], true, "it passed: {line}");

    // A change outlives the agent.
    let host = scene.lab.host_mut("c1");
    host.kill_agent().unwrap();
    assert!(probe::get(&scene.pod.netns, (scene.web.ip, 8080).into(), PATIENCE).is_ok(), "the programs need no agent");
    let host = scene.lab.host_mut("c1");
    host.start_agent().unwrap();
    host.wait_ready(PATIENCE).unwrap();
    assert!(scene.reaches(), "forgotten by a restart");
    let shown = scene.weft("logging reset");
    assert!(shown.contains("audit           off\n"), "{shown}");
    assert!(!scene.reaches(), "audit went on");

    // The whole host, and back.
    scene.weft("logging set --audit on");
    assert!(scene.reaches());
    scene.weft("logging set --audit off");
    assert!(!scene.reaches());

    // Allowed connections, by their first packet.
    scene
        .lab
        .weft(&["policies", "allow", "--from", "k8s:lab/shop", "--to", "3b1c", "--port", "8080", "--wait"])
        .unwrap();
    assert!(scene.reaches());
    scene.weft("logging set --allowed on");
    assert!(scene.reaches());
    let line = scene.line("about what was allowed", |line| line["data"]["weft"]["action"] == "allow");
    assert_eq!(line["message"], "cfnetworking.iptables.ingress-allowed", "{line}");
    assert_eq!(line["data"]["packet"]["dst_port"], 8080, "{line}");
    let weft = &line["data"]["weft"];
    assert_eq!((&weft["tcpFlags"], &weft["source"]["group"]), (&"SYN".into(), &"k8s:lab/shop".into()));
    assert!(weft["rule"].as_u64().is_some_and(|rule| rule > 0), "{weft}");
    // Where Silk's operators look, in the words they know.
    let tag = u32::from_str_radix(weft["source"]["tag"].as_str().unwrap(), 16).unwrap();
    let ends = format!("SRC={} DST={}", scene.pod.ip, scene.web.ip);
    let words =
        [&format!("OK_{tag:04X}_3b1c IN= OUT="), &ends, "DPT=8080 SYN MARK=", &format!("RULE={}", weft["rule"])];
    scene.kernel_line(&words, || assert!(scene.reaches()));
    let prefix: String = format!("DENY_C2C_{}", scene.web.container_id).chars().take(28).collect();
    let words = [&format!("{prefix} IN= OUT="), &ends, "DPT=86 SYN MARK=", "REASON=policy RULE=none"];
    scene.kernel_line(&words, || drop(scene.denied(86)));
    // The policy that allows, and, of the same group, that none does.
    let decision = &weft["decision"];
    assert_eq!(decision["origin"], "policy k8s:lab/shop → 3b1c tcp 8080", "{weft}");
    assert_eq!((&decision["tier"], &decision["because"]), (&"policy".into(), &"rule".into()));
    let revision = scene.cell().status().unwrap().enforced_revision;
    assert_eq!(decision["revision"], revision, "{weft}");
    let absent = format!("no rule allows k8s:lab/shop → 3b1c tcp 84: {because}");
    assert_eq!(scene.denied(84)["data"]["weft"]["decision"]["text"], absent);
    let shown = || Ok(scene.weft("denials").lines().any(|line| line.contains(":84 (3b1c)") && line.ends_with(&absent)));
    until_true("weft denials to say so", PATIENCE, shown).unwrap();
    // What the agent starts anew with is known to it as soon as it has written its own.
    let host = scene.lab.host_mut("c1");
    host.kill_agent().unwrap();
    host.start_agent().unwrap();
    host.wait_ready(PATIENCE).unwrap();
    let known = || {
        let line = scene.denied(85);
        anyhow::ensure!(line["data"]["weft"]["decision"]["because"] == "isolated", "{line}");
        Ok(())
    };
    until("the agent to know its policies", PATIENCE, known).unwrap();

    // What cannot be is refused, and nothing changes.
    let before = scene.logging();
    let refused = scene.lab.weft_on("c1", &["logging", "set", "--audit", "on", "--denials-burst", "0"]);
    assert!(format!("{:#}", refused.unwrap_err()).contains("denials_burst: invalid value \"0\": a number from 1"));
    assert_eq!(scene.logging().in_force, before.in_force);
}

/// The file is changed and the signal sent; flags and what was changed by hand win over it.
#[test]
fn the_configuration_is_read_again_at_the_signal() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("weftd.toml");
    fs::write(&config, "").unwrap();
    let scene = scene("reread", &["--config", config.to_str().unwrap()]);
    let reread = |text: &str, shown: &str| {
        fs::write(&config, text).unwrap();
        let times = || scene.cell().agent_log().matches(shown).count();
        let before = times();
        scene.hang_up();
        until_true(shown, PATIENCE, || Ok(times() > before)).unwrap();
    };
    let audited = || scene.logging().in_force.audit;
    let becomes = |wanted| until_true("the options in force", PATIENCE, || Ok(audited() == wanted)).unwrap();
    assert!(!scene.reaches());
    reread("audit = true\ndenials_per_second = 7\n", "SIGHUP");
    becomes(true);
    assert!(scene.reaches(), "audited, and yet denied");
    assert_eq!(scene.logging().in_force.denials_per_second, 0, "the flag says so");
    // What cannot be is said, and changes nothing.
    reread("audit = false\ndenials_burst = 0\n", "denials_burst");
    assert!(audited() && scene.reaches());
    scene.weft("logging set --allowed on");
    reread("audit = false\nlog_allowed = false\n", "SIGHUP");
    becomes(false);
    assert!(!scene.reaches());
    assert!(scene.logging().in_force.allowed, "changed by hand");
}

#[test]
fn a_log_file_is_rotated_by_signal_and_by_copying() {
    let scene = scene("rotation", &[]);
    let (log, old) = (scene.log(), scene.cell().run_file("denials.log.old"));
    scene.denied(81);
    // Moved away: the signal makes the new one, without waiting for a record.
    fs::rename(&log, &old).unwrap();
    scene.hang_up();
    until("the new file", PATIENCE, || fs::metadata(&log)).unwrap();
    scene.denied(82);
    assert!(
        !fs::read_to_string(&old).unwrap().contains(r#""dst_port":82,"#),
        "written to the file that was moved away"
    );
    // Copied and cut: the next line is the file's first.
    fs::copy(&log, &old).unwrap();
    File::options().write(true).open(&log).unwrap().set_len(0).unwrap();
    scene.denied(83);
    assert!(fs::read(&log).unwrap().starts_with(b"{"), "a hole where the old lines were");
    // The signal reads the configuration too; flags have not changed.
    let said = || Ok(scene.cell().agent_log().contains("SIGHUP: the log file is opened anew"));
    until_true("the agent to say so", PATIENCE, said).unwrap();
}

#[test]
fn a_full_disk_is_an_alarm_and_costs_nothing_but_the_lines() {
    let mut scene = scene("full", &["--metrics-listen", "127.0.0.1:9469"]);
    let log = scene.log();
    scene.denied(81);
    fs::remove_file(&log).unwrap();
    std::os::unix::fs::symlink("/dev/full", &log).unwrap();
    let mut port = 1000;
    let alarmed = || -> anyhow::Result<()> {
        port += 1;
        drop(probe::connects(&scene.pod.netns, scene.to(port), PATIENCE));
        let status = scene.cell().status()?;
        let alarm = status
            .alarms
            .iter()
            .any(|alarm| alarm.contains("denials are not logged") && alarm.contains("No space left"));
        anyhow::ensure!(alarm && status.logged.not_written > 0, "{:?} {:?}", status.alarms, status.logged);
        Ok(())
    };
    until("an alarm", PATIENCE, alarmed).unwrap();
    // Nobody keeps all of them, should it have taken long.
    let last = format!(":{port} ");
    until_true("the last in the recent records", PATIENCE, || Ok(scene.weft("denials").contains(&last))).unwrap();
    // Everything else goes on.
    let started = scene.lab.add("c1", &WorkloadOptions::app("more", "3b1c")).unwrap();
    scene.lab.del("c1", &started).unwrap();
    fs::remove_file(&log).unwrap();
    scene.hang_up();
    until_true("the alarm's end", PATIENCE, || Ok(scene.cell().status()?.alarms.is_empty())).unwrap();
    scene.denied(82);
    // Records read are records written, left out or lost, and all of it is in the metrics.
    let settled = || {
        let counts = scene.logging().counts;
        let told = counts.written + counts.not_written + counts.over_share + counts.queue_full;
        anyhow::ensure!(counts.read >= 3 && counts.read == told, "{counts:?}");
        Ok(counts)
    };
    let (counts, _) = until("nothing to be under way", PATIENCE, settled).unwrap();
    let metrics = scene.cell().sh("curl -sS http://127.0.0.1:9469/metrics").unwrap();
    for line in [
        format!("weft_records_total{{fate=\"not-written\"}} {}\n", counts.not_written),
        "weft_packets_total{reason=\"policy\"} ".to_owned(),
        "weft_packets_total{reason=\"record-lost\"} 0\n".to_owned(),
        "weft_map_bytes{map=\"ct_est4\"} ".to_owned(),
        "# TYPE weft_alarms gauge\nweft_alarms 0\n".to_owned(),
    ] {
        assert!(metrics.contains(&line), "{line} in\n{metrics}");
    }
}
