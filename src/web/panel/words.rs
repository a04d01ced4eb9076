//! How times, sizes and troubles are told to people. Pure.

use std::time::Duration;

use maud::{Markup, html};

use crate::position::{TimeMs, whole_ms};
use crate::restore::point::format_time;
use crate::status::{ReplicaState, ReplicaStatus, State, StatusSnapshot};

/// A length of time, to two digits or so.
pub fn length(length: Duration) -> String {
    let ms = whole_ms(length);
    let (one, unit) = match ms {
        0..1_000 => return format!("{ms} ms"),
        1_000..10_000 => return format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        10_000..120_000 => (1_000, "s"),
        120_000..7_200_000 => (60_000, "min"),
        7_200_000..172_800_000 => (3_600_000, "h"),
        _ => (86_400_000, "days"),
    };
    format!("{} {unit}", ms / one)
}

pub fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let power = (bytes.max(1).ilog2() / 10).min(5);
    let whole = bytes >> (10 * power);
    match power {
        0 => format!("{bytes} B"),
        _ if whole >= 10 => format!("{whole} {}", units[power as usize]),
        _ => {
            let tenths = (bytes >> (10 * power - 10)) * 10 / 1024 % 10;
            format!("{whole}.{tenths} {}", units[power as usize])
        }
    }
}

/// So many of something.
pub fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// How long ago, or in how long.
pub fn ago(time: TimeMs, now: TimeMs) -> String {
    let passed = Duration::from_millis(now.0.saturating_sub(time.0));
    match time <= now {
        true => format!("{} ago", length(passed)),
        false => format!("in {}", length(Duration::from_millis(time.0 - now.0))),
    }
}

/// A moment: exactly, and how long ago.
pub fn moment(time: TimeMs, now: TimeMs) -> Markup {
    let exact = format_time(time);
    html! { time datetime=(exact) { (exact) } " (" (ago(time, now)) ")" }
}

/// Briefly; exactly for machines and for who points at it.
pub fn brief(time: Option<TimeMs>, now: TimeMs) -> Markup {
    match time {
        None => html! { "never" },
        Some(time) => {
            let exact = format_time(time);
            html! { time datetime=(exact) title=(exact) { (ago(time, now)) } }
        }
    }
}

/// A path or a URL, which may be broken after each of its parts.
pub fn place(text: &str) -> Markup {
    html! { @for part in text.split_inclusive('/') { (part) wbr; } }
}

pub fn replica_word(state: &ReplicaState) -> &'static str {
    match state {
        ReplicaState::Connecting => "connecting",
        ReplicaState::Connected => "connected",
        ReplicaState::Unreachable(_) => "unreachable",
        ReplicaState::Fenced(_) => "taken over",
        ReplicaState::Refused(_) => "refused",
    }
}

/// What to do about what is wrong now.
pub fn advice(status: &StatusSnapshot) -> Vec<&'static str> {
    let of_capture = match &status.state {
        State::Running if !status.is_capturing() => Some(
            "A read or write of this process hangs, mostly on a disk that does not answer: see dmesg. When it does not come back, restart the process.",
        ),
        State::Running | State::Starting | State::FirstRead { .. } | State::Stopped => None,
        State::Absent if status.captured.0 == 0 => None,
        State::Absent => {
            Some("It was moved or deleted. If it should be there, restore it: the command is prepared below.")
        }
        State::WaitingForReplica => Some("Make one of its replicas reachable: network, endpoint, credentials."),
        State::NotCapturable(_) => Some(
            "Do what the message says; capture begins by itself then. A SQLite database must be in WAL mode: PRAGMA journal_mode=wal, once.",
        ),
        State::SpoolFull { .. } => Some(
            "Make a replica reachable or make room on the disk of the state directory; raise spool-limit to bridge longer outages.",
        ),
        State::Paused => Some("Resume it when whatever it was paused for is done."),
        State::Failed(_) => Some("This does not pass by itself: see the log, and restart the process."),
    };
    let of_replica = |replica: &ReplicaStatus| match &replica.state {
        ReplicaState::Connected if replica.lag > status.aims.max_lag => Some(
            "The store has not taken yet what was captured: it does not answer in time, or more is written than the line takes. What is captured \
             waits in the spool.",
        ),
        ReplicaState::Connecting | ReplicaState::Connected => None,
        ReplicaState::Unreachable(_) => Some(
            "The store does not take what is sent: look at network, endpoint, credentials and the clock of this machine. What is captured waits in the spool.",
        ),
        ReplicaState::Fenced(_) => {
            Some("Another process writes to this replica. Give each its own place, and restart this one.")
        }
        ReplicaState::Refused(_) => Some(
            "The place holds another engine's replica, or a newer version's. Give this database another place, or update replicate.",
        ),
    };
    let mut all: Vec<&str> = of_capture.into_iter().collect();
    for advice in status.replicas.iter().filter_map(of_replica) {
        if !all.contains(&advice) {
            all.push(advice);
        }
    }
    all
}

