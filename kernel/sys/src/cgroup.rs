//! A control group of our own around some processes: cgroups(7), version 1 and version 2.
//!
//! The system counts what such a group uses, refuses forks beyond its limit, and ends a process
//! when the group's memory is full. Where no group can be had, limits are somebody else's to watch.
//!
//! A group is made only where that is ours to do, see [`discovery`], and nothing is ever changed in
//! a group that is not ours: no limit, and not which controllers it hands down.

mod delegation;
mod discovery;
mod files;
mod trial;

use std::env;
use std::error::Error;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::process::Pid;
use crate::procfs;
use discovery::{Ceilings, Parent, Plan, Version};
use files::{Place, amount, ignore_absence, least, remove, write};

/// Where groups are made: unset for wherever that is allowed, `off` for nowhere, or a list of
/// folders with a colon between them, in which they are then made whoever those belong to.
pub const VARIABLE: &str = "FORKLAB_CGROUP";

/// What the names of groups begin with; the pid of the maker comes next, and a hyphen.
pub const PREFIX: &str = "forklab-";

/// A group in one hierarchy or in several. It stays until it is removed: to drop this is not enough,
/// because a forked child drops its copy, too.
#[derive(Debug, Default)]
pub struct Group {
    processes: Option<Place>,
    memory: Option<Place>,
    cpu: Option<Place>,
    ceilings: Ceilings,
    missing: Vec<String>,
}

/// What a group can count and limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// Counts tasks and refuses forks.
    pub processes: bool,
    /// Counts memory and ends a process when it is full.
    pub memory: bool,
    /// Counts processor time.
    pub cpu: bool,
}

/// Why there is no group, for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unavailable(Vec<String>);

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl Error for Unavailable {}

impl Group {
    /// Makes a group called `name` (`forklab-<pid>-<random>`) in every hierarchy in which this
    /// process may, and tries each with a process that does nothing.
    ///
    /// # Errors
    /// Why none could be had; nothing has been left behind then.
    pub fn create(name: &str) -> Result<Group, Unavailable> {
        let plan = plan()?;
        let mut group = Group { missing: plan.missing, ..Group::default() };
        for (parent, kinds) in &plan.version_1 {
            group.try_version_1(parent, kinds, name);
        }
        group.try_version_2(&plan.version_2, name);
        let Abilities { processes, memory, cpu } = group.abilities();
        if processes || memory || cpu {
            return Ok(group);
        }
        Err(Unavailable(group.missing))
    }

    fn try_version_1(&mut self, parent: &Parent, kinds: &[Kind], name: &str) {
        let trial = Group::at(parent, kinds, name);
        match trial.begin() {
            Ok(()) => {
                self.processes = self.processes.take().or(trial.processes);
                self.memory = self.memory.take().or(trial.memory);
                self.cpu = self.cpu.take().or(trial.cpu);
            }
            Err(error) => self.missing.push(format!("{}: {error}", parent.folder.display())),
        }
    }

    /// Takes the first of the candidates that works for what version 1 does not give.
    fn try_version_2(&mut self, candidates: &[(Parent, Vec<Kind>)], name: &str) {
        for (parent, kinds) in candidates {
            let had = self.abilities();
            let wanted: Vec<Kind> = kinds.iter().copied().filter(|kind| !had.has(*kind)).collect();
            if wanted.is_empty() {
                continue;
            }
            let mut trial = Group::at(parent, &wanted, name);
            trial.ceilings = parent.ceilings;
            match trial.begin() {
                Ok(()) => {
                    self.processes = self.processes.take().or(trial.processes);
                    self.memory = self.memory.take().or(trial.memory);
                    self.cpu = self.cpu.take().or(trial.cpu);
                    self.ceilings = parent.ceilings;
                    return;
                }
                Err(error) => self.missing.push(format!("{}: {error}", parent.folder.display())),
            }
        }
    }

    /// A group that is not there yet.
    fn at(parent: &Parent, kinds: &[Kind], name: &str) -> Group {
        let place = Place { folder: parent.folder.join(name), version: parent.version };
        let place_of = |kind| kinds.contains(&kind).then(|| place.clone());
        Group {
            processes: place_of(Kind::Processes),
            memory: place_of(Kind::Memory),
            cpu: place_of(Kind::Cpu),
            ..Group::default()
        }
    }

