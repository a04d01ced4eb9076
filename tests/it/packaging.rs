//! What is shipped beside the program: examples that it understands, and an image whose every step is done here in a scratch root.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_yaml_ng::Value;

/// Beginnings of examples that are other programs' configurations.
const OTHERS: [&str; 1] = ["scrape_configs:"];
/// The user of the image.
const USER: u32 = 10001;

fn is_root() -> bool {
    fs::metadata("/proc/self").expect("a process").uid() == 0
}

fn repository(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(repository(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Asks the program whether it understands a configuration.
fn assert_understood(what: &str, yaml: &str) {
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("replicate.yaml");
    fs::write(&file, yaml).expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_replicate"));
    command.args(["check", "--config"]).arg(&file).stdin(Stdio::null());
    for name in ["DATABASE", "URL", "CONFIG", "LISTEN"] {
        command.env_remove(format!("REPLICATE_{name}"));
    }
    let secrets = ["APP_KEY_ID", "APP_SECRET", "REPLICATE_PANEL_PASSWORD", "REPLICATE_PANEL_TOKEN"];
    let output = command.envs(secrets.map(|name| (name, "long-enough"))).output().expect("started");
    assert!(output.status.success(), "{what}: {}\n{yaml}", String::from_utf8_lossy(&output.stderr));
}

/// Every configuration in the documentation and beside the program is understood by it.
#[test]
fn example_configurations_are_understood() {
    assert_understood("packaging/replicate.yaml", &read("packaging/replicate.yaml"));
    let docs = fs::read_dir(repository("docs")).expect("docs").flatten().map(|entry| entry.path());
    let docs = docs.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let mut found = 0;
    for page in docs.chain([repository("README.md")]) {
        let text = fs::read_to_string(&page).expect("a text");
        let blocks = text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
        for block in blocks.filter(|block| !OTHERS.iter().any(|other| block.starts_with(other))) {
            assert_understood(&page.display().to_string(), block);
            found += 1;
        }
    }
    assert!(found >= 8, "only {found} configurations were found in the documentation");
}

/// The files for compose and Kubernetes are well-formed; what they configure is understood; both leave the time to stop in.
#[test]
fn examples_for_containers_fit() {
    let compose: Value = serde_yaml_ng::from_str(&read("packaging/compose.yaml")).expect("YAML");
    let app = &compose["services"]["app"];
    assert_eq!(app["stop_grace_period"], "1m");
    let image: BTreeMap<String, String> = dockerfile().environment;
    let known = read("docs/docker.md");
    for name in app["environment"].as_mapping().expect("variables").keys().filter_map(Value::as_str) {
        assert!(name.starts_with("AWS_") || known.contains(&format!("`{name}`")), "{name} is not documented");
    }
    assert!(known.contains(&image["REPLICATE_LISTEN"]));
    let text = read("packaging/kubernetes.yaml");
    let documents: Vec<Value> =
        text.split("\n---\n").map(|document| serde_yaml_ng::from_str(document).expect("YAML")).collect();
    let [config, set] = documents.as_slice() else { panic!("two documents") };
    assert_understood("kubernetes", config["data"]["replicate.yaml"].as_str().expect("a text"));
    let pod = &set["spec"]["template"]["spec"];
    assert_eq!((&set["spec"]["replicas"], &pod["terminationGracePeriodSeconds"]), (&1.into(), &60.into()));
    assert_eq!(pod["securityContext"]["runAsUser"], USER);
    for container in pod["initContainers"].as_sequence().expect("two of them") {
        let arguments = container["args"].as_sequence().expect("arguments").iter().filter_map(Value::as_str);
        // Wrong arguments end with 2 before anything else; --help ends before anything is done.
        let output = Command::new(env!("CARGO_BIN_EXE_replicate")).args(arguments).arg("--help").output();
        assert!(output.expect("started").status.success(), "{container:?}");
    }
}

/// The entrypoint leaves every command of replicate to it, and does not take one for the application.
#[test]
fn the_entrypoint_knows_the_commands() {
    let text = read("packaging/entrypoint.sh");
    let list = text.lines().find(|line| line.contains(" | restore | ")).expect("a list");
    let known: Vec<&str> = list.split('|').map(str::trim).collect();
    let missing: Vec<_> = crate::cli::COMMANDS.into_iter().filter(|command| !known.contains(command)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// The unit for systemd is of the kind that is told, waits longer than the final sync may take, and starts what exists.
#[test]
fn the_unit_fits() {
    let unit = read("packaging/replicate.service");
    let value = |key: &str| unit.lines().find_map(|line| line.strip_prefix(&format!("{key}="))).expect("a key");
    assert_eq!((value("Type"), value("TimeoutStartSec"), value("WatchdogSec")), ("notify", "infinity", "60"));
    assert!(value("TimeoutStopSec").parse::<u32>().expect("seconds") > 30);
    assert_eq!(value("ExecStart"), "/usr/local/bin/replicate run --config /etc/replicate.yaml");
    let Ok(told) = Command::new("systemd-analyze").arg("--version").output() else {
        eprintln!("the_unit_fits: systemd-analyze is not here; the unit was not verified by it");
        return;
    };
    assert!(told.status.success());
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]).arg(repository("packaging/replicate.service"));
    let told = verify.output().expect("started");
    let text = String::from_utf8_lossy(&told.stderr);
    // The program is not installed where this is tested.
    let findings: Vec<_> = text.lines().filter(|line| !line.contains("is not executable")).collect();
    assert!(findings.iter().all(|line| !line.contains("replicate.service")), "{text}");
}

/// The last stage of the Dockerfile.
struct Image {
    /// From the repository, or from the stage that builds, to a place in the image.
    copies: Vec<(String, String, bool)>,
    environment: BTreeMap<String, String>,
    workdir: String,
    entrypoint: String,
    user: String,
    runs: String,
}

fn dockerfile() -> Image {
    let text = read("Dockerfile").replace("\\\n", " ");
    let (build, last) = text.split_once("FROM docker.io/library/debian:").expect("two stages");
    assert!(build.contains("COPY . .\nRUN cargo build --locked --profile dist --bin replicate"), "{build}");
    assert!(read("Cargo.toml").contains("[profile.dist]"));
    let of = |instruction: &str| -> Vec<String> {
        let lines = last.lines().filter_map(|line| line.strip_prefix(instruction));
        lines.map(|rest| rest.trim().to_owned()).collect()
    };
    let copies = of("COPY ").into_iter().map(|copy| {
        let (built, copy) = match copy.strip_prefix("--from=build ") {
            Some(rest) => (true, rest.to_owned()),
            None => (false, copy),
        };
        let (from, to) = copy.split_once(' ').expect("from and to");
        (from.to_owned(), to.trim().to_owned(), built)
    });
    let entrypoint = of("ENTRYPOINT ").pop().expect("an entrypoint");
    let environment = of("ENV ").into_iter().map(|line| {
        let (name, value) = line.split_once('=').expect("a value");
        (name.to_owned(), value.to_owned())
    });
    Image {
        copies: copies.collect(),
        environment: environment.collect(),
        workdir: of("WORKDIR ").pop().expect("a directory"),
        entrypoint: entrypoint.trim_matches(['[', ']', '"']).to_owned(),
        user: of("USER ").pop().expect("a user"),
        runs: of("RUN ").join("\n"),
    }
}

/// The image as far as a directory can be one.
struct Root {
    folder: tempfile::TempDir,
    image: Image,
}

impl Root {
    fn build() -> Root {
        let (folder, image) = (tempfile::tempdir().expect("a directory"), dockerfile());
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("set");
        let root = Root { folder, image };
        for (from, to, built) in &root.image.copies {
            let source = match built {
                true if from == "/src/target/dist/replicate" => PathBuf::from(env!("CARGO_BIN_EXE_replicate")),
                true => panic!("{from} is not built"),
                false => repository(from),
            };
            let target = root.at(to);
            fs::create_dir_all(target.parent().expect("a parent")).expect("made");
            fs::copy(&source, &target).unwrap_or_else(|error| panic!("{from}: {error}"));
            assert!(target.metadata().expect("there").permissions().mode() & 0o111 == 0o111, "{to} cannot be executed");
        }
        assert_eq!(root.image.user, format!("{USER}:{USER}"));
        assert!(
            root.image.runs.contains("mkdir /data") && root.image.runs.contains(&format!("chown {USER}:{USER} /data"))
        );
        assert_eq!(root.image.workdir, "/data");
        for folder in ["data", "replica"] {
            fs::create_dir(root.at(folder)).expect("made");
            if is_root() {
                chown(root.at(folder), Some(USER), Some(USER)).expect("changed");
            }
        }
        root
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path.trim_start_matches('/'))
    }

    fn database(&self) -> String {
        self.at("data/app.db").display().to_string()
    }

    /// As `docker run` would: the entrypoint with these arguments, as the image's user where this process may become it.
    fn run(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
        let entrypoint = self.at(&self.image.entrypoint);
        let mut command = match is_root() {
            true => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid", &USER.to_string(), "--regid", &USER.to_string(), "--clear-groups"]);
                command.arg(entrypoint);
                command
            }
            false => Command::new(entrypoint),
        };
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", self.at("usr/local/bin").display());
        command.env_clear().env("PATH", path).envs(&self.image.environment);
        // The port of the image may be taken here.
        command.env("REPLICATE_LISTEN", "127.0.0.1:0").env("REPLICATE_DATABASE", self.database());
        command.env("REPLICATE_URL", self.at("replica").display().to_string()).envs(environment.iter().copied());
        command.args(arguments).current_dir(self.at(&self.image.workdir)).stdin(Stdio::null());
        command.output().expect("started")
    }

    #[track_caller]
    fn expect(&self, code: i32, arguments: &[&str], environment: &[(&str, &str)]) -> String {
        let output = self.run(arguments, environment);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// Commits one row and prints how many there are.
const APP: &str = "import sqlite3, sys
c = sqlite3.connect(sys.argv[1], timeout=30)
c.execute('PRAGMA journal_mode=WAL')
c.execute('CREATE TABLE IF NOT EXISTS t(v)')
c.execute('INSERT INTO t VALUES (1)')
c.commit()
print(c.execute('SELECT count(*) FROM t').fetchone()[0])
sys.exit(int(sys.argv[2]))";

/// The image, built in a scratch root by the Dockerfile's own steps, wraps a command by environment variables alone: its exit code
/// comes back, what it committed is in the replica, and on a new volume it finds its database restored.
#[test]
fn the_image_wraps_any_command() {
    let root = Root::build();
    let database = root.database();
    let app = ["python3", "-c", APP, &database, "3"];
    assert_eq!(root.expect(3, &app, &[]), "1\n");
    assert_eq!(root.expect(3, &app, &[]), "2\n");
    // A container that lives for a moment only may end before its replica has a snapshot.
    root.expect(0, &["run", "--once"], &[]);
    fs::remove_dir_all(root.at("data")).expect("a new volume");
    fs::create_dir(root.at("data")).expect("made");
    if is_root() {
        chown(root.at("data"), Some(USER), Some(USER)).expect("changed");
    }
    assert_eq!(root.expect(3, &app, &[]), "3\n", "restored before the command started");
    let labelled = root.expect(0, &["--", "true"], &[("REPLICATE_LABEL_BEFORE_START", "true")]);
    assert_eq!(labelled, "");
    let replica = root.at("replica").display().to_string();
    assert!(root.expect(0, &["label", "list", &replica], &[]).contains("before-start-"));
    assert!(!root.expect(0, &["list", &replica], &[]).is_empty());
    assert!(root.expect(0, &["--version"], &[]).contains(env!("CARGO_PKG_VERSION")));
    root.expect(2, &["true"], &[("REPLICATE_RESTORE_IF_MISSING", "perhaps")]);
    root.expect(2, &["true"], &[("REPLICATE_DATABASE", ""), ("REPLICATE_URL", "")]);
    root.expect(1, &["/no/such/program"], &[]);
}

/// Without a command the container replicates until it is told to stop, and then ends well.
#[test]
fn the_image_replicates_alone() {
    let root = Root::build();
    let database = root.database();
    root.expect(0, &["python3", "-c", APP, &database, "0"], &[]);
    // `timeout` sends TERM, as `docker stop` does, and tells with 124 that it had to.
    let entrypoint = root.at(&root.image.entrypoint);
    let mut command = Command::new("timeout");
    command.args(["--preserve-status", "-s", "TERM", "5"]).arg(entrypoint);
    command.env("PATH", format!("{}:/usr/bin:/bin", root.at("usr/local/bin").display())).env("REPLICATE_LISTEN", "");
    command.env("REPLICATE_DATABASE", &database).env("REPLICATE_URL", root.at("replica"));
    let output = command.stdin(Stdio::null()).output().expect("started");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.contains("everything is in every replica"), "{told}");
}
