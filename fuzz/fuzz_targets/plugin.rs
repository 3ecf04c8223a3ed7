//! Standard input and the whole environment of the plugin: one JSON document on stdout, or nothing
//! where a success is silent, and never a panic. Paths lead nowhere, so that no call reaches an agent,
//! a namespace or another plugin; DEL finds no link of its workload.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

const COMMANDS: [&str; 7] = ["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION", ""];

fuzz_target!(|data: &[u8]| {
    // Lines, so that seeds (`seeds/plugin`) can be read and written: command, args, container, interface, stdin.
    let mut parts = data.splitn(5, |byte| *byte == b'\n');
    let mut next = || parts.next().unwrap_or_default().to_vec();
    let (command, args, container, ifname) = (next(), next(), next(), next());
    // A byte chooses a command that is one; anything else is taken as it is.
    let command = match command.as_slice() {
        [index] => COMMANDS[usize::from(*index) % COMMANDS.len()].as_bytes().to_vec(),
        other => other.to_vec(),
    };
    let variable = |name: &str| match name {
        "CNI_COMMAND" => Some(OsString::from_vec(command.clone())),
        "CNI_ARGS" => Some(OsString::from_vec(args.clone())),
        "CNI_CONTAINERID" => Some(OsString::from_vec(container.clone())),
        "CNI_IFNAME" => Some(OsString::from_vec(ifname.clone())),
        "CNI_NETNS" => Some("/nonexistent/namespace".into()),
        "CNI_PATH" => Some("/nonexistent".into()),
        _ => None,
    };
    let answer = weft_cni_plugin::respond(variable, &*stdin(next()));
    match answer.status {
        0 if answer.stdout.is_empty() => {}
        0 | 1 => drop(serde_json::from_str::<serde_json::Value>(&answer.stdout).expect("one JSON document")),
        other => panic!("exit status {other}"),
    }
});

/// The same, with an agent that can never be there: nobody waits for it to come back.
fn stdin(bytes: Vec<u8>) -> Vec<u8> {
    let Ok(serde_json::Value::Object(mut config)) = serde_json::from_slice(&bytes) else { return bytes };
    let section = config.entry("weft").or_insert_with(|| serde_json::json!({}));
    if let Some(section) = section.as_object_mut() {
        section.insert("socket".to_owned(), "/dev/null/agent.sock".into());
    }
    serde_json::Value::Object(config).to_string().into_bytes()
}
