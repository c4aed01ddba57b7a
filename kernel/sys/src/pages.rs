//! Pages of this process's memory that nobody shares, and how to come to have others again.
//!
//! After a fork(2), each page costs a copy at its first write, on either side. A process that knows which
//! pages it will write can have them copied while it has nothing else to do.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use nix::libc;

/// The smallest page. Where pages are larger, nothing is known of them here.
const PAGE: usize = 4096;
/// Of an entry in `/proc/<pid>/pagemap`: the page is there, and mapped once (Linux 4.2).
const PRESENT: u64 = 1 << 63;
const EXCLUSIVE: u64 = 1 << 56;

/// Ranges of addresses, on the borders of pages.
#[derive(Debug, Default)]
pub struct Pages(Vec<Range<usize>>);

impl Pages {
    /// The pages that are in nobody else's memory: for a process that has forked, those that it has written
    /// since, if its copy lives. Memory with a file is left out.
    ///
    /// # Errors
    /// Those of reading `/proc/self/maps` and `/proc/self/pagemap`.
    pub fn unshared() -> io::Result<Pages> {
        if nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)? != Some(PAGE as libc::c_long) {
            return Ok(Pages::default());
        }
        let maps = std::fs::read_to_string("/proc/self/maps")?;
        let entries = File::open("/proc/self/pagemap")?;
        let mut pages = Pages::default();
        for memory in maps.lines().filter_map(anonymous) {
            let mut bytes = vec![0; memory.len() / PAGE * 8];
            let read = entries.read_at(&mut bytes, (memory.start / PAGE * 8) as u64)?;
            for (page, entry) in bytes[..read].as_chunks::<8>().0.iter().enumerate() {
                if u64::from_ne_bytes(*entry) & (PRESENT | EXCLUSIVE) == PRESENT | EXCLUSIVE {
                    pages.add(memory.start + page * PAGE);
                }
            }
        }
        Ok(pages)
    }

    fn add(&mut self, page: usize) {
        match self.0.last_mut() {
            Some(last) if last.end == page => last.end += PAGE,
            _ => self.0.push(page..page + PAGE),
        }
    }

    /// How many bytes they are.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(Range::len).sum()
    }

    /// Has some of them copied, about so many bytes, and forgets them. Whether any are left.
    /// A system that cannot do it (before Linux 5.14) leaves them to their first write.
    pub fn unshare(&mut self, bytes: usize) -> bool {
        let mut done = 0;
        while done < bytes {
            let Some(range) = self.0.pop() else { return false };
            // SAFETY: MADV_POPULATE_WRITE changes no contents, and memory that has been unmapped or mapped
            // anew meanwhile is refused or filled in, which is as good (madvise(2)).
            let failed = unsafe { libc::madvise(range.start as *mut _, range.len(), libc::MADV_POPULATE_WRITE) } != 0;
            if failed && io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL) {
                self.0.clear();
            }
            done += range.len();
        }
        !self.0.is_empty()
    }
}

/// The addresses of a line of `/proc/<pid>/maps` whose memory can be written, is nobody else's and has no
/// file.
fn anonymous(line: &str) -> Option<Range<usize>> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let [mode, _, _, inode] = [words.next()?, words.next()?, words.next()?, words.next()?];
    let address = |text| usize::from_str_radix(text, 16).ok();
    (mode == "rw-p" && inode == "0").then_some(address(start)?..address(end)?)
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use super::*;
    use crate::process::{self, Fork, Signal};

    /// Of this thread: other tests run in others.
    fn faults() -> i64 {
        nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_THREAD)
            .expect("it is ours")
            .minor_page_faults()
    }

    #[test]
    fn what_is_unshared_again_costs_no_fault() {
        const COUNT: usize = 500;
        let mut memory = vec![1u8; COUNT * PAGE];
        let place = memory.as_ptr() as usize;
        let own = |pages: &Pages| {
            let common =
                |range: &Range<usize>| range.end.min(place + COUNT * PAGE).saturating_sub(range.start.max(place));
            pages.0.iter().map(common).sum::<usize>() / PAGE
        };
        assert!(own(&Pages::unshared().expect("/proc is there")) >= COUNT - 2);
        // SAFETY: the child only waits for its end.
        let Fork::Parent(child) = (unsafe { process::fork() }).expect("a fork") else {
            loop {
                std::thread::park();
            }
        };
        assert_eq!(own(&Pages::unshared().expect("/proc is there")), 0, "the child has them, too");
        memory[..COUNT / 2 * PAGE].fill(2);
        let mut written = Pages::unshared().expect("/proc is there");
        assert!((COUNT / 2 - 1..=COUNT / 2 + 1).contains(&own(&written)), "{}", own(&written));
        // SAFETY: as above.
        let Fork::Parent(second) = (unsafe { process::fork() }).expect("a fork") else {
            loop {
                std::thread::park();
            }
        };
        while written.unshare(1 << 16) {}
        let before = faults();
        memory[..COUNT / 2 * PAGE].fill(3);
        assert!(faults() - before < 50, "{} faults", faults() - before);
        black_box(&memory);
        for child in [child, second] {
            process::kill(child, Signal::KILL).expect("it is ours");
            process::wait(child).expect("it is ours");
        }
    }

    #[test]
    fn only_memory_of_its_own_without_a_file_counts() {
        assert_eq!(anonymous("5000-7000 rw-p 00000000 00:00 0   [heap]"), Some(0x5000..0x7000));
        for line in
            ["5000-7000 r--p 00000000 00:00 0", "5000-7000 rw-s 00000000 00:01 7", "5000-7000 rw-p 0 fe:00 12 /a"]
        {
            assert_eq!(anonymous(line), None);
        }
    }
}
