//! The data plane needs none of our processes, and an agent's death costs no packet.

use std::net::SocketAddr;
use weft_lab::probe::{self, HttpServer, Stream};
use weft_lab::wait;
use weft_lab::workload::WorkloadOptions;
use weft_tests::{PATIENCE, lab, plugin_process};

#[test]
fn restarting_agents_under_load_breaks_nothing_and_policies_stay_in_force() {
    let mut lab = lab("restart");
    let web = lab.add("n1", &WorkloadOptions::pod("web", "shop")).unwrap();
    let app = lab.add("c1", &WorkloadOptions::app("app", "3b1c")).unwrap();
    let stranger = lab.add("c1", &WorkloadOptions::app("stranger", "ffff")).unwrap();
    let _server = HttpServer::start(&web.netns, 8080).unwrap();
    let to = SocketAddr::from((web.ip, 8080));
    lab.weft(&["policies", "allow", "--from", "3b1c", "--to", "k8s:lab/shop", "--port", "8080", "--wait"]).unwrap();
    let stream = Stream::start(&app.netns, to).unwrap();
    for _ in 0..3 {
        for host in ["n1", "c1"] {
            lab.host_mut(host).kill_agent().unwrap();
            lab.host_mut(host).start_agent().unwrap();
            // While it starts and after: the allowed passes, the denied does not.
            for _ in 0..20 {
                probe::get(&app.netns, to, PATIENCE).expect("allowed");
                assert!(probe::connects(&stranger.netns, to, PATIENCE).is_err(), "denied");
            }
            lab.host_mut(host).wait_ready(PATIENCE).unwrap();
        }
    }
    assert!(!stream.broke() && stream.flows(PATIENCE), "the transfer broke");
    // And the restarted agents are in charge: a policy taken back stops the transfer.
    lab.disallow("3b1c", "k8s:lab/shop", "tcp", 8080).unwrap();
    // The group is then no destination any more: open to all, as kind kubernetes is. Isolate it again.
    lab.weft(&["policies", "allow", "--from", "monitoring", "--to", "k8s:lab/shop", "--port", "9100", "--wait"])
        .unwrap();
    // These hosts refuse what they deny: a silence would prove nothing on a busy machine.
    let reset = || {
        stream.send_byte();
        Ok(stream.broke())
    };
    wait::until_true("the transfer to be reset", PATIENCE, reset).unwrap();
}

/// A plugin that comes while the agent is restarting waits for it.
#[test]
fn an_add_waits_for_an_agent_that_restarts() {
    let mut lab = lab("wait");
    lab.host_mut("n1").kill_agent().unwrap();
    let (id, netns) = lab.container("n1", "w").unwrap();
    let mut call = weft_lab::workload::add_call(lab.host("n1"), &WorkloadOptions::pod("w", "open"), &id, &netns);
    // On a busy machine an agent is not there in the ten seconds that are the plugin's own limit.
    call.stdin["weft"]["timeoutSeconds"] = PATIENCE.as_secs().into();
    std::thread::scope(|scope| {
        let host = lab.host("n1");
        let waiting = scope.spawn(move || call.expect(host));
        // The plugin is there and finds nobody.
        wait::until_true("the plugin to run", PATIENCE, || Ok(plugin_process(&id).is_some())).unwrap();
        let mut command = host.agent_command().unwrap();
        let mut agent = weft_lab::process::Process::start("weftd", &mut command, &host.run_file("weftd2.log")).unwrap();
        waiting.join().unwrap().expect("the ADD is served");
        agent.check().unwrap();
    });
}
