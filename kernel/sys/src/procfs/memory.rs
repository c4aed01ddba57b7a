//! How much memory a process uses, quickly and exactly.
//!
//! Memory here is what a limit is about: what cannot be read again from a file. Pages of programs,
//! libraries and mapped files are left out, and what has gone to swap is counted.

use std::fs;

use crate::process::Pid;

/// An upper bound of [`proportional`], in bytes, that takes one quick look: a page that several
/// processes share counts in full for each. `None` when there is no such process, or a zombie.
pub fn resident(pid: Pid) -> Option<u64> {
    sum(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, &["RssAnon:", "RssShmem:", "VmSwap:"])
}

/// What a process uses, in bytes, where a page that N processes share counts as one Nth for each: the
/// sum over all of them is what they use together. The look goes through the whole address space,
/// with its lock held. `None` when there is no such process, a zombie, or when this process may not
/// look.
pub fn proportional(pid: Pid) -> Option<u64> {
    sum(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?, &["Pss_Anon:", "Pss_Shmem:", "SwapPss:"])
}

/// The sum of the lines with these names, which are in kB. `None` when there is none of them.
fn sum(text: &str, names: &[&str]) -> Option<u64> {
    let line = |name: &&str| {
        let line = text.lines().find_map(|line| line.strip_prefix(*name))?;
        line.split_ascii_whitespace().next()?.parse::<u64>().ok()
    };
    names.iter().filter_map(line).reduce(|sum, kilobytes| sum + kilobytes).map(|kilobytes| kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{Fork, Signal, fork, kill, reap, wait};

    #[test]
    fn shared_pages_count_once_together() {
        const SIZE: u64 = 64 << 20;
        let before = proportional(Pid::this()).expect("we live");
        let block = vec![1_u8; SIZE as usize];
        let (alone, bound) = (proportional(Pid::this()).expect("we live"), resident(Pid::this()).expect("we live"));
        assert!(alone >= before + SIZE / 2, "{before} {alone}");
        // Other tests' threads use memory, too, between two looks.
        assert!(bound + (8 << 20) >= alone, "{alone} {bound}");
        // SAFETY: the child calls pause(2) only.
        let child = match unsafe { fork() }.expect("a process") {
            Fork::Parent(pid) => pid,
            Fork::Child => loop {
                nix::unistd::pause();
            },
        };
        let sum = proportional(child).expect("it lives") + proportional(Pid::this()).expect("we live");
        let bounds = resident(child).expect("it lives") + resident(Pid::this()).expect("we live");
        kill(child, Signal::KILL).expect("it is ours");
        wait(child).expect("it is ours");
        assert_eq!((proportional(child), resident(child)), (None, None), "a zombie has none");
        reap(child).expect("it is ours");
        assert!(block.iter().all(|byte| *byte == 1));
        assert!(bounds >= 2 * SIZE, "{bounds}");
        assert!(sum < alone + SIZE / 2, "{alone} {sum}");
    }

    #[test]
    fn lines_are_found_by_their_names() {
        let text = "VmRSS:\t 99 kB\nRssAnon:\t     148 kB\nRssFile:\t 7 kB\nRssShmem:\t 2 kB\n";
        assert_eq!(sum(text, &["RssAnon:", "RssShmem:", "VmSwap:"]), Some(150 * 1024));
        assert_eq!(sum("Name: x\n", &["RssAnon:"]), None);
    }
}
