//! The documentation is true where a test can tell: links lead somewhere, commands are understood, and every kind of error and every
//! exit code can be looked up.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use replicate::status::ERROR_KINDS;

/// Codes that are promised.
const EXIT_CODES: [&str; 8] = ["0", "1", "2", "3", "4", "5", "6", "7"];

fn repository(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(repository(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// README.md and everything in docs/, with their places in the repository.
fn pages() -> Vec<String> {
    let docs = fs::read_dir(repository("docs")).expect("docs").flatten();
    let names = docs.map(|entry| format!("docs/{}", entry.file_name().to_string_lossy()));
    names.filter(|name| name.ends_with(".md")).chain(["README.md".to_owned()]).collect()
}

/// The text without its blocks of code.
fn prose(text: &str) -> String {
    text.split("```").step_by(2).collect()
}

/// The names by which the headings of a page are linked.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text);
    let headings =
        headings.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let anchor = |heading: &str| {
        let kept =
            heading.to_lowercase().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect::<String>();
        kept.replace(' ', "-")
    };
    headings.map(anchor).collect()
}

/// The first cells of a page's tables, without marks.
fn first_cells(text: &str) -> Vec<String> {
    let rows = text.lines().filter_map(|line| line.strip_prefix("| "));
    rows.filter_map(|row| Some(row.split_once(" |")?.0.trim_matches('`').to_owned())).collect()
}

/// Every link to a page of ours, and to a heading in one, leads there.
#[test]
fn links_lead_somewhere() {
    let mut checked = 0;
    for page in pages() {
        let text = prose(&read(&page));
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            if link.contains("://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => repository(&page),
                file => repository(&page).parent().expect("a folder").join(file),
            };
            assert!(target.exists(), "{page}: {link} leads nowhere");
            if !anchor.is_empty() {
                let there = anchors(&fs::read_to_string(&target).expect("a text"));
                assert!(there.contains(anchor), "{page}: {link} is no heading; there are {there:?}");
            }
            checked += 1;
        }
    }
    assert!(checked > 50, "only {checked} links were found");
}

/// Every kind of error and every exit code has its line in the page for those who look it up, and no other has.
#[test]
fn errors_can_be_looked_up() {
    let text = read("docs/troubleshooting.md");
    let of_section = |heading: &str| {
        let (_, rest) = text.split_once(heading).expect("a section");
        first_cells(rest.split("\n## ").next().expect("its text"))
    };
    let kinds: BTreeSet<String> = of_section("## Kinds of errors").into_iter().filter(|cell| cell != "kind").collect();
    assert_eq!(kinds, ERROR_KINDS.map(str::to_owned).into());
    let codes: Vec<String> = of_section("## Exit codes").into_iter().filter(|cell| cell != "code").collect();
    assert_eq!(codes, [&EXIT_CODES[..], &["other"]].concat());
}

/// Every message that is explained is one that the program prints: what stands between the dots of `… is locked` is in the source.
#[test]
fn texts_are_those_of_the_program() {
    let mut source = String::new();
    for file in rust_files(&repository("src")) {
        source.push_str(&fs::read_to_string(file).expect("a text").replace("\\\n", ""));
    }
    // A text that goes on in the next line of the source is one text, and a part of it may stand in braces.
    let source = source.split_whitespace().collect::<Vec<_>>().join(" ");
    let (mut looked_up, mut unknown) = (0, Vec::new());
    for (page, heading) in [
        ("docs/troubleshooting.md", "## Texts of `replicate`"),
        ("docs/runbook.md", "## The restore is refused"),
        ("docs/operations.md", "## What a message means"),
    ] {
        let text = read(page);
        let (_, section) = text.split_once(heading).expect("a section");
        let rows = section.split("\n## ").next().expect("its text").lines();
        for cell in rows.filter_map(|row| row.strip_prefix("| `")).filter_map(|row| row.split(" | ").next()) {
            for message in format!("`{cell}").split('`').skip(1).step_by(2) {
                for part in message.split('…').map(|part| part.trim_matches([' ', '(', ')', '-'])) {
                    if !source.contains(part) {
                        unknown.push(format!("{page}: {part:?} of {message:?}"));
                    }
                    looked_up += usize::from(part.len() > 3);
                }
            }
        }
    }
    assert!(unknown.is_empty(), "nothing prints these:\n{}", unknown.join("\n"));
    assert!(looked_up > 40, "only {looked_up} texts were looked up");
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { rust_files(&path) } else { vec![path] }).collect()
}

/// Every line that begins with `replicate` in a shell example is understood by the program.
#[test]
fn commands_can_be_copied() {
    let mut tried = 0;
    for page in pages() {
        let text = read(&page);
        for line in text.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()).flat_map(str::lines) {
            let Some(line) = line.strip_prefix("replicate ") else { continue };
            let line = line.split("  #").next().expect("a command").split(" > ").next().expect("a command");
            let mut arguments = words(line);
            // Wrong arguments end with 2 before anything else; --help ends before anything is done.
            let end = arguments.iter().position(|word| word == "--").unwrap_or(arguments.len());
            arguments.insert(end, "--help".to_owned());
            let output = Command::new(env!("CARGO_BIN_EXE_replicate")).args(&arguments).stdin(Stdio::null()).output();
            let output = output.expect("started");
            let told = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{page}: replicate {line}: {told}");
            tried += 1;
        }
    }
    assert!(tried > 40, "only {tried} commands were found");
}

/// As a shell would split it, as far as the documentation goes.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            ' ' if !quoted => words.extend((!word.is_empty()).then(|| std::mem::take(&mut word))),
            c => word.push(c),
        }
    }
    words.extend((!word.is_empty()).then_some(word));
    words
}

/// Policies for buckets are well-formed, and none but the pruner's deletes.
#[test]
fn policies_are_well_formed() {
    let text = read("docs/security.md");
    let policies: Vec<serde_json::Value> = text
        .split("```json\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .map(|block| serde_json::from_str(block).unwrap_or_else(|error| panic!("{error}: {block}")))
        .collect();
    let deletes: Vec<bool> = policies.iter().map(|policy| policy.to_string().contains("DeleteObject")).collect();
    assert_eq!(deletes, [false, false, true], "writer, restorer, pruner");
    assert!(policies.iter().all(|policy| !policy.to_string().contains("s3:*")));
}

/// The program is installed with a page of the manual for each command and with completions for three shells.
#[test]
fn the_manual_and_completions_are_installed() {
    let folder = tempfile::tempdir().expect("a directory");
    let mut install = Command::new(repository("packaging/install.sh"));
    install
        .arg(env!("CARGO_BIN_EXE_replicate"))
        .env("DESTDIR", folder.path())
        .env("PREFIX", "/usr")
        .stdin(Stdio::null());
    let output = install.output().expect("started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let at = |name: &str| folder.path().join("usr").join(name);
    let version = Command::new(at("bin/replicate")).arg("--version").output().expect("started");
    assert!(version.status.success());
    let manual = fs::read_dir(at("share/man/man1")).expect("pages").count();
    let page = fs::read_to_string(at("share/man/man1/replicate-restore.1")).expect("a page");
    assert!(manual > 15 && page.contains("EXIT STATUS"), "{manual} pages");
    for (name, part) in [
        ("share/bash-completion/completions/replicate", "complete -F"),
        ("share/zsh/site-functions/_replicate", "#compdef replicate"),
        ("share/fish/vendor_completions.d/replicate.fish", "complete -c replicate"),
    ] {
        assert!(fs::read_to_string(at(name)).expect(name).contains(part), "{name}");
    }
}
