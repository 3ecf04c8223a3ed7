//! The handbook names the tests that prove it: each of them exists.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

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
