//! Our nftables table, through the `nft` program.

use crate::error::Error;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};
use weft_model::id::IfName;
use weft_model::op::{NftElement, NftTable};
use weft_model::others::Forward;
use weft_model::overlay::{NftSeen, rule_id};

/// What our rules' comments begin with; their id follows.
const COMMENT: &str = "weft:";

/// The script that replaces the table: `nft -f` applies it as one transaction, so that there is no
/// moment without rules.
pub(crate) fn script(name: &str, table: &NftTable) -> String {
    // `delete` fails on a table that is not there; `add` does not mind one that is.
    let mut text = format!("add table ip {name}\ndelete table ip {name}\ntable ip {name} {{\n");
    for set in &table.sets {
        let (what, kind) = if set.is_map() { ("map", set.kind) } else { ("set", set.kind) };
        // Writing to a String cannot fail.
        writeln!(text, "  {what} {} {{\n    type {kind}", set.name).unwrap_or_default();
        if !set.elements.is_empty() {
            let elements: Vec<&str> = set.elements.iter().map(String::as_str).collect();
            writeln!(text, "    elements = {{ {} }}", elements.join(", ")).unwrap_or_default();
        }
        text.push_str("  }\n");
    }
    for chain in &table.chains {
        text.push_str("  chain ");
        text.push_str(chain.name);
        text.push_str(" {\n    ");
        text.push_str(chain.hook);
        text.push('\n');
        for rule in &chain.rules {
            writeln!(text, "    {rule} comment \"{COMMENT}{}\"", rule_id(rule)).unwrap_or_default();
        }
        text.push_str("  }\n");
    }
    text.push_str("}\n");
    text
}

/// Replaces the table in the calling thread's namespace.
pub(crate) fn replace(name: &str, table: &NftTable) -> Result<(), String> {
    run(&["-f", "-"], &script(name, table)).map(drop)
}

/// Changes elements in the calling thread's namespace, in one transaction. What is to go is put before: deleting
/// what is not there would fail.
pub(crate) fn change(name: &str, delete: &[NftElement], add: &[NftElement]) -> Result<(), String> {
    let mut text = String::new();
    let mut line = |verb: &str, (set, element): &NftElement| {
        writeln!(text, "{verb} element ip {name} {set} {{ {element} }}").unwrap_or_default();
    };
    for element in delete {
        line("add", element);
        line("delete", element);
    }
    add.iter().for_each(|element| line("add", element));
    run(&["-f", "-"], &text).map(drop)
}

/// The table in the calling thread's namespace; `None`: no such table. What is not as we make
/// it (a rule without our comment, a chain whose policy is not `accept`) has a text that is no id.
pub(crate) fn read(name: &str) -> Result<Option<NftSeen>, Error> {
    let listed = match run(&["-j", "list", "table", "ip", name], "") {
        Ok(text) => text,
        Err(text) if text.contains("No such file or directory") => return Ok(None),
        Err(text) => return Err(Error::Nft(text)),
    };
    let malformed = |detail: &str| Error::Nft(format!("cannot read what nft -j printed: {detail}"));
    let listed: Value = serde_json::from_str(&listed).map_err(|error| malformed(&error.to_string()))?;
    let objects = listed["nftables"].as_array().ok_or_else(|| malformed("no list `nftables`"))?;
    let NftSeen { mut chains, mut sets } = NftSeen::default();
    for object in objects {
        for set in [&object["set"], &object["map"]] {
            if let Some(name) = set["name"].as_str() {
                sets.insert(name.to_owned(), set_seen(set));
            }
        }
        if let Some(chain) = object["chain"]["name"].as_str() {
            let rules = chains.entry(chain.to_owned()).or_default();
            match object["chain"]["policy"].as_str() {
                Some("accept") => {}
                other => rules.push(format!("policy {}", other.unwrap_or("none"))),
            }
        }
        if let Some(chain) = object["rule"]["chain"].as_str() {
            let id = object["rule"]["comment"].as_str().and_then(|comment| comment.strip_prefix(COMMENT));
            chains.entry(chain.to_owned()).or_default().push(id.unwrap_or("foreign").to_owned());
        }
    }
    Ok(Some(NftSeen { chains, sets }))
}

