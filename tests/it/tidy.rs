//! The rules of the house that a compiler does not keep: layers, homes of outside crates, sizes, nothing left undone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The modules of the library in their layers, as in src/lib.rs and docs/architecture.md.
const LAYERS: [&[&str]; 5] = [
    &["cron", "extent", "position", "status"],
    &["checksum", "engine", "layout", "segment", "store"],
    &["compaction", "document", "fileset", "inventory", "label", "replica", "retention", "spool"],
    &["audit", "cost", "drill", "include", "prune", "replicator", "restore", "verify", "watcher"],
    &["cli", "commands", "config", "control", "error", "supervisor", "systemd", "web"],
];

/// Outside crates and the only places that may name them.
const HOMES: &[(&str, &[&str])] = &[
    ("rusqlite", &["src/engine/sqlite"]),
    ("duckdb", &["src/engine/duckdb"]),
    ("aws_config", &["src/store/s3"]),
    ("aws_credential_types", &["src/store/s3"]),
    ("aws_sdk_s3", &["src/store/s3"]),
    ("aws_smithy_types", &["src/store/s3"]),
    ("croner", &["src/cron"]),
    ("glob", &["src/config/group", "src/include"]),
    ("notify", &["src/watcher"]),
    ("hyper", &["src/web"]),
    ("hyper_util", &["src/web"]),
    ("http_body", &["src/store/s3"]),
    ("http_body_util", &["src/web"]),
    ("prost", &["src/segment"]),
    ("sha2", &["src/checksum"]),
    ("base64", &["src/web/panel"]),
    ("maud", &["src/web/panel"]),
    ("subtle", &["src/web/panel"]),
    ("lz4_flex", &["src/segment"]),
    ("zstd", &["src/segment"]),
    ("crc32fast", &["src/segment"]),
    ("serde_yaml_ng", &["src/config"]),
    ("indicatif", &["src/commands"]),
    ("clap", &["src/cli", "src/main.rs", "src/commands/completions.rs", "src/commands/man.rs"]),
    ("clap_complete", &["src/cli", "src/commands/completions.rs"]),
    ("clap_mangen", &["src/commands/man.rs"]),
];

/// Left of the spool everything is synchronous; the spool itself may ring the bell of the other side, no more.
const NO_TOKIO: [&str; 8] = ["checksum", "engine", "extent", "inventory", "layout", "position", "segment", "spool"];

const MAX_FILE_LINES: usize = 500;
const LARGE_FILE_LINES: usize = 400;
/// One large file in so many is tolerated.
const FILES_PER_LARGE_FILE: usize = 20;
const MAX_FUNCTION_LINES: usize = 70;

struct Source {
    path: String,
    text: String,
}

impl Source {
    /// Without its tests: they may use anything.
    fn code(&self) -> &str {
        let is_test = self.path.ends_with("tests.rs") || self.path.contains("/tests/");
        let end = if is_test { 0 } else { self.text.find("#[cfg(test)]").unwrap_or(self.text.len()) };
        &self.text[..end]
    }

    /// The lines that are no comments.
    fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.code().lines().enumerate().map(|(i, line)| (i + 1, line));
        lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    /// `src/store/s3.rs` belongs to `store`.
    fn module(&self) -> Option<&str> {
        let rest = self.path.strip_prefix("src/")?;
        let name = rest.split('/').next()?.trim_end_matches(".rs");
        (name != "lib" && name != "main").then_some(name)
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &Path, ending: &str, found: &mut Vec<Source>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() {
            files(&path, ending, found);
        } else if path.extension().is_some_and(|e| e == ending) {
            let text = fs::read_to_string(&path).expect("a text");
            let path = path.strip_prefix(root()).expect("below the root").display().to_string();
            found.push(Source { path, text });
        }
    }
}

fn sources(folders: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    for folder in folders {
        files(&root().join(folder), "rs", &mut found);
    }
    assert!(!found.is_empty());
    found
}

/// Does `word` stand in `line` as a path's first part: `word::…` or `use word;`?
fn names_crate(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = &line[at + word.len()..];
        let begins = !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '"');
        begins && (after.starts_with("::") || (line.trim_start().starts_with("use ") && after.starts_with(';')))
    })
}

/// The modules of this crate that a text names: `crate::a`, `crate::{a, b::c}`.
fn modules_named(code: &str) -> BTreeSet<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            found.insert(word(rest));
            continue;
        };
        let (mut depth, mut item) = (1, String::new());
        for c in group.chars() {
            depth += i32::from(c == '{') - i32::from(c == '}');
            if depth == 0 || (depth == 1 && c == ',') {
                found.insert(word(item.trim()));
                item.clear();
            } else {
                item.push(c);
            }
            if depth == 0 {
                break;
            }
        }
    }
    found.remove("");
    found
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|modules| modules.contains(&module))
}

/// Imports point down: no module names one of a higher layer, and no two modules need each other.
#[test]
fn imports_point_down() {
    let mut needs: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources(&["src"]) {
        let Some(module) = source.module() else { continue };
        let own = layer(module).unwrap_or_else(|| panic!("{module} has no layer: add it to this test and the map"));
        let code: String = source.code_lines().map(|(_, line)| format!("{line}\n")).collect();
        for other in modules_named(&code) {
            let Some(theirs) = layer(&other) else { continue };
            assert!(theirs <= own, "{}: {module} (layer {own}) must not use {other} (layer {theirs})", source.path);
            if other != module {
                needs.entry(module.to_owned()).or_default().insert(other);
            }
        }
    }
    // Modules that need nothing any more are taken away until nothing is left; what stays is a circle.
    while let Some(free) =
        needs.iter().find(|(_, of)| of.iter().all(|m| !needs.contains_key(m))).map(|(m, _)| m.clone())
    {
        needs.remove(&free);
    }
    assert!(needs.is_empty(), "these modules need each other: {needs:?}");
}

