//! Gives memory back when there has been nothing to do for a while.
//!
//! A first copy or a burst leaves a heap that is mostly empty, and maps pages of the program that are needed once. The kernel
//! would take the latter back only under pressure, and they count as resident until then.

use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

#[cfg(all(target_os = "linux", target_env = "gnu"))]
use crate::replicator::release_memory;
use crate::status::Status;

/// So long without any change, a database is at rest.
const QUIET: Duration = Duration::from_secs(5);
/// Many databases come to rest one after the other: once in so long is enough for all of them.
const PAUSE: Duration = Duration::from_secs(30);

/// At the start: threads share a few heaps. By default each of glibc's eight for every core keeps what was freed in it, and
/// threads that mostly wait gain nothing by them.
pub fn share_heaps() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt has no preconditions; where it refuses, everything stays as it was.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, HEAPS);
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
const HEAPS: libc::c_int = 2;

/// Whenever this database comes to rest. Causes no wake-up while nothing happens.
pub async fn give_back_at_rest(status: Status) {
    let mut changes = status.watch();
    // What is left of it then is the replicator's, and this ends with that.
    drop(status);
    loop {
        changes.mark_unchanged();
        match tokio::time::timeout(QUIET, changes.changed()).await {
            Ok(Ok(())) => continue,
            Ok(Err(_)) => return,
            Err(_) => {}
        }
        if !is_due() {
            continue;
        }
        give_back();
        if changes.changed().await.is_err() {
            return;
        }
    }
}

fn is_due() -> bool {
    static LAST: Mutex<Option<Instant>> = Mutex::new(None);
    let Ok(mut last) = LAST.lock() else { return false };
    let due = last.is_none_or(|last| last.elapsed() >= PAUSE);
    if due {
        *last = Some(Instant::now());
    }
    due
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn give_back() {
    release_memory();
    let (Ok(maps), Ok(program)) = (std::fs::read_to_string("/proc/self/maps"), std::env::current_exe()) else { return };
    for (start, len) in code_of(&maps, &program) {
        // SAFETY: a private mapping of the program's code, which nobody writes to: its pages come back from the file, that is
        // from the page cache, when they are next executed. An error leaves everything as it was.
        unsafe { libc::madvise(start as *mut libc::c_void, len, libc::MADV_DONTNEED) };
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn give_back() {}

/// Start and length of what is mapped of `program` to be read and executed, and never to be written, in the lines of
/// `/proc/self/maps`: `start-end perms offset device inode path`.
#[cfg_attr(not(all(target_os = "linux", target_env = "gnu")), allow(dead_code))]
fn code_of(maps: &str, program: &Path) -> Vec<(usize, usize)> {
    let code = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (range, permissions) = (fields.next()?, fields.next()?);
        let path = fields.nth(3)?;
        let (start, end) = range.split_once('-')?;
        let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
        (permissions == "r-xp" && Path::new(path) == program).then_some((start, end.checked_sub(start)?))
    };
    maps.lines().filter_map(code).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only the program's own code counts: no data, no library, nothing that could be written to.
    #[test]
    fn only_code_of_the_program() {
        let maps = "\
            1000-2000 r--p 00000000 fe:00 1  /bin/p\n\
            2000-5000 r-xp 00001000 fe:00 1  /bin/p\n\
            5000-6000 rw-p 00004000 fe:00 1  /bin/p\n\
            6000-7000 rwxp 00004000 fe:00 1  /bin/p\n\
            7000-9000 r-xp 00000000 fe:00 2  /lib/p\n\
            9000-a000 r-xp 00000000 00:00 0 \n";
        assert_eq!(code_of(maps, Path::new("/bin/p")), [(0x2000, 0x3000)]);
    }

    /// The program still runs after it gave its memory back.
    #[test]
    fn the_program_goes_on() {
        let before: Vec<u64> = (0..100_000).collect();
        give_back();
        assert_eq!(before.iter().sum::<u64>(), 4_999_950_000);
    }
}