    /// Makes the folder of a group in one hierarchy, and tries it. Leaves nothing when that fails.
    fn begin(&self) -> io::Result<()> {
        for folder in self.folders() {
            fs::create_dir(folder)?;
        }
        let tried = self.respect_ceilings().and_then(|()| trial::counts(self));
        if tried.is_err() {
            // The error that is told is the one that came first.
            self.remove().ok();
        }
        tried
    }

    /// Keeps the limits of the groups that a process leaves when it enters this one.
    fn respect_ceilings(&self) -> io::Result<()> {
        if self.ceilings.processes.is_some() {
            self.limit_processes(None)?;
        }
        if self.ceilings.memory.is_some() || self.ceilings.swap.is_some() {
            self.limit_memory(None)?;
        }
        Ok(())
    }

    /// What this group can do.
    pub fn abilities(&self) -> Abilities {
        Abilities { processes: self.processes.is_some(), memory: self.memory.is_some(), cpu: self.cpu.is_some() }
    }

    /// Why something is missing or had to be looked for elsewhere, for a person: one line each.
    pub fn missing(&self) -> &[String] {
        &self.missing
    }

    /// What is in force, for a person: `cgroup v1 (pids, memory, cpuacct)`.
    pub fn description(&self) -> String {
        let places = [(Kind::Processes, &self.processes), (Kind::Memory, &self.memory), (Kind::Cpu, &self.cpu)];
        let of_version = |version: Version| {
            let here = places.iter().filter(|(_, place)| place.as_ref().is_some_and(|p| p.version == version));
            let names: Vec<&str> = here.map(|(kind, _)| kind.controller(version)).collect();
            (!names.is_empty()).then(|| format!("{version} ({})", names.join(", ")))
        };
        let parts: Vec<String> = [Version::One, Version::Two].into_iter().filter_map(of_version).collect();
        format!("cgroup {}", parts.join(" and "))
    }

    /// Its folders, one in each hierarchy.
    pub fn folders(&self) -> Vec<PathBuf> {
        let mut folders: Vec<PathBuf> = Vec::new();
        for place in [&self.processes, &self.memory, &self.cpu].into_iter().flatten() {
            if !folders.contains(&place.folder) {
                folders.push(place.folder.clone());
            }
        }
        folders
    }

    /// Moves a process with all its threads into the group, in all hierarchies. Children that it
    /// has already stay where they are; those that it will have are born inside.
    ///
    /// # Errors
    /// ESRCH when there is no such process, `PermissionDenied`. It may be in some hierarchies then.
    pub fn enter(&self, pid: Pid) -> io::Result<()> {
        self.folders().iter().try_for_each(|folder| write(&folder.join("cgroup.procs"), &pid.to_string()))
    }

    /// Sets how many tasks (threads count, too) may live in the group before a fork fails with
    /// EAGAIN; `None` for as many as the groups around it allow. Nobody is ended.
    ///
    /// # Errors
    /// `Unsupported` without the ability.
    pub fn limit_processes(&self, most: Option<u64>) -> io::Result<()> {
        let Some(place) = &self.processes else { return Err(io::ErrorKind::Unsupported.into()) };
        write(&place.file("pids.max"), &amount(least(most, self.ceilings.processes), "max"))
    }

    /// Sets how many bytes the group may use in memory and swap together before a process in it is
    /// ended; `None` for as many as the groups around it allow.
    ///
    /// # Errors
    /// `Unsupported` without the ability. `ResourceBusy` (version 1) when more is in use already
    /// and cannot be had back; version 2 ends a process then.
    pub fn limit_memory(&self, bytes: Option<u64>) -> io::Result<()> {
        let Some(place) = &self.memory else { return Err(io::ErrorKind::Unsupported.into()) };
        let most = least(bytes, self.ceilings.memory);
        match place.version {
            Version::One => place.limit_memory_1(most),
            Version::Two => {
                write(&place.file("memory.max"), &amount(most, "max"))?;
                let swap = if bytes.is_some() { Some(0) } else { self.ceilings.swap };
                // Absent where the system has no swap, or does not count it.
                ignore_absence(write(&place.file("memory.swap.max"), &amount(swap, "max")))
            }
        }
    }

    /// How many tasks live in the group, zombies included. `None` without the ability.
    pub fn processes(&self) -> Option<u64> {
        self.processes.as_ref()?.number("pids.current")
    }

