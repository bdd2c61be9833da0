//! No public function is without an entry in the lists: neither in one of operations nor in one of those that call no
//! foreign code.
//!
//! The sources are read line by line: a function is public if its line begins with `pub`, or if it is that of a public
//! trait. Functions that macros write are not seen.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::sweep::Operation;

mod exempt;

/// A crate whose functions are looked for.
struct Crate {
    folder: &'static str,
    /// What is not part of its interface, or has no public function that does anything: beginnings of paths below `src`.
    private: &'static [&'static str],
    operations: &'static [(&'static str, &'static [Operation])],
    exempt: &'static [exempt::Reason],
}

const CRATES: &[Crate] = &[
    Crate {
        folder: "memory-core",
        private: &[
            "accounting",
            "raw",
            "ledger",
            "debug",
            "stack",
            "outcome",
            "report",
            "error",
            "probes",
            "events",
            "testing",
        ],
        operations: crate::core::ALL,
        exempt: exempt::CORE,
    },
    Crate {
        folder: "memory-arrow",
        private: &[],
        operations: crate::arrow::ALL,
        exempt: exempt::ARROW,
    },
    Crate {
        folder: "memory-global",
        private: &[],
        operations: crate::GLOBAL,
        exempt: exempt::GLOBAL,
    },
    Crate {
        folder: "memory-host",
        private: &[],
        operations: crate::HOST,
        exempt: exempt::HOST,
    },
    Crate {
        folder: "memory-device",
        private: &["cuda", "testing"],
        operations: crate::device::ALL,
        exempt: exempt::DEVICE,
    },
];

/// Functions of traits of others, which the scan does not see.
const OF_TRAITS: [&str; 14] = [
    "drop",
    "clone",
    "write",
    "read",
    "into_future",
    "allocate",
    "grow",
    "deallocate",
    "alloc",
    "alloc_zeroed",
    "realloc",
    "dealloc",
    "append_null",
    "append_option",
];

#[test]
fn every_public_function_is_an_operation_or_exempt() {
    let mut problems = Vec::new();
    for it in CRATES {
        let found = functions(it);
        assert!(!found.is_empty(), "{} has functions", it.folder);
        let operations: BTreeSet<&str> = (it.operations.iter())
            .flat_map(|(_, operations)| *operations)
            .map(|it| it.name.split(' ').next().unwrap_or(it.name))
            .map(|name| name.trim_end_matches(','))
            .collect();
        let exempt: BTreeSet<String> = it.exempt.iter().flat_map(exempt::Reason::names).collect();
        for name in &found {
            if !operations.contains(&**name) && !exempt.contains(name) {
                problems.push(format!("{}: {name} is in no list", it.folder));
            }
            if operations.contains(&**name) && exempt.contains(name) {
                problems.push(format!("{}: {name} is in two lists", it.folder));
            }
        }
        for name in exempt.iter().filter(|&name| !found.contains(name)) {
            problems.push(format!("{}: there is no {name}", it.folder));
        }
        for name in operations {
            let method = name.rsplit("::").next().unwrap_or(name);
            // An operation may be one of another crate, in a situation that this one makes.
            let elsewhere = CRATES.iter().any(|it| functions(it).contains(name));
            if !elsewhere && !OF_TRAITS.contains(&method) {
                problems.push(format!("{}: there is no {name}", it.folder));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// The public functions of a crate, as `Type::function`.
fn functions(it: &Crate) -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let source = root.join(it.folder).join("src");
    let mut found = BTreeSet::new();
    let mut folders = vec![source.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let below = path.strip_prefix(&source).unwrap();
            if is_left_out(it, below) {
            } else if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|it| it == "rs") {
                scan(&fs::read_to_string(&path).unwrap(), &mut found);
            }
        }
    }
    found
}

fn is_left_out(it: &Crate, below: &Path) -> bool {
    let text = below.to_string_lossy();
    let name = below.file_stem().unwrap_or_default().to_string_lossy();
    let tests = name == "tests" || name == "model" || name.ends_with("_tests");
    tests || it.private.iter().any(|private| text.starts_with(private))
}

/// Adds the public functions of one file.
fn scan(text: &str, found: &mut BTreeSet<String>) {
    // The type or trait whose braces are open, and whether it is a public trait.
    let mut owner: Option<(String, bool)> = None;
    for line in text.lines() {
        if let Some(of) = line.strip_prefix("impl") {
            owner = inherent(of).map(|name| (name, false));
        } else if let Some((name, is_public)) = declared(line, "trait") {
            owner = is_public.then_some((name, true));
        } else if line.starts_with('}') {
            owner = None;
        }
        let inside = line.strip_prefix("    ").unwrap_or("");
        if let (Some((owner, is_trait)), Some((name, is_public))) = (&owner, declared(inside, "fn"))
        {
            found.extend((is_public || *is_trait).then(|| format!("{owner}::{name}")));
        }
        found.extend(declared(line, "fn").and_then(|(name, is_public)| is_public.then_some(name)));
    }
}

/// The name that a line declares with this keyword, and whether it is public. Other keywords may stand before it.
fn declared(line: &str, keyword: &str) -> Option<(String, bool)> {
    let is_keyword =
        |word: &&str| !word.is_empty() && word.bytes().all(|it| it.is_ascii_lowercase());
    let mut words = line
        .split(' ')
        .skip_while(|word| is_keyword(word) && *word != keyword);
    if words.next() != Some(keyword) {
        return None;
    }
    Some((identifier(words.next()?), line.starts_with("pub ")))
}

/// The identifier at the beginning of a text.
fn identifier(text: &str) -> String {
    let name = text.split(|it: char| !it.is_alphanumeric() && it != '_');
    name.take(1).collect()
}

/// The type of `impl<…> Type<…> {`, unless it implements a trait.
fn inherent(of: &str) -> Option<String> {
    let mut depth = 0;
    let end = of.find(|it: char| {
        depth += i32::from(it == '<') - i32::from(it == '>');
        depth == 0
    });
    let rest = of.get(end.unwrap_or(0)..)?.trim_start_matches('>').trim();
    if rest.contains(" for ") {
        return None;
    }
    Some(identifier(rest.trim_start_matches("dyn ")))
}

#[test]
fn the_scan_finds_what_is_public_and_nothing_else() {
    let mut found = BTreeSet::new();
    let lines = [
        "impl<T: Into<u8>> Type<T> {",
        "    pub fn one(self) {}",
        "    fn two() {}",
        "    pub const fn three() {}",
        "}",
        "impl Clone for Type {",
        "    fn clone() {}",
        "}",
        "pub trait Trait {",
        "    fn four();",
        "}",
        "trait Private {",
        "    fn five();",
        "}",
        "pub fn six() {}",
        "impl dyn Trait {",
        "    pub async fn seven() {}",
        "    pub(crate) fn eight() {}",
        "}",
    ];

    scan(&lines.join("\n"), &mut found);

    let expected = [
        "Trait::four",
        "Trait::seven",
        "Type::one",
        "Type::three",
        "six",
    ];
    assert_eq!(found, expected.map(str::to_owned).into());
}
