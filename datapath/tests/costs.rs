//! What the programs cost: the verifier, and a packet of a known flow.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::frame::*;
use common::*;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Instant;
use weft_abi::SLOT_IFINDEX_BASE;
use weft_datapath::{Probe, Program};
use weft_model::policy::{Direction, Protocol};

/// What the verifier looked at when this table was last written, on the kernel its first line names:
/// `<program> <instructions>` a line.
const TABLE: &str = include_str!("verified_instructions.txt");

/// `6.18` of `6.18.44-…`: the verifier counts differently from one series to the next.
fn kernel_series() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    release.split('.').take(2).collect::<Vec<_>>().join(".")
}

#[test]
fn the_verifiers_work_grows_only_on_purpose() {
    let now = Bench::new(vec![]).datapath.verified_instructions().unwrap();
    let lines = now.iter().map(|(program, count)| format!("{} {count}\n", program.name()));
    let table = format!("Linux {}\n{}", kernel_series(), lines.collect::<String>());
    for (program, instructions) in &now {
        // The limit is a million, and other kernels count differently.
        assert!((1..250_000).contains(instructions), "{program:?}: {instructions}");
    }
    let mut known = TABLE.lines();
    if known.next() != Some(&format!("Linux {}", kernel_series())) {
        return;
    }
    let known: BTreeMap<&str, u32> =
        known.filter_map(|line| line.split_once(' ')).map(|(name, count)| (name, count.parse().unwrap())).collect();
    for (program, instructions) in &now {
        let before = known.get(program.name()).copied().unwrap_or_default();
        assert!(
            *instructions <= before + before / 5,
            "{program:?} costs the verifier {instructions} instructions, {before} before; if that is meant, \
             tests/verified_instructions.txt becomes:\n{table}"
        );
    }
}

/// Stack and calls of each function of a loaded program, by its disassembly.
fn functions(id: u32) -> BTreeMap<String, (u32, BTreeSet<String>)> {
    let output = Command::new("bpftool").args(["prog", "dump", "xlated", "id", &id.to_string()]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut found: BTreeMap<String, (u32, BTreeSet<String>)> = BTreeMap::new();
    let (mut name, mut last) = (String::new(), "");
    for line in text.lines().filter(|line| !line.starts_with(';')) {
        if !line.starts_with(' ') {
            // `i32 name(struct __sk_buff * ctx):`
            let head = line.split('(').next().unwrap_or_default();
            name = head.rsplit(' ').next().unwrap_or_default().to_owned();
            found.entry(name.clone()).or_default();
            continue;
        }
        let number = |text: &str| text.split(|c: char| !c.is_ascii_digit()).next().and_then(|text| text.parse().ok());
        let direct = line.split("(r10 -").nth(1).and_then(number);
        // `r2 = r10` and then `r2 += -64`.
        let offset = line.split("+= -").nth(1).filter(|_| last.ends_with("= r10")).and_then(number);
        let (depth, calls) = found.get_mut(&name).unwrap();
        *depth = (*depth).max(direct.or(offset).unwrap_or(0));
        if let Some((_, callee)) = line.split_once("#bpf_prog_") {
            calls.insert(callee.split_once('_').unwrap().1.to_owned());
        }
        last = line;
    }
    found
}

/// Bytes of stack of a function and all below it, as kernels before 6.7 count them: in steps of 32.
fn stack(functions: &BTreeMap<String, (u32, BTreeSet<String>)>, name: &str) -> u32 {
    let (own, calls) = &functions[name];
    (*own).max(1).next_multiple_of(32) + calls.iter().map(|callee| stack(functions, callee)).max().unwrap_or(0)
}

/// This kernel counts less and would take more than those that weft supports too.
#[test]
fn the_stack_suffices_as_older_kernels_count_it() {
    let bench = Bench::new(vec![]);
    for (program, id) in bench.datapath.program_ids().unwrap() {
        let functions = functions(id);
        assert!(functions.contains_key(program.name()), "{program:?}: {functions:?}");
        let bytes = stack(&functions, program.name());
        assert!(bytes <= 512, "{program:?} takes {bytes} bytes of 512: {functions:?}");
    }
}

/// A call of a loop that goes byte by byte costs as much as a look-up (the build script asks for stores instead).
#[test]
fn no_program_writes_or_copies_byte_by_byte() {
    let bench = Bench::new(vec![]);
    for (program, id) in bench.datapath.program_ids().unwrap() {
        let functions = functions(id);
        let loops: Vec<_> = functions.keys().filter(|name| name.starts_with("mem") || *name == "bcmp").collect();
        assert!(loops.is_empty(), "{program:?} calls {loops:?}");
    }
}

/// Nanoseconds of a run in a round that is shorter than what a busy machine gives a process at a time.
fn cost(bench: &Bench, program: Program, frame: &[u8], mark: u32) -> u128 {
    let probe = Probe {
        frame,
        mark,
        ifindex: SLOT_IFINDEX_BASE + u32::from(SLOT.0),
        ingress_ifindex: 1,
        gso_size: 0,
        repeat: 2_000,
    };
    bench.datapath.probe(program, &probe).unwrap().duration.as_nanos()
}

#[test]
fn an_established_packet_is_cheap() {
    let bench = Bench::new(vec![rule(Direction::Ingress, tag_peer(7), ports(Protocol::Tcp, 80, 80))]);
    let mark = 7 << SHIFT;
    bench.arrive(&received(&tcp(REMOTE, OWN, (40000, 80), SYN, b"")), 7);
    bench.out(&sent(&tcp(OWN, REMOTE, (80, 40000), SYN | ACK, b"")));
    let into = received(&tcp(REMOTE, OWN, (40000, 80), ACK, b"x"));
    let out = sent(&tcp(OWN, REMOTE, (80, 40000), ACK, b"x"));
    // The goal is 60 ns over an empty program, measured by the benchmark; this bound only catches a
    // look-up too many. The least of many rounds is what the program costs, the rest is the machine's.
    let (mut empty, mut to, mut from) = (u128::MAX, u128::MAX, u128::MAX);
    let start = Instant::now();
    for round in 1.. {
        empty = empty.min(cost(&bench, Program::Empty, &into, mark));
        to = to.min(cost(&bench, Program::ToWorkload, &into, mark));
        from = from.min(cost(&bench, Program::FromWorkload, &out, 0));
        if round >= 100 && to < empty + 200 && from < empty + 200 {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "empty {empty}, to {to}, from {from} ns after {round} rounds");
    }
}
