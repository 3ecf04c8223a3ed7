//! The demo tells its story with nothing failed.

use std::process::Command;
use weft_lab::shell::binary;

#[test]
fn the_demo_passes() {
    let output = Command::new(binary("weft-lab").unwrap()).arg("demo").output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    let last = told.lines().find(|line| line.starts_with("demo: ")).expect("the closing line");
    assert!(last.ends_with(", 0 failed"), "{told}");
}
