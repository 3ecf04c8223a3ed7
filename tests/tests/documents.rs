//! The handbook names the tests that prove it: each of them exists. Codes, sizes and limits that it gives are those of
//! the code.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use weft_abi::{Reason, capacity};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Rust files below a folder.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target" && name != ".git") {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Names of all functions marked as tests.
fn tests() -> BTreeSet<String> {
    let mut files = Vec::new();
    sources(Path::new(ROOT), &mut files);
    let mut names = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(file).unwrap_or_default();
        // In a property test the attribute stands inside a macro: the next function is the test all the same.
        for mark in ["#[test]", "#[tokio::test"] {
            for after in text.split(mark).skip(1) {
                let name = after.split("fn ").nth(1).unwrap_or_default();
                names.insert(name.split('(').next().unwrap_or_default().to_owned());
            }
        }
    }
    names
}

/// What a document says in backticks that looks like a test's name: words of small letters and digits,
/// three underscores at least; `…` at the end stands for the rest of it.
fn named(text: &str) -> BTreeSet<String> {
    let prose: String = text.split("```").step_by(2).collect();
    let quoted = prose.split('`').skip(1).step_by(2);
    let word = |name: &&str| {
        let name = name.trim_end_matches('…');
        // Figures of the benchmarks end in what they count; the kernel's helpers begin with their name.
        !["_ratio", "_ms"].iter().any(|unit| name.ends_with(unit))
            && !name.starts_with("bpf_")
            && name.matches('_').count() >= 3
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    quoted.filter(word).map(str::to_owned).collect()
}

#[test]
fn every_test_the_documents_name_exists() {
    let tests = tests();
    let mut missing = Vec::new();
    let mut seen = 0;
    for document in ["docs/cni.md", "docs/datapath.md", "docs/operations.md", "ARCHITECTURE.md"] {
        let text = fs::read_to_string(Path::new(ROOT).join(document)).expect(document);
        for name in named(&text) {
            seen += 1;
            let found = match name.strip_suffix('…') {
                Some(start) => tests.iter().any(|test| test.starts_with(start)),
                None => tests.contains(&name),
            };
            if !found {
                missing.push(format!("{document}: {name}"));
            }
        }
    }
    assert!(missing.is_empty(), "named, but nowhere to be found:\n{}", missing.join("\n"));
    assert!(seen > 40, "only {seen} names were read: the documents are written differently now");
}

/// Rows of the first table of a section, cell by cell; the header and the line below it are left out.
fn table(document: &str, section: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(Path::new(ROOT).join(document)).expect(document);
    let part =
        text.split(&format!("\n## {section}\n")).nth(1).expect(section).split("\n## ").next().unwrap_or_default();
    let lines = part.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect();
    lines.skip(2).map(cells).collect()
}

#[test]
fn the_reasons_of_the_handbook_are_the_programs() {
    let mut told = Vec::new();
    for row in table("docs/datapath.md", "Reasons") {
        let [codes, names, _, recorded] = &row[..] else { panic!("{row:?}") };
        for (code, name) in codes.split(", ").zip(names.split(", ")) {
            let reason = Reason::from_code(code.parse().expect(code)).expect(code);
            assert_eq!(reason.name(), name, "{code}");
            assert!(recorded != "yes" || reason.is_recorded(), "{name} leaves no record");
            told.push(reason);
        }
    }
    assert_eq!(told, Reason::ALL);
}

#[test]
fn the_maps_of_the_handbook_are_the_programs() {
    let rows = table("docs/datapath.md", "Maps");
    let conn = size_of::<weft_abi::Conn>();
    let policy = size_of::<weft_abi::PolicyValue>();
    // A trie's key begins with four bytes of its own.
    for (map, sizes, entries) in [
        ("ep", format!("slot → {}", size_of::<weft_abi::Endpoint>()), weft_abi::MAX_SLOTS),
        ("host", format!("4 → {}", size_of::<weft_abi::Host>()), 1),
        ("ct_est4", format!("{} → {conn}", size_of::<weft_abi::ConnKey4>()), capacity::CT_EST4),
        ("ct_short4", format!("{} → {conn}", size_of::<weft_abi::ConnKey4>()), capacity::CT_SHORT4),
        ("ct_more4", format!("{} → {conn}", size_of::<weft_abi::ConnKey4>()), capacity::CT_MORE4),
        ("ct_share", format!("slot → {}", size_of::<weft_abi::Share>()), weft_abi::MAX_SLOTS),
        ("frag4", format!("{} → {}", size_of::<weft_abi::FragKey4>(), size_of::<weft_abi::Frag>()), capacity::FRAG4),
        ("pol", format!("{} → {policy}", size_of::<weft_abi::PolicyKey>()), capacity::POL),
        ("ranges", format!("{} → {policy}", 4 + size_of::<weft_abi::RangeKey>()), capacity::RANGES),
        ("cidr4", format!("{} → 4", 4 + size_of::<weft_abi::CidrKey4>()), capacity::CIDR4),
        ("peers4", format!("8 → {}", size_of::<weft_abi::Peer>()), capacity::PEERS4),
        ("mapped", format!("{} → 1", size_of::<weft_abi::MappedPort>()), capacity::MAPPED),
        ("host4", "4 → 1".to_owned(), capacity::HOST4),
        ("counters", "4 → 8".to_owned(), capacity::COUNTERS),
        (
            "denial_limit",
            format!("{} → {}", size_of::<weft_abi::DenialPair>(), size_of::<weft_abi::DenialBucket>()),
            capacity::DENIAL_LIMIT,
        ),
    ] {
        let row = rows.iter().find(|row| row[0] == map).unwrap_or_else(|| panic!("no row for {map}"));
        assert_eq!((&row[2], row[3].replace(',', "")), (&sizes, entries.to_string()), "{map}");
    }
    assert_eq!(rows.len(), 16, "and the ring buffer");
}

/// The matrix has a line for every operation and a column for every version and runtime, and no cell is
/// empty.
#[test]
fn the_matrix_of_operations_is_whole() {
    let text = fs::read_to_string(Path::new(ROOT).join("docs/cni.md")).expect("docs/cni.md");
    let table =
        text.split("## Operations").nth(1).expect("a section Operations").split("\n## ").next().unwrap_or_default();
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let header = rows.first().expect("a table");
    for column in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0", "containerd", "CRI-O", "podman", "Garden", "cnitool"] {
        assert!(header.iter().any(|cell| cell.contains(column)), "no column {column} in {header:?}");
    }
    for operation in ["ADD", "DEL", "CHECK", "STATUS", "GC", "VERSION"] {
        let row = rows.iter().find(|row| row.first() == Some(&operation)).expect(operation);
        assert_eq!(row.len(), header.len(), "{operation}");
        assert!(row.iter().all(|cell| !cell.is_empty()), "{row:?}");
    }
}
