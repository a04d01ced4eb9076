//! Gives memory back when there has been nothing to do for a while.
//!
//! A first copy or a burst leaves a heap that is mostly empty, and maps pages of the program that are needed once. The kernel
//! would take the latter back only under pressure, and they count as resident until then.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

#[cfg(all(target_os = "linux", target_env = "gnu"))]
use crate::replicator::release_memory;

/// So long without any change, the databases are at rest.
const QUIET: Duration = Duration::from_secs(5);
/// With many databases some are always at work: what others left is given back this often all the same.
const BUSY: Duration = Duration::from_secs(60);

/// Something happened to one of the databases.
pub type Activity = Arc<Notify>;

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

/// Whenever the databases come to rest. Causes no wake-up while nothing happens.
pub async fn give_back_at_rest(activity: Activity) {
    loop {
        activity.notified().await;
        let began = Instant::now();
        while began.elapsed() < BUSY && tokio::time::timeout(QUIET, activity.notified()).await.is_ok() {}
        give_back();
    }
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
