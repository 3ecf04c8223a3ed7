//! Standard input and environment of the plugin, for the calls that touch nothing: one JSON document
//! or nothing on stdout, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::ffi::OsString;

fuzz_target!(|data: &[u8]| {
    let mut parts = data.splitn(3, |byte| *byte == 0);
    let (command, args, stdin) = (parts.next(), parts.next(), parts.next().unwrap_or_default());
    let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
    let (command, args) = (text(command), text(args));
    // The others would ask an agent or the kernel; ADD goes as far as the namespace, which is not there.
    let command = if ["DEL", "CHECK", "GC", "STATUS"].contains(&command.as_str()) { "ADD".to_owned() } else { command };
    let variable = |name: &str| match name {
        "CNI_COMMAND" => Some(OsString::from(&command)),
        "CNI_ARGS" => Some(OsString::from(&args)),
        "CNI_CONTAINERID" => Some("fuzz".into()),
        "CNI_NETNS" => Some("/nonexistent/namespace".into()),
        "CNI_IFNAME" => Some("eth0".into()),
        "CNI_PATH" => Some("/opt/cni/bin".into()),
        _ => None,
    };
    let answer = weft_cni_plugin::respond(variable, stdin);
    let document = serde_json::from_str::<serde_json::Value>(&answer.stdout);
    assert!(answer.stdout.is_empty() || document.is_ok(), "{:?}", answer.stdout);
});
