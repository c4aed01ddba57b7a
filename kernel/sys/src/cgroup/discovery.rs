//! Where a group of ours may be made: read from the texts of `/proc` and from the groups' files,
//! without changing anything.
//!
//! A privileged process may make groups anywhere, but most are somebody's: a service manager's, or
//! whoever else has put this process where it is, and counts or ends it by that. So it uses only
//! the top of what it sees, when it is there itself (a container's own groups, or a machine where nobody
//! manages them), and what is marked as handed over. To an unprivileged process, permission is
//! the mark.
//!
//! Version 1: the group is made below this process's own. Version 2: a group that has processes
//! hands no controllers down, so above the own one its ancestors are tried, too. A process that is moved
//! there leaves the groups in between, and their limits go with it as [`Ceilings`].

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use super::Kind;
use super::files::least;

/// What a plan is made from.
pub struct Surroundings<'a> {
    /// `/proc/self/cgroup`
    pub cgroup: &'a str,
    /// `/proc/self/mountinfo`
    pub mountinfo: &'a str,
    /// What the mount points are below: `/`.
    pub root: &'a Path,
    /// Folders in which a person wants the groups, whoever they belong to. None: find some.
    pub asked: Vec<PathBuf>,
    /// Whether this process may write wherever it wants.
    pub privileged: bool,
    /// Whether a group is marked as handed over.
    pub marked: &'a dyn Fn(&Path) -> bool,
}

/// Where to make a group.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// All of these, each for these kinds.
    pub version_1: Vec<(Parent, Vec<Kind>)>,
    /// The first of these that works, the best one first.
    pub version_2: Vec<(Parent, Vec<Kind>)>,
    /// Why a place is not in the plan, for a person.
    pub missing: Vec<String>,
}

/// A group in which one of ours may be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    pub folder: PathBuf,
    pub version: Version,
    pub ceilings: Ceilings,
}

/// Of cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    One,
    Two,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Version::One => "v1",
            Version::Two => "v2",
        })
    }
}

/// Limits of groups that a process leaves, to be kept in the one that it enters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ceilings {
    pub processes: Option<u64>,
    pub memory: Option<u64>,
    pub swap: Option<u64>,
}

/// A hierarchy, as it is mounted.
struct Mount {
    /// Which of the hierarchy's groups is seen at the mount point.
    top: PathBuf,
    point: PathBuf,
    version: Version,
    options: Vec<String>,
    read_only: bool,
}

/// Finds out where a group may be made.
pub fn find(around: &Surroundings) -> Plan {
    let mounts: Vec<Mount> = around.mountinfo.lines().filter_map(|line| Mount::parse(line, around.root)).collect();
    let mut plan = Plan::default();
    if mounts.is_empty() {
        plan.missing.push("no control groups are mounted here".to_owned());
    }
    for kind in Kind::ALL {
        add_version_1(&mut plan, around, &mounts, kind);
    }
    add_version_2(&mut plan, around, &mounts);
    plan
}

fn add_version_1(plan: &mut Plan, around: &Surroundings, mounts: &[Mount], kind: Kind) {
    let controller = kind.controller(Version::One);
    let line = around.cgroup.lines().filter_map(parts).find(|(names, _)| names.split(',').any(|n| n == controller));
    let Some((_, path)) = line else { return };
    let fits = |mount: &&Mount| mount.version == Version::One && mount.options.iter().any(|name| name == controller);
    let parent = own(mounts.iter().filter(fits), path).and_then(|(mount, own)| {
        if around.asked.is_empty() {
            return may_use(around, mount, &own, &own).map(|()| own);
        }
        asked(around, mount).next().ok_or_else(|| "no folder is named for it".to_owned())
    });
    match parent {
        Ok(folder) => match plan.version_1.iter_mut().find(|(known, _)| known.folder == folder) {
            Some((_, kinds)) => kinds.push(kind),
            None => {
                let parent = Parent { folder, version: Version::One, ceilings: Ceilings::default() };
                plan.version_1.push((parent, vec![kind]));
            }
        },
        Err(why) => plan.missing.push(format!("{controller}: {why}")),
    }
}

fn add_version_2(plan: &mut Plan, around: &Surroundings, mounts: &[Mount]) {
    let Some((_, path)) = around.cgroup.lines().filter_map(parts).find(|(names, _)| names.is_empty()) else { return };
    let (mount, own) = match own(mounts.iter().filter(|mount| mount.version == Version::Two), path) {
        Ok(found) => found,
        Err(why) => return plan.missing.push(format!("cgroup v2: {why}")),
    };
    let candidates: Vec<PathBuf> = if around.asked.is_empty() {
        own.ancestors().take_while(|folder| folder.starts_with(&mount.point)).map(Path::to_owned).collect()
    } else {
        asked(around, mount).collect()
    };
    let mut refusals = Vec::new();
    for folder in candidates {
        let may = if around.asked.is_empty() { may_use(around, mount, &own, &folder) } else { Ok(()) };
        let kinds = handed_down(&folder);
        match may.and_then(|()| ceilings(&own, &folder, &kinds)) {
            Ok(ceilings) => plan.version_2.push((Parent { folder, version: Version::Two, ceilings }, kinds)),
            Err(why) => refusals.push(format!("cgroup v2: {why}")),
        }
    }
    // What is said of the nearest is true of those above it, too, as a rule.
    plan.missing.extend(refusals.into_iter().next());
    // Stable: among equals, the nearest stays the first.
    plan.version_2.sort_by_key(|(_, kinds)| std::cmp::Reverse(kinds.len()));
}