/// What an error of this kind means for who has to do something about it.
pub fn error_advice(kind: &str) -> &'static str {
    match kind {
        "store-unavailable" => "Network, or a store that asks for less. Tried again by itself.",
        "store-denied" => "Credentials, permissions, or the clock of this machine.",
        "store-invalid" => "An endpoint that does not understand us: see docs/stores.md.",
        "store-not-found" => "The bucket or an object is missing: check the URL.",
        "store-exists" => "Another writer puts objects of the same names: give each its own place.",
        "spool" => "The disk of the state directory: full, or failing.",
        "spool-full" => "Make the stores reachable, or raise spool-limit.",
        "capture" => "Reading the database failed: permissions, or the disk. Tried again by itself.",
        "not-capturable" => "The database cannot be captured as it is: the message says why.",
        "gap" => "Single commits of that time cannot be restored; everything after them can.",
        "include" => "A file beside the database could not be kept: permissions, or its size. Tried again by itself.",
        "snapshot" | "compaction" => {
            "Tried again by itself. Mostly a store that is down, or no room in the state directory."
        }
        "prune" => "Tried again by itself. Without permission to delete, set retention: forever.",
        "verify" => "The replica is damaged, or could not be read: replicate verify --deep tells all.",
        "drill" => "A restore for practice went wrong: replicate verify --deep, and replicate drill.",
        "compaction-input" | "replica-damaged" => {
            "Objects are missing or broken: create a backup now, and replicate verify --deep tells what is lost."
        }
        "final" | "replica-conflict" => "Another process writes to the replica: give each its own place, and restart.",
        "replica-refused" => "The place holds another engine's replica, or a newer version's.",
        "start" | "panic" => "The message is in the log; restart, and report it.",
        _ => "The log has the message.",
    }
}

/// A word for a shell: as it is where that is safe, else in quotes that keep everything.
pub fn quoted(word: &str) -> String {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || "/._-:=@%+,".contains(c);
    match !word.is_empty() && word.chars().all(is_safe) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::ERROR_KINDS;

    /// Numbers are told so that nobody has to count digits.
    #[test]
    fn numbers() {
        for (ms, text) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (1_550, "1.5 s"),
            (59_999, "59 s"),
            (130_000, "2 min"),
            (7_200_000, "2 h"),
            (400_000_000, "4 days"),
        ] {
            assert_eq!(length(Duration::from_millis(ms)), text);
        }
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (20 << 20, "20 MiB"), (u64::MAX, "16383 PiB")]
        {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(ago(TimeMs(1000), TimeMs(61_000)), "60 s ago");
        assert_eq!(ago(TimeMs(61_000), TimeMs(1000)), "in 60 s");
    }

    /// Every kind of error has its advice.
    #[test]
    fn no_error_without_advice() {
        for kind in ERROR_KINDS {
            assert_ne!(error_advice(kind), error_advice("unheard of"), "{kind}");
        }
    }

    /// What a shell makes of a quoted word is the word.
    #[test]
    fn a_shell_reads_the_word() {
        let words = [
            "/data/app.db",
            "a b",
            "it's",
            "$(touch x)`y`\"z\"\\",
            "",
            "-o",
            "2026-11-20T10:15:00Z",
            "~",
            "a;b\nc",
            "ä*?",
        ];
        for word in words {
            let output = std::process::Command::new("sh").arg("-c").arg(format!("printf %s {}", quoted(word))).output();
            assert_eq!(String::from_utf8(output.expect("a shell").stdout).expect("text"), word);
        }
    }
}