/// Type and elements as [`weft_model::op::NftSet`] has them. Elements of other shapes than ours read as something
/// that is none of ours.
fn set_seen(set: &Value) -> (String, BTreeSet<String>) {
    let kind = match set["map"].as_str() {
        Some(data) => format!("{} : {data}", concatenation(&set["type"])),
        None => concatenation(&set["type"]),
    };
    let elements = set["elem"].as_array().into_iter().flatten();
    let element = |element: &Value| match element.as_array().map(Vec::as_slice) {
        Some([key, data]) => format!("{} : {}", concatenation(key), concatenation(data)),
        _ => concatenation(element),
    };
    (kind, elements.map(element).collect())
}

fn concatenation(value: &Value) -> String {
    match (value.as_array().or_else(|| value["concat"].as_array()), value.as_str()) {
        (Some(parts), _) => parts.iter().map(concatenation).collect::<Vec<_>>().join(" . "),
        (None, Some(text)) => text.to_owned(),
        (None, None) => value.to_string(),
    }
}

/// Chains at hook forward, but our table's, that drop what they do not accept: by their policy, or by their last
/// rule.
pub(crate) fn forward_chains(own: &str) -> Result<Vec<Forward>, Error> {
    let listed = list(&["chains"])?;
    let mut found = Vec::new();
    for chain in listed.iter().filter_map(|object| object.get("chain")).filter(|chain| chain["hook"] == "forward") {
        let word = |key: &str| chain[key].as_str().unwrap_or_default().to_owned();
        let (family, table, name) = (word("family"), word("table"), word("name"));
        let full = format!("{family} {table}");
        if full == own || !matches!(family.as_str(), "ip" | "inet") {
            continue;
        }
        let drops = chain["policy"] == "drop" || ends_in_drop(&list(&["chain", &family, &table, &name])?);
        if drops {
            // Whatever chain of the table it is that knows us.
            let text = run(&["list", "table", &family, &table], "").map_err(Error::Nft)?;
            found.push(Forward { table: full, chain: name, text });
        }
    }
    Ok(found)
}

/// Whether the last rule of a listed chain drops or rejects, whatever the packet.
fn ends_in_drop(listed: &[Value]) -> bool {
    let last = listed.iter().rev().find_map(|object| object["rule"]["expr"].as_array());
    let Some(parts) = last else { return false };
    let verdict = |part: &Value| part.get("drop").is_some() || part.get("reject").is_some();
    let plain = |part: &Value| verdict(part) || part.get("counter").is_some() || part.get("log").is_some();
    parts.iter().all(plain) && parts.iter().any(verdict)
}

fn list(what: &[&str]) -> Result<Vec<Value>, Error> {
    let listed = run(&[&["-j", "list"], what].concat(), "").map_err(Error::Nft)?;
    let listed: Value = serde_json::from_str(&listed)
        .map_err(|error| Error::Nft(format!("cannot read what nft -j printed: {error}")))?;
    Ok(listed["nftables"].as_array().cloned().unwrap_or_default())
}

/// Accepts in chain FORWARD of a table of iptables' what comes from the bridge and what goes there.
pub(crate) fn accept_forward(table: &str, bridge: &IfName) -> Result<(), String> {
    let rule =
        |side: &str| format!("insert rule {table} FORWARD {side} \"{bridge}\" counter accept comment \"weft\"\n");
    run(&["-f", "-"], &format!("{}{}", rule("iifname"), rule("oifname"))).map(drop)
}

/// Runs `nft`; its output, or its complaint.
fn run(arguments: &[&str], input: &str) -> Result<String, String> {
    let child = Command::new("nft")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                "the program `nft` is not installed (package nftables), or not in PATH".to_owned()
            }
            _ => format!("cannot run `nft`: {error}"),
        });
    let mut child = child?;
    // A program that ends early says why on its way out: that is the better error.
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().map_err(|error| format!("cannot wait for `nft`: {error}"))?;
    if output.status.success() {
        written.map_err(|error| format!("cannot write to `nft`: {error}"))?;
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    // `nft` repeats the offending line with a marker below; the first line says what is wrong.
    let complaint = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = complaint.lines().filter(|line| !line.trim().is_empty()).collect();
    Err(lines.first().map_or_else(|| format!("nft ended with {}", output.status), |line| (*line).to_owned()))
}