    /// How many bytes the group uses, the cache of files that it has read included. `None` without
    /// the ability.
    pub fn memory(&self) -> Option<u64> {
        let place = self.memory.as_ref()?;
        match place.version {
            Version::One => place.number("memory.usage_in_bytes"),
            Version::Two => place.number("memory.current"),
        }
    }

    /// How many forks have been refused in the group because of a limit on processes, its own or
    /// that of a group around it. `None` without the ability.
    pub fn refused_forks(&self) -> Option<u64> {
        self.processes.as_ref()?.entry("pids.events", "max")
    }

    /// How many processes the system has ended because the group's memory was full. `None` without
    /// the ability, or where the system does not count them (before Linux 4.13).
    pub fn out_of_memory_kills(&self) -> Option<u64> {
        let place = self.memory.as_ref()?;
        match place.version {
            Version::One => place.entry("memory.oom_control", "oom_kill"),
            Version::Two => place.entry("memory.events", "oom_kill"),
        }
    }

    /// Processor time of all that runs and has run in the group. `None` without the ability.
    pub fn cpu(&self) -> Option<Duration> {
        let place = self.cpu.as_ref()?;
        match place.version {
            Version::One => place.number("cpuacct.usage").map(Duration::from_nanos),
            Version::Two => place.entry("cpu.stat", "usage_usec").map(Duration::from_micros),
        }
    }

    /// Removes the group. What is gone already is fine. Waits a tenth of a second at most for
    /// processes in it that are still dying.
    ///
    /// # Errors
    /// `ResourceBusy` when processes live in it; the others of rmdir(2).
    pub fn remove(&self) -> io::Result<()> {
        // One that cannot be removed is no reason to keep the others.
        self.folders().iter().map(|folder| remove(folder)).fold(Ok(()), io::Result::and)
    }
}

/// Removes the folders of a group whose maker is dead. What cannot be removed stays, for
/// [`remove_abandoned`]. Waits a tenth of a second at most for each.
pub fn remove_folders(folders: &[PathBuf]) {
    for folder in folders {
        remove(folder).ok();
    }
}

/// Removes empty groups whose makers are not alive any more, where [`Group::create`] would make one.
///
/// A group whose maker lives in another pid namespace may look abandoned. It is removed only
/// while it is empty, and its maker then finds that nothing can enter it.
pub fn remove_abandoned() {
    let Ok(plan) = plan() else { return };
    for (parent, _) in plan.version_1.iter().chain(&plan.version_2) {
        remove_abandoned_in(&parent.folder);
    }
}

fn remove_abandoned_in(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let maker = entry.file_name().to_str().and_then(maker);
        if maker.is_some_and(|maker| procfs::stat(maker).is_none()) {
            // Not waited for: if there is anybody in it, it is not abandoned.
            fs::remove_dir(entry.path()).ok();
        }
    }
}

/// The pid in `forklab-<pid>-…`.
fn maker(name: &str) -> Option<Pid> {
    let (pid, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
    Pid::from_raw(pid.parse().ok()?)
}

/// What a group counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Processes,
    Memory,
    Cpu,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Processes, Kind::Memory, Kind::Cpu];

    fn controller(self, version: Version) -> &'static str {
        match (self, version) {
            (Kind::Processes, _) => "pids",
            (Kind::Memory, _) => "memory",
            (Kind::Cpu, Version::One) => "cpuacct",
            (Kind::Cpu, Version::Two) => "cpu",
        }
    }
}

impl Abilities {
    fn has(self, kind: Kind) -> bool {
        match kind {
            Kind::Processes => self.processes,
            Kind::Memory => self.memory,
            Kind::Cpu => self.cpu,
        }
    }
}

fn plan() -> Result<Plan, Unavailable> {
    let asked = env::var(VARIABLE).unwrap_or_default();
    if asked == "off" {
        return Err(Unavailable(vec![format!("switched off by {VARIABLE}")]));
    }
    let read = |path: &str| fs::read_to_string(path).map_err(|error| Unavailable(vec![format!("{path}: {error}")]));
    Ok(discovery::find(&discovery::Surroundings {
        cgroup: &read("/proc/self/cgroup")?,
        mountinfo: &read("/proc/self/mountinfo")?,
        root: Path::new("/"),
        asked: asked.split(':').filter(|folder| !folder.is_empty()).map(PathBuf::from).collect(),
        privileged: nix::unistd::geteuid().is_root(),
        marked: &delegation::is_marked,
    }))
}

#[cfg(test)]
mod tests;
