//! Who keeps the limits of notebooks and cells: the system, by a control group, or the watchdog.

use std::error::Error;
use std::process;

use forklab_sys::cgroup::{Abilities, Group, PREFIX, VARIABLE};

use forklab_worker::messages::{Limit, Limits};

use super::Finding;
use crate::limits::{Ceiling, describe, value};

/// Whether the limits that somebody has set can be read: no cell runs where they cannot.
pub(super) fn settings() -> Finding {
    match Ceiling::load() {
        Ok(ceiling) => {
            let of = |whose: &str, limits: &Limits| {
                let set: Vec<String> = ceiling_values(limits);
                (!set.is_empty()).then(|| format!("{whose}: {}", set.join(", ")))
            };
            let scopes = [of("a cell", &ceiling.cell), of("a notebook", &ceiling.notebook)];
            Finding::good(scopes.into_iter().flatten().collect::<Vec<_>>().join("; "))
        }
        Err(error) => {
            Finding::bad(error.to_string(), "mend it; until then every cell fails with this message".to_owned())
        }
    }
}

fn ceiling_values(limits: &Limits) -> Vec<String> {
    let all = [Limit::Processes, Limit::Memory, Limit::Cpu, Limit::Time, Limit::Files, Limit::Output];
    all.into_iter().filter_map(|limit| Some(describe(limit, value(limits, limit)?))).collect()
}

/// Makes a group as the supervisor of a notebook does, and removes it.
pub(super) fn limits() -> Finding {
    match Group::create(&format!("{PREFIX}{}-doctor", process::id())) {
        Ok(group) => {
            let finding = finding(group.abilities(), &group.description(), group.missing());
            match group.remove() {
                Ok(()) => finding,
                Err(error) => Finding::fair(
                    format!("a control group could be made and not be removed: {error}"),
                    format!("remove it by hand: {:?}", group.folders()),
                ),
            }
        }
        Err(why) => without_group(&why),
    }
}

fn finding(able: Abilities, how: &str, why: &[String]) -> Finding {
    let kinds = [(able.processes, "processes"), (able.memory, "memory")];
    let watched: Vec<&str> = kinds.iter().filter(|(able, _)| !able).map(|(_, name)| *name).collect();
    if watched.is_empty() {
        return Finding::good(how);
    }
    Finding::fair(format!("{how}; watchdog: {}", watched.join(" and ")), advice(&watched.join(" and "), why))
}

fn without_group(why: &dyn Error) -> Finding {
    Finding::fair("watchdog: processes and memory", advice("processes and memory", &[why.to_string()]))
}

/// What follows, why it is so, and what a person can do.
fn advice(watched: &str, why: &[String]) -> String {
    let mut lines = vec![format!(
        "the watchdog looks at {watched} every few milliseconds: a cell may get a little beyond its limit before it is ended"
    )];
    lines.extend(why.iter().map(|why| format!("why: {why}")));
    lines.push(format!(
        "for the system to keep them, start Jupyter by `systemd-run --user --scope jupyter lab`; in a service with\n\
         Delegate=yes or in a container with a writable cgroup, whose group hands pids and memory down\n\
         (cgroup.subtree_control); or name a group that may be used: {VARIABLE}=/sys/fs/cgroup/…"
    ));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn able(processes: bool, memory: bool) -> Abilities {
        Abilities { processes, memory, cpu: true }
    }

    #[test]
    fn what_the_watchdog_keeps_is_a_note_and_no_failure() {
        let how = "cgroup v2 (pids, memory, cpu)";
        assert_eq!(finding(able(true, true), how, &[]), Finding::good(how));
        let why = ["memory: not delegated".to_owned()];
        let Finding::Fair(seen, fix) = finding(able(true, false), "cgroup v1 (pids, cpuacct)", &why) else {
            panic!("it works, and something is to be done");
        };
        assert_eq!(seen, "cgroup v1 (pids, cpuacct); watchdog: memory");
        assert!(fix.contains("\nwhy: memory: not delegated\n") && fix.contains("Delegate=yes"), "{fix}");
        let Finding::Fair(seen, fix) = without_group(&std::io::Error::other("switched off")) else {
            panic!("it works, and something is to be done");
        };
        assert_eq!(seen, "watchdog: processes and memory");
        assert!(fix.contains("why: switched off"), "{fix}");
    }

    #[test]
    fn nothing_is_left_of_the_group_that_was_tried() {
        assert!(!matches!(limits(), Finding::Bad(..)));
        let name = format!("{PREFIX}{}-doctor", process::id());
        let (again, tried) = (Group::create(&name), limits());
        // The name was free for the first, and is taken for the second.
        if let Ok(group) = again {
            assert!(
                matches!(&tried, Finding::Fair(seen, _) if seen.ends_with("watchdog: processes and memory")),
                "{tried:?}"
            );
            group.remove().expect("nobody is in it");
            assert!(group.folders().iter().all(|folder| !folder.exists()));
        }
    }
}
