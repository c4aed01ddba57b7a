//! Layouts that this machine does not have, as trees of ordinary files. Real groups are in
//! `tests/cgroup.rs`.

use std::env;
use std::sync::atomic::{AtomicU32, Ordering};

use super::discovery::{Surroundings, find};
use super::*;

/// A directory that stands for `/`.
struct Tree(PathBuf);

impl Tree {
    fn new() -> Tree {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = env::temp_dir().join(format!("forklab-tree-{}-{number}", Pid::this()));
        fs::create_dir(&folder).expect("the name is new");
        Tree(folder)
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().expect("it is below the tree")).expect("they are ours");
        fs::write(path, text).expect("it is ours");
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.0.join(path)).expect("it is there")
    }

    fn place(&self, folder: &str, version: Version) -> Option<Place> {
        Some(Place { folder: self.0.join(folder), version })
    }

    fn plan(&self, case: &Case) -> Plan {
        find(&Surroundings {
            cgroup: case.cgroup,
            mountinfo: case.mountinfo,
            root: &self.0,
            asked: case.asked.iter().map(|folder| self.0.join(folder)).collect(),
            privileged: case.privileged,
            marked: &|folder| case.marked.iter().any(|marked| folder == self.0.join(marked)),
        })
    }

    /// The folders of a plan, relative to the tree, with what each is for.
    fn names(&self, places: &[(Parent, Vec<Kind>)]) -> Vec<(String, Vec<Kind>)> {
        let name = |folder: &Path| folder.strip_prefix(&self.0).expect("it is below").to_string_lossy().into_owned();
        places.iter().map(|(parent, kinds)| (name(&parent.folder), kinds.clone())).collect()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

#[derive(Default, Clone, Copy)]
struct Case<'a> {
    cgroup: &'a str,
    mountinfo: &'a str,
    asked: &'a [&'a str],
    privileged: bool,
    marked: &'a [&'a str],
}

use Kind::{Cpu, Memory, Processes};

const UNIFIED: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate";

const SEPARATE: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

#[test]
fn version_1_is_used_below_the_own_group() {
    let tree = Tree::new();
    let cgroup = "8:pids:/user\n4:memory:/user/deep\n2:cpu,cpuacct:/\n1:name=systemd:/x\n0::/\n";
    let plan = tree.plan(&Case { cgroup, mountinfo: SEPARATE, ..Case::default() });
    let expected = [
        ("sys/fs/cgroup/pids/user".to_owned(), vec![Processes]),
        ("sys/fs/cgroup/memory/user/deep".to_owned(), vec![Memory]),
        ("sys/fs/cgroup/cpu,cpuacct".to_owned(), vec![Cpu]),
    ];
    assert_eq!(tree.names(&plan.version_1), expected);
    assert_eq!(plan.missing, [""; 0]);
}

#[test]
fn a_privileged_process_leaves_what_others_manage_alone() {
    let tree = Tree::new();
    let cgroup = "8:pids:/\n4:memory:/manager/one\n2:cpu,cpuacct:/handed/over\n";
    let marked = ["sys/fs/cgroup/cpu,cpuacct/handed"];
    let plan = tree.plan(&Case { cgroup, mountinfo: SEPARATE, privileged: true, marked: &marked, ..Case::default() });
    let expected = [
        ("sys/fs/cgroup/pids".to_owned(), vec![Processes]),
        ("sys/fs/cgroup/cpu,cpuacct/handed/over".to_owned(), vec![Cpu]),
    ];
    assert_eq!(tree.names(&plan.version_1), expected);
    assert_eq!(plan.missing.len(), 1);
    assert!(plan.missing[0].starts_with("memory: ") && plan.missing[0].contains("/memory/manager/one is somebody"));
}

#[test]
fn a_container_sees_its_own_group_at_the_top() {
    let mount =
        |top: &str, flags: &str| format!("39 31 0:36 {top} /sys/fs/cgroup/pids {flags} - cgroup cgroup rw,pids");
    let tree = Tree::new();
    let places = |cgroup: &str, mountinfo: &str| {
        let plan = tree.plan(&Case { cgroup, mountinfo, privileged: true, ..Case::default() });
        (tree.names(&plan.version_1), plan.missing.join("\n"))
    };
    let top = (vec![("sys/fs/cgroup/pids".to_owned(), vec![Processes])], String::new());
    assert_eq!(places("8:pids:/docker/ab", &mount("/docker/ab", "rw")), top);
    assert_eq!(places("8:pids:/", &mount("/", "rw")), top);
    let (none, why) = places("8:pids:/docker/ab", &mount("/docker/ab", "ro"));
    assert!(none.is_empty() && why.ends_with("sys/fs/cgroup/pids is mounted read-only"), "{why}");
    let (none, why) = places("8:pids:/../other", &mount("/", "rw"));
    assert!(none.is_empty() && why.ends_with("does not show the group of this process"), "{why}");
    let (none, why) = places("8:pids:/docker/abc", &mount("/docker/ab", "rw"));
    assert!(none.is_empty() && why.ends_with("does not show the group of this process"), "{why}");
    let (none, why) = places("8:pids:/", "");
    assert!(none.is_empty() && why.contains("no control groups are mounted"), "{why}");
}

