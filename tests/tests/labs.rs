//! Labs stand side by side, and nothing of one is left after an error, a Ctrl-C or `weft-lab down`.

use std::process::Command;
use weft_lab::shell::{binary, output, sh};
use weft_lab::workload::WorkloadOptions;
use weft_lab::{Lab, LabOptions, teardown, wait};
use weft_tests::{PATIENCE, lab};

/// At moments when different things are being made, and fail because of it: none of those failures is
/// the lab's end, nor tells itself as one.
#[test]
fn ctrl_c_in_the_middle_removes_everything() {
    for moment in ["-sw", "-ctl", "-n1", "-c1", "c1/weftd.log", "n1/run/agent.sock"] {
        let out = tempfile::NamedTempFile::new().unwrap();
        let both = out.reopen().unwrap();
        let mut child = Command::new(binary("weft-lab").unwrap())
            .arg("demo")
            .stdout(both.try_clone().unwrap())
            .stderr(both)
            .spawn()
            .unwrap();
        let name = format!("demo{}-0", child.id());
        wait::until_true(&format!("{moment} to appear"), PATIENCE, || {
            let file = teardown::folder(&name).join(moment).exists();
            Ok(file || teardown::leftovers(&name).iter().any(|left| left.ends_with(moment)))
        })
        .unwrap();
        sh(&format!("kill -INT {}", child.id())).unwrap();
        let (status, _) =
            wait::until("the demo to end", PATIENCE, || child.try_wait().ok().flatten().ok_or("it runs")).unwrap();
        let told = std::fs::read_to_string(out.path()).unwrap();
        assert_eq!(status.code(), Some(130), "at {moment}: {told}");
        assert!(!told.contains("FAIL"), "at {moment}: {told}");
        // A command it had just started in the lab may still be on its way to fail.
        wait::until_true(&format!("nothing to be left at {moment}"), PATIENCE, || {
            let left = teardown::leftovers(&name);
            assert!(left.iter().all(|one| one.starts_with("process ")), "at {moment}: {left:?}");
            Ok(left.is_empty())
        })
        .unwrap();
    }
}

#[test]
fn up_and_down_beside_another_lab() {
    let mut other = lab("beside");
    let name = LabOptions::unique_name("updown");
    let weft_lab = binary("weft-lab").unwrap();
    output(Command::new(&weft_lab).args(["up", &name])).unwrap();
    assert!(output(Command::new(&weft_lab).arg("list")).unwrap().contains(&name));
    // Same name again: refused, and the living one is left alone.
    let again = output(Command::new(&weft_lab).args(["up", &name])).unwrap_err().to_string();
    assert!(again.contains("exists") && again.contains("weft-lab down"), "{again}");
    assert!(!teardown::leftovers(&name).is_empty());
    output(Command::new(&weft_lab).args(["down", &name])).unwrap();
    assert_eq!(teardown::leftovers(&name), Vec::<String>::new());
    other.add("n1", &WorkloadOptions::pod("w", "open")).expect("the other lab works");
}

/// What `weft-lab up` prints can be pasted, and an agent it started ends when it is asked to.
#[test]
fn what_up_leaves_can_be_used_by_hand() {
    struct Removed(String);
    impl Drop for Removed {
        fn drop(&mut self) {
            drop(teardown::down(&self.0));
        }
    }
    let name = LabOptions::unique_name("hand");
    let _removed = Removed(name.clone());
    let weft_lab = binary("weft-lab").unwrap();
    let told = output(Command::new(&weft_lab).args(["up", &name])).unwrap();
    let weft = binary("weft").unwrap().display().to_string();
    let paste = |line: &str| sh(&line.replace(" weft ", &format!(" {weft} ")));
    let status = told.lines().next().and_then(|line| line.split_once("  weft ")).expect("a line a host").1;
    assert!(paste(&format!("env weft {status}")).unwrap().contains("lease held"), "{told}");
    let policies = told.lines().find_map(|line| line.strip_prefix("policies: ")).expect("the policy server");
    assert_eq!(paste(policies).unwrap(), "no policies\n");
    let agent = teardown::leftovers(&name).into_iter().find(|left| {
        let id = left.strip_prefix("process ").unwrap_or_default();
        std::fs::read_to_string(format!("/proc/{id}/cmdline")).is_ok_and(|line| line.contains("weftd"))
    });
    let agent = agent.expect("an agent");
    sh(&agent.replace("process", "kill -TERM")).unwrap();
    wait::until_true("the agent to end", PATIENCE, || Ok(!teardown::leftovers(&name).contains(&agent))).unwrap();
}

#[test]
fn an_error_on_the_way_up_leaves_nothing() {
    let name = LabOptions::unique_name("error");
    let mut options = LabOptions::three(&name);
    options.hosts[2].flags = vec!["--isolation".to_owned(), "sometimes".to_owned()];
    let error = format!("{:#}", Lab::up(options).expect_err("a bad flag was accepted"));
    assert!(error.contains("isolation: invalid value \"sometimes\": one of always, selected, never"), "{error}");
    assert_eq!(teardown::leftovers(&name), Vec::<String>::new());
}