/// The map in lib.rs has every module, in the order of the layers.
#[test]
fn the_map_is_in_layer_order() {
    let map = fs::read_to_string(root().join("src/lib.rs")).expect("a map");
    let listed: Vec<&str> = map.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let layers: Vec<usize> = listed.iter().map(|m| layer(m).unwrap_or_else(|| panic!("{m} has no layer"))).collect();
    assert!(layers.is_sorted(), "{listed:?}");
    let other: Vec<&str> =
        map.lines().filter(|l| !l.is_empty() && !l.starts_with("//") && !l.starts_with("pub mod ")).collect();
    assert!(other.is_empty(), "lib.rs is the map and holds no code: {other:?}");
}

/// Every outside crate is named in its one home only.
#[test]
fn outside_crates_stay_at_home() {
    for source in sources(&["src"]) {
        for (number, line) in source.code_lines() {
            for (name, homes) in HOMES {
                let home = homes.iter().any(|home| source.path.starts_with(home));
                assert!(home || !names_crate(line, name), "{}:{number}: {name} belongs to {homes:?}", source.path);
            }
            let diode = source.module().is_some_and(|module| NO_TOKIO.contains(&module));
            let bell = source.module() == Some("spool") && line.starts_with("use tokio::sync::");
            assert!(
                !diode || bell || !names_crate(line, "tokio"),
                "{}:{number}: no tokio left of the spool",
                source.path
            );
        }
    }
}

/// Files and functions stay small enough to be read at one sitting.
#[test]
fn files_and_functions_are_short() {
    let sources = sources(&["src", "tests", "benches"]);
    let mut large = Vec::new();
    for source in &sources {
        let lines: Vec<&str> = source.text.lines().collect();
        assert!(lines.len() <= MAX_FILE_LINES, "{} has {} lines", source.path, lines.len());
        if lines.len() > LARGE_FILE_LINES {
            large.push(&source.path);
        }
        for (start, line) in lines.iter().enumerate().filter(|(_, line)| begins_function(line)) {
            // rustfmt puts the end of a function at the indentation of its beginning.
            let indent = &line[..line.len() - line.trim_start().len()];
            let rest = lines[start..].iter();
            let length =
                rest.take_while(|l| !(l.starts_with(indent) && matches!(&l[indent.len()..], "}" | "};"))).count() + 1;
            let one_line = line.ends_with('}') || line.ends_with(';');
            let name = line.trim();
            assert!(one_line || length <= MAX_FUNCTION_LINES, "{}:{}: {length} lines: {name}", source.path, start + 1);
        }
    }
    let tolerated = sources.len().div_ceil(FILES_PER_LARGE_FILE);
    assert!(large.len() <= tolerated, "more than {tolerated} files have over {LARGE_FILE_LINES} lines: {large:?}");
}

fn begins_function(line: &str) -> bool {
    let line = line.trim_start();
    let qualifiers = ["pub ", "pub(super) ", "pub(crate) ", "const ", "async ", "unsafe ", "extern \"C\" "];
    let mut rest = line;
    while let Some(shorter) = qualifiers.iter().find_map(|q| rest.strip_prefix(q)) {
        rest = shorter;
    }
    rest.starts_with("fn ")
}

/// Nothing is left undone, and nothing that was only for looking stays.
#[test]
fn nothing_is_left_undone() {
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("todo", "!("),
        concat!("unimpl", "emented!("),
        concat!("dbg", "!("),
    ];
    for source in sources(&["src", "tests", "benches"]) {
        for mark in marks {
            assert!(!source.text.contains(mark), "{} contains {mark}", source.path);
        }
    }
}

/// Texts for people use the words of docs/architecture.md and name no place of the machine they were written on.
#[test]
fn texts_use_the_words() {
    let mut texts = sources(&["src", "tests", "benches"]);
    files(&root().join("docs"), "md", &mut texts);
    files(&root().join("fixtures"), "md", &mut texts);
    for name in ["README.md", "CHANGELOG.md"] {
        let text = fs::read_to_string(root().join(name)).expect(name);
        texts.push(Source { path: name.to_owned(), text });
    }
    let places = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/tmp/", "bash")];
    for text in &texts {
        for place in places {
            assert!(!text.text.contains(place), "{} names {place}", text.path);
        }
        for (number, line) in text.text.lines().enumerate() {
            // The Unix epoch is the only one here; a history's unit is the generation.
            let epoch = line.to_lowercase().contains("epoch") && !line.to_lowercase().contains("unix");
            assert!(!epoch || text.path.ends_with("tidy.rs"), "{}:{}: {line}", text.path, number + 1);
        }
    }
}

/// The scanners of this file see what they must see.
#[test]
fn the_scanners_see() {
    assert!(names_crate("use zstd::bulk;", "zstd") && names_crate("let x = zstd::encode();", "zstd"));
    assert!(!names_crate("Codec::zstd::x", "zstd") && !names_crate("my_zstd::x", "zstd"));
    let named = modules_named("use crate::{a, b::{c, d}, e};\ncrate::f::g()");
    assert_eq!(named.into_iter().collect::<Vec<_>>(), ["a", "b", "e", "f"]);
    assert!(begins_function("    pub(super) async fn x(") && !begins_function("// fn x"));
}