#[test]
fn folders_with_odd_names_are_found() {
    let tree = Tree::new();
    let mountinfo = r"39 31 0:36 /a\040b /my\040groups\134 rw - cgroup cgroup rw,pids";
    let plan = tree.plan(&Case { cgroup: "8:pids:/a b/c:d", mountinfo, ..Case::default() });
    assert_eq!(tree.names(&plan.version_1), [(r"my groups\/c:d".to_owned(), vec![Processes])]);
}

/// A session of systemd's for a user, whose terminal runs in `own`.
fn user_session(tree: &Tree) -> &'static str {
    let slice = "sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service";
    for group in ["", "/app.slice"] {
        tree.file(&format!("{slice}{group}/cgroup.subtree_control"), "cpu memory pids\n");
    }
    tree.file(&format!("{slice}/app.slice/term.scope/cgroup.subtree_control"), "");
    tree.file(&format!("{slice}/app.slice/term.scope/pids.max"), "4000\n");
    tree.file(&format!("{slice}/app.slice/term.scope/memory.max"), "max\n");
    tree.file(&format!("{slice}/app.slice/pids.max"), "max\n");
    tree.file(&format!("{slice}/app.slice/memory.max"), "1000000000\n");
    "0::/user.slice/user-1000.slice/user@1000.service/app.slice/term.scope\n"
}

#[test]
fn version_2_is_used_above_the_own_group() {
    let tree = Tree::new();
    let cgroup = user_session(&tree);
    let plan = tree.plan(&Case { cgroup, mountinfo: UNIFIED, ..Case::default() });
    let names = tree.names(&plan.version_2);
    assert!(names[0].0.ends_with("user@1000.service/app.slice"), "the nearest that hands all down: {names:?}");
    assert_eq!(names[0].1, Kind::ALL);
    assert_eq!(plan.version_2[0].0.ceilings, Ceilings { processes: Some(4000), ..Ceilings::default() });
    assert!(names[1].0.ends_with("user@1000.service"), "{names:?}");
    assert_eq!(plan.version_2[1].0.ceilings.memory, Some(1_000_000_000));
    assert_eq!((names[2].0.ends_with("term.scope"), &names[2].1), (true, &vec![Cpu]), "the own one, at last");
    assert_eq!(names.len(), 3, "above, the limits would be lost: {names:?}");
}

#[test]
fn a_limit_that_cannot_be_kept_is_not_left() {
    let tree = Tree::new();
    let cgroup = user_session(&tree);
    let own = format!("sys/fs/cgroup{}", cgroup.trim().trim_start_matches("0::"));
    tree.file(&format!("{own}/cpu.max"), "50000 100000\n");
    let plan = tree.plan(&Case { cgroup, mountinfo: UNIFIED, ..Case::default() });
    assert_eq!(tree.names(&plan.version_2), [(own.clone(), vec![Cpu])]);
    tree.file(&format!("{own}/cpu.max"), "max 100000\n");
    assert_eq!(tree.plan(&Case { cgroup, mountinfo: UNIFIED, ..Case::default() }).version_2.len(), 3);
}

#[test]
fn a_privileged_process_takes_what_has_been_delegated() {
    let tree = Tree::new();
    let service = "sys/fs/cgroup/system.slice/jupyter.service";
    tree.file("sys/fs/cgroup/system.slice/cgroup.subtree_control", "memory pids");
    tree.file(&format!("{service}/cgroup.subtree_control"), "memory pids");
    let case = Case {
        cgroup: "0::/system.slice/jupyter.service/main\n",
        mountinfo: UNIFIED,
        privileged: true,
        ..Case::default()
    };
    let plan = tree.plan(&case);
    assert_eq!((plan.version_2.len(), plan.missing.len()), (0, 1));
    let plan = tree.plan(&Case { marked: &[service], ..case });
    let main = (format!("{service}/main"), vec![Cpu]);
    assert_eq!(tree.names(&plan.version_2), [(service.to_owned(), Kind::ALL.to_vec()), main]);
}

#[test]
fn a_person_may_name_the_folders() {
    let tree = Tree::new();
    tree.file("sys/fs/cgroup/lab/cgroup.subtree_control", "pids");
    let case = Case { cgroup: "0::/x\n", mountinfo: UNIFIED, privileged: true, ..Case::default() };
    let plan = tree.plan(&Case { asked: &["sys/fs/cgroup/lab"], ..case });
    assert_eq!(tree.names(&plan.version_2), [("sys/fs/cgroup/lab".to_owned(), vec![Processes, Cpu])]);
    let case = Case { cgroup: "8:pids:/\n4:memory:/\n", mountinfo: SEPARATE, ..case };
    let plan = tree.plan(&Case { asked: &["sys/fs/cgroup/memory/lab"], ..case });
    assert_eq!(tree.names(&plan.version_1), [("sys/fs/cgroup/memory/lab".to_owned(), vec![Memory])]);
    assert_eq!(plan.missing, ["pids: no folder is named for it"]);
}

