//! docs/runbook.md, followed to the letter: its commands are run as they stand there, in their order, with a replicator that runs.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rusqlite::Connection;

use crate::ledger::rig::{Rig, eventually, stop};

/// What somebody has who follows it.
struct Night {
    rig: Rig,
    text: String,
    /// A moment with one row in the database, and the number of its commit.
    before: (String, String),
}

impl Night {
    /// The commands of a section, with this night's point in time in place of the example's.
    fn commands(&self, section: &str) -> String {
        let (_, rest) = self.text.split_once(&format!("\n## {section}\n")).unwrap_or_else(|| panic!("no {section}"));
        let section = rest.split("\n## ").next().expect("its text");
        let blocks = section.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
        // What sets the variables is done by `follow`.
        let lines =
            blocks.flat_map(str::lines).filter(|line| !line.starts_with("export ") && !line.starts_with("set "));
        let config = self.rig.path("replicate.yml").display().to_string();
        let lines = lines.collect::<Vec<_>>().join("\n");
        let lines = lines.replace("2026-11-20T10:15:00Z", &self.before.0).replace("12345", &self.before.1);
        lines.replace("/etc/replicate.yaml", &config)
    }

    /// Runs the commands of a section in a shell that ends at the first one that fails.
    fn follow(&self, section: &str) -> String {
        let commands = self.commands(section);
        let program = Path::new(env!("CARGO_BIN_EXE_replicate")).parent().expect("a folder").display();
        let mut shell = Command::new("sh");
        shell.args(["-euc", &commands]).stdin(Stdio::null());
        shell.env("PATH", format!("{program}:/usr/local/bin:/usr/bin:/bin"));
        shell.env("SOURCE", &self.rig.urls[0]).env("DATABASE", &self.rig.database);
        shell.env("REPLICATE_CONFIG", self.rig.path("replicate.yml"));
        let output = shell.output().expect("a shell");
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        assert!(output.status.success(), "{section}: {commands}\n{said}\n{}", self.rig.log());
        said
    }

    /// A command of the program, with the configuration.
    fn ask(&self, arguments: &[&str]) -> String {
        let mut command = self.rig.replicate();
        command.args(arguments).arg("--config").arg(self.rig.path("replicate.yml"));
        let output = command.output().expect("started");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn rows(&self, ending: &str) -> i64 {
        let path = format!("{}{ending}", self.rig.database.display());
        let connection = Connection::open(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).expect("the table")
    }
}

fn add_row(database: &Path) {
    let connection = Connection::open(database).expect("opened");
    connection
        .execute_batch("PRAGMA journal_mode=wal; CREATE TABLE IF NOT EXISTS t (x); INSERT INTO t VALUES (1)")
        .expect("a row");
}

/// Damage by a person, a lost file, a damaged replica's remedies, a lost machine: each way of the runbook leads where it says.
#[test]
fn the_runbook_can_be_followed() {
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/runbook.md")).expect("a runbook");
    let rig = Rig::new(&[]);
    add_row(&rig.database);
    // The state is not where it would be looked for without the configuration.
    let state = rig.path("state");
    let start = |rig: &Rig| rig.start_with("20ms", &format!("state-dir: {}\n", state.display()));
    let replicator = start(&rig);
    let mut night = Night { rig, text, before: (String::new(), "0".to_owned()) };
    let database = night.rig.database.display().to_string();
    let is_up = |night: &Night| {
        let mut status = night.rig.replicate();
        status.args(["status", &database, "--config"]).arg(night.rig.path("replicate.yml"));
        status.output().is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("connected"))
    };
    assert!(eventually(Duration::from_secs(60), || is_up(&night)), "{}", night.rig.log());
    let synced: serde_json::Value = serde_json::from_str(&night.ask(&["sync", &database, "--json"])).expect("JSON");
    night.ask(&["snapshot", &database, "--label", "before-release"]);
    night.before = (jiff::Timestamp::now().to_string(), synced["txid"].to_string());
    std::thread::sleep(Duration::from_millis(2));
    add_row(&night.rig.database);
    night.ask(&["sync", &database]);

    assert!(night.follow("First of all").contains("restorable"));
    night.follow("Back to before it happened");
    let copies = [".before", &format!(".at-{}", night.before.1), ".labelled"].map(|ending| night.rows(ending));
    assert_eq!(copies, [1, 1, 1]);

    for (deleted, rows) in [(false, 2), (true, 3)] {
        match deleted {
            false => std::fs::write(&night.rig.database, "not a database any more").expect("damaged"),
            // Its log stays behind, as it does when somebody deletes the wrong file.
            true => std::fs::remove_file(&night.rig.database).expect("removed"),
        }
        assert!(night.follow("In the same place").contains("goes on"));
        assert_eq!((night.rows(""), night.rows(".restored")), (rows, rows), "{deleted}");
        std::fs::remove_file(format!("{database}.restored")).expect("looked at");
        add_row(&night.rig.database);
        night.ask(&["sync", &database]);
    }
    let kept = std::fs::read_dir(night.rig.database.parent().expect("a folder")).expect("listed").flatten();
    assert!(kept.into_iter().any(|file| file.file_name().to_string_lossy().starts_with("app.db.before-restore-")));

    for section in ["The store does not answer", "There is nothing there", "The replica is damaged"] {
        night.follow(section);
    }
    stop(replicator, "replicate run");
    std::fs::remove_dir_all(night.rig.database.parent().expect("a folder")).expect("removed");
    std::fs::remove_dir_all(&state).expect("removed");
    night.follow("A new machine");
    assert_eq!(night.rows(""), 4);
    let replicator = start(&night.rig);
    assert!(eventually(Duration::from_secs(60), || is_up(&night)), "{}", night.rig.log());
    stop(replicator, "replicate run");
    // All of it is one history.
    assert!(night.rig.commits(&night.rig.urls[0]).len() >= 3);
}