/// What a group made in this one would count. Processor time needs no controller to be counted.
fn handed_down(folder: &Path) -> Vec<Kind> {
    let text = fs::read_to_string(folder.join("cgroup.subtree_control")).unwrap_or_default();
    let has = |kind: &Kind| *kind == Kind::Cpu || text.split_whitespace().any(|n| n == kind.controller(Version::Two));
    Kind::ALL.into_iter().filter(has).collect()
}

/// This process's own group, below the first of a hierarchy's mounts that shows it.
fn own<'a>(mounts: impl Iterator<Item = &'a Mount>, path: &Path) -> Result<(&'a Mount, PathBuf), String> {
    let mut why = "it is not mounted".to_owned();
    for mount in mounts {
        // "/../x" is a group outside of our cgroup namespace.
        let below = path.strip_prefix(&mount.top).ok();
        let Some(below) = below.filter(|below| below.components().all(|part| matches!(part, Component::Normal(_))))
        else {
            why = format!("{} does not show the group of this process", mount.point.display());
            continue;
        };
        if mount.read_only {
            why = format!("{} is mounted read-only", mount.point.display());
            continue;
        }
        // An empty path joined would leave a slash at the end.
        let below: PathBuf = mount.point.components().chain(below.components()).collect();
        return Ok((mount, below));
    }
    Err(why)
}

fn asked<'a>(around: &'a Surroundings, mount: &'a Mount) -> impl Iterator<Item = PathBuf> + 'a {
    around.asked.iter().filter(|folder| folder.starts_with(&mount.point)).cloned()
}

fn may_use(around: &Surroundings, mount: &Mount, own: &Path, folder: &Path) -> Result<(), String> {
    let mut above = folder.ancestors().take_while(|above| above.starts_with(&mount.point));
    let at_the_top = own == mount.point && folder == own;
    if !around.privileged || at_the_top || above.any(|group| (around.marked)(group)) {
        return Ok(());
    }
    Err(format!("{} is somebody else's to manage and not delegated", folder.display()))
}

/// The limits of the groups from `own` up to `ancestor`, that one left out, which a process leaves that
/// is moved into a child of `ancestor`.
fn ceilings(own: &Path, ancestor: &Path, kinds: &[Kind]) -> Result<Ceilings, String> {
    let mut found = Ceilings::default();
    if !own.starts_with(ancestor) {
        // A person has asked for this place.
        return Ok(found);
    }
    for left in own.ancestors().take_while(|group| *group != ancestor) {
        let number = |file: &str| fs::read_to_string(left.join(file)).ok()?.trim().parse::<u64>().ok();
        found.processes = least(found.processes, number("pids.max"));
        found.memory = least(found.memory, number("memory.max"));
        found.swap = least(found.swap, number("memory.swap.max"));
        let keepable = kept_elsewhere(left).is_none()
            && (found.processes.is_none() || kinds.contains(&Kind::Processes))
            && (found.memory.is_none() && found.swap.is_none() || kinds.contains(&Kind::Memory));
        if !keepable {
            return Err(format!("the limits of {} would not hold in {}", left.display(), ancestor.display()));
        }
    }
    Ok(found)
}

/// A limit of a group that we cannot carry over.
fn kept_elsewhere(group: &Path) -> Option<&'static str> {
    ["memory.high", "cpu.max", "cpuset.cpus", "cpuset.mems", "io.max"].into_iter().find(|file| {
        let text = fs::read_to_string(group.join(file)).unwrap_or_default();
        !text.trim().is_empty() && !text.starts_with("max")
    })
}

/// The controllers and the path in a line `4:cpu,cpuacct:/path` of `/proc/self/cgroup`.
fn parts(line: &str) -> Option<(&str, &Path)> {
    let (names, path) = line.split_once(':')?.1.split_once(':')?;
    Some((names, Path::new(path)))
}

impl Mount {
    /// A line of proc_pid_mountinfo(5). `None` for what is no hierarchy.
    fn parse(line: &str, root: &Path) -> Option<Mount> {
        let (front, back) = line.split_once(" - ")?;
        let mut front = front.split(' ').skip(3);
        let (top, point, flags) = (front.next()?, front.next()?, front.next()?);
        let mut back = back.split(' ');
        let version = match back.next()? {
            "cgroup" => Version::One,
            "cgroup2" => Version::Two,
            _ => return None,
        };
        let options = back.nth(1)?;
        Some(Mount {
            top: unescape(top),
            point: root.join(unescape(point).strip_prefix("/").ok()?),
            version,
            options: options.split(',').map(str::to_owned).collect(),
            read_only: flags.split(',').chain(options.split(',')).any(|flag| flag == "ro"),
        })
    }
}

/// Undoes `\040` for a space, and the like.
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = tail.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}