#[test]
fn memory_of_version_1_is_never_above_memory_with_swap() {
    let tree = Tree::new();
    let group = Group { memory: tree.place("g", Version::One), ..Group::default() };
    let (memory, with_swap) = ("g/memory.limit_in_bytes", "g/memory.memsw.limit_in_bytes");
    tree.file(with_swap, "100");
    // Without the first file, what is written before it shows.
    assert!(group.limit_memory(Some(50)).is_err());
    assert_eq!(tree.text(with_swap), "100", "lowered after memory");
    assert!(group.limit_memory(Some(200)).is_err());
    assert_eq!(tree.text(with_swap), "200", "raised before memory");
    tree.file(memory, "200");
    group.limit_memory(Some(50)).expect("both are there");
    assert_eq!((tree.text(memory), tree.text(with_swap)), ("50".to_owned(), "50".to_owned()));
    group.limit_memory(None).expect("both are there");
    assert_eq!((tree.text(memory), tree.text(with_swap)), ("-1".to_owned(), "-1".to_owned()));
    fs::remove_file(tree.0.join(with_swap)).expect("it is there");
    group.limit_memory(Some(70)).expect("the system need not count swap");
    assert_eq!(tree.text(memory), "70");
}

#[test]
fn version_2_keeps_ceilings() {
    let tree = Tree::new();
    let place = tree.place("g", Version::Two);
    let ceilings = Ceilings { processes: Some(100), memory: Some(1000), swap: None };
    let group = Group { processes: place.clone(), memory: place.clone(), cpu: place, ceilings, ..Group::default() };
    for file in ["pids.max", "memory.max", "memory.swap.max"] {
        tree.file(&format!("g/{file}"), "");
    }
    let files = || (tree.text("g/pids.max"), tree.text("g/memory.max"), tree.text("g/memory.swap.max"));
    let expected = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
    group.respect_ceilings().expect("the files are there");
    assert_eq!(files(), expected("100", "1000", "max"));
    group.limit_processes(Some(20)).and_then(|()| group.limit_memory(Some(2000))).expect("the files are there");
    assert_eq!(files(), expected("20", "1000", "0"));
    assert_eq!(group.description(), "cgroup v2 (pids, memory, cpu)");
    assert_eq!(group.folders(), [tree.0.join("g")]);
}

#[test]
fn numbers_are_read_from_the_files_of_each_version() {
    let tree = Tree::new();
    let one = Group {
        processes: tree.place("pids", Version::One),
        memory: tree.place("memory", Version::One),
        cpu: tree.place("cpu", Version::One),
        ..Group::default()
    };
    tree.file("pids/pids.events", "max 7\n");
    tree.file("pids/pids.current", "3\n");
    tree.file("memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n");
    tree.file("memory/memory.usage_in_bytes", "4096\n");
    tree.file("cpu/cpuacct.usage", "1500000000\n");
    assert_eq!((one.processes(), one.refused_forks()), (Some(3), Some(7)));
    assert_eq!((one.memory(), one.out_of_memory_kills()), (Some(4096), Some(2)));
    assert_eq!(one.cpu(), Some(Duration::from_millis(1500)));
    assert_eq!(one.description(), "cgroup v1 (pids, memory, cpuacct)");
    let mixed = Group { processes: None, memory: tree.place("two", Version::Two), ..one };
    tree.file("two/memory.events", "low 0\nhigh 0\nmax 9\noom 4\noom_kill 3\noom_group_kill 0\n");
    tree.file("two/memory.current", "8192\n");
    tree.file("two/cpu.stat", "usage_usec 2500\nuser_usec 2000\nsystem_usec 500\n");
    assert_eq!((mixed.memory(), mixed.out_of_memory_kills()), (Some(8192), Some(3)));
    assert_eq!((mixed.processes(), mixed.refused_forks()), (None, None));
    assert_eq!(mixed.limit_processes(Some(1)).map_err(|e| e.kind()), Err(io::ErrorKind::Unsupported));
    assert_eq!(mixed.description(), "cgroup v1 (cpuacct) and v2 (memory)");
    let two = Group { cpu: tree.place("two", Version::Two), ..Group::default() };
    assert_eq!(two.cpu(), Some(Duration::from_micros(2500)));
}

#[test]
fn the_maker_is_in_the_name() {
    assert_eq!(maker("forklab-12-ab-c").map(Pid::as_raw), Some(12));
    for name in ["forklab-12", "forklab--1-x", "forklab-x-1", "lab-12-x", "forklab-0-x"] {
        assert_eq!(maker(name), None, "{name}");
    }
}
