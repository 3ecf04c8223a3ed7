//! A panic is one CNI error object on stdout. This program is its own child: the library's rim is
//! what the plugin's `main` is made of, run with work that panics.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::Value;
use std::process::Command;
use weft_cni_plugin::process;

fn main() {
    if std::env::args().nth(1).as_deref() == Some("child") {
        process::run(|| {
            let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
            panic!("a bug with \"quotes\", {} bytes", text.len().min(1));
        });
    }
    let program = std::env::current_exe().unwrap();
    let output = Command::new(program).arg("child").output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(error["code"], 999);
    assert_eq!(error["msg"], "weft-cni failed unexpectedly (a bug)");
    assert!(error["details"].as_str().unwrap().contains("a bug with \"quotes\", 1 bytes"), "{error}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("tests/panic.rs"), "{output:?}");
}
