//! What is read from which place, and what is said about what is wrong there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use forklab_worker::messages::Limits;
use tempfile::TempDir;

use super::*;

/// A machine of its own: a system-wide file, a home, and variables.
struct Machine {
    root: TempDir,
    environment: Environment,
}

impl Machine {
    fn new(variables: &[(&str, &str)]) -> Machine {
        let root = tempfile::tempdir().expect("a directory for the test");
        let home = root.path().join("home");
        let mut all = BTreeMap::from([(OsString::from("HOME"), home.into_os_string())]);
        all.extend(variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))));
        let system = root.path().join("etc/forklab/limits.toml");
        Machine { root, environment: Environment { variables: all, system } }
    }

    /// A machine whose system-wide file holds this.
    fn with(text: &str, variables: &[(&str, &str)]) -> Machine {
        let machine = Machine::new(variables);
        machine.write("etc/forklab/limits.toml", text);
        machine
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let file = self.root.path().join(name);
        fs::create_dir_all(file.parent().expect("it is below the root")).expect("a directory can be made");
        fs::write(&file, text).expect("a file can be written");
        file
    }

    fn set(&mut self, name: &str, value: impl Into<OsString>) {
        self.environment.variables.insert(name.into(), value.into());
    }

    fn load(&self) -> Ceiling {
        load(&self.environment).expect("the limits are right")
    }

    fn error(&self) -> LimitsError {
        load(&self.environment).expect_err("the limits are wrong")
    }
}

fn cell(text: &str) -> Limits {
    Machine::with(text, &[]).load().cell
}

#[test]
fn without_anything_the_defaults_hold() {
    let ceiling = Machine::new(&[]).load();
    assert_eq!(ceiling.cell, Limits { processes: Some(256), output: Some(64 << 20), ..Limits::default() });
    assert_eq!(ceiling.notebook, Limits { processes: Some(512), ..Limits::default() });
    let default = Ceiling::default();
    assert_eq!((ceiling.cell, ceiling.notebook), (default.cell, default.notebook));
    assert!(ceiling.file.ends_with("home/.config/forklab/limits.toml"), "{:?}", ceiling.file);
}

#[test]
fn a_file_sets_every_limit() {
    let text = "[cell]\nprocs = 100\nmem = \"1.5GiB\"\ncpu = 10\ntime = 2.5\nfiles = 64\noutput = \"off\"\n\
                [notebook]\nprocs = \"200\"\nmem = \"4G\"\ncpu = \"1h30m\"\ntime = \"2m\"\noutput = 1000\n";
    let ceiling = Machine::with(text, &[]).load();
    let cell = Limits {
        processes: Some(100),
        memory: Some(3 << 29),
        cpu: Some(Duration::from_secs(10)),
        time: Some(Duration::from_millis(2500)),
        files: Some(64),
        output: None,
    };
    assert_eq!(ceiling.cell, cell);
    let notebook = Limits {
        processes: Some(200),
        memory: Some(4 << 30),
        cpu: Some(Duration::from_secs(5400)),
        time: Some(Duration::from_secs(120)),
        files: None,
        output: Some(1000),
    };
    assert_eq!(ceiling.notebook, notebook);
}

#[test]
fn variables_go_over_the_file() {
    let variables = [
        ("FORKLAB_LIMIT_PROCS", "30"),
        ("FORKLAB_LIMIT_MEM", "off"),
        ("FORKLAB_LIMIT_OUTPUT", ""),
        ("FORKLAB_NOTEBOOK_CPU", "1m"),
        ("FORKLAB_NOTEBOOK_DIRECTORY", "/srv"),
        ("FORKLAB_DATA", "/opt"),
    ];
    let machine = Machine::with("[cell]\nprocs = 20\nmem = \"1G\"\noutput = \"2M\"", &variables);
    let ceiling = machine.load();
    assert_eq!(ceiling.cell, Limits { processes: Some(30), output: Some(2 << 20), ..Limits::default() });
    assert_eq!(ceiling.notebook.cpu, Some(Duration::from_secs(60)));
}

#[test]
fn the_first_file_that_exists_is_read() {
    let mut machine = Machine::new(&[]);
    machine.write("home/.config/forklab/limits.toml", "[cell]\nfiles = 3");
    assert_eq!(machine.load().cell.files, Some(3));
    let config = machine.root.path().join("config");
    machine.set("XDG_CONFIG_HOME", config);
    assert_eq!(machine.load().cell.files, None);
    machine.write("config/forklab/limits.toml", "[cell]\nfiles = 4");
    assert_eq!(machine.load().cell.files, Some(4));
    machine.set("XDG_CONFIG_HOME", "relative");
    assert_eq!(machine.load().cell.files, Some(3));
    machine.write("etc/forklab/limits.toml", "[cell]\nfiles = 5");
    assert_eq!(machine.load().cell.files, Some(5));
    let named = machine.write("elsewhere.toml", "[cell]\nfiles = 6");
    machine.set("FORKLAB_LIMITS_FILE", named);
    assert_eq!(machine.load().cell.files, Some(6));
}

#[test]
fn a_file_that_cannot_be_read_is_not_passed_over() {
    let mut machine = Machine::new(&[("FORKLAB_LIMITS_FILE", "/nonexistent/limits.toml")]);
    let error = machine.error().to_string();
    assert!(error.starts_with("/nonexistent/limits.toml: ") && error.contains("FORKLAB_LIMITS_FILE"), "{error}");
    machine.set("FORKLAB_LIMITS_FILE", "");
    // A directory in the file's place is refused to everybody, root too.
    fs::create_dir_all(machine.root.path().join("etc/forklab/limits.toml")).expect("a directory can be made");
    machine.write("home/.config/forklab/limits.toml", "");
    assert!(machine.error().message.contains("cannot be read"));
}

#[test]
fn a_file_that_is_forbidden_is_not_passed_over() {
    let machine = Machine::with("", &[]);
    let file = machine.root.path().join("etc/forklab/limits.toml");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).expect("it is the test's own");
    if fs::read(&file).is_ok() {
        println!("not tried: this user may read everything");
        return;
    }
    assert!(machine.error().message.contains("cannot be read"));
}

#[test]
fn more_processes_for_a_cell_are_more_for_its_notebook() {
    let notebook = |text: &str| Machine::with(text, &[]).load().notebook.processes;
    assert_eq!(notebook("[cell]\nprocs = 1000"), Some(2000));
    assert_eq!(notebook("[cell]\nprocs = 20"), Some(512));
    assert_eq!(notebook("[cell]\nprocs = \"off\""), Some(512));
    assert_eq!(notebook("[cell]\nprocs = 1000\n[notebook]\nprocs = 600"), Some(600));
    assert_eq!(notebook("[notebook]\nprocs = \"off\""), None);
}

#[test]
fn what_is_wrong_in_a_file_is_said_with_its_line() {
    let wrong = [
        ("[cell]\n\nprocz = 3", 3, "`procz` under [cell]; did you mean `procs`?"),
        ("[cell]\nmemory = 3", 2, "did you mean `mem`?"),
        (
            "[cell]\nquux = 3",
            2,
            "no `quux` under [cell]. There are `procs`, `mem`, `cpu`, `time`, `files` and `output`",
        ),
        ("[cell]\nprocs = 3\nmem = \"512Q\"\ntime = -1", 3, "`mem` under [cell]: `512Q` is no size"),
        ("[cell]\nmem = \"512Q\"", 2, "For example: `mem = \"512M\"`"),
        ("[cell]\ntime = -1", 2, "`-1` is no time"),
        ("[cell]\ntime = nan", 2, "is no time"),
        ("[cell]\nmem = 0", 2, "`off`"),
        ("[cell]\nprocs = 1.5", 2, "`1.5` is no number"),
        ("[cell]\nprocs = true", 2, "is no amount but boolean; write `procs = 20`"),
        ("[cell]\nmem = [1]", 2, "is no amount but array; write `mem = \"512M\"`"),
        ("[notebook]\nfiles = 3", 2, "stands under [cell]"),
        ("[cel]\nprocs = 3", 1, "no table [cel]; did you mean [cell]?"),
        ("[server]\nprocs = 3", 1, "The tables are [cell] and [notebook]"),
        (
            "# mine\nprocs = 3",
            2,
            "`procs` stands under no table: write `[cell]` or `[notebook]`, and under it `procs = 3`",
        ),
        ("cell = 3", 1, "`cell` is a table"),
        ("[cell]\nprocs 3", 2, "no TOML"),
        ("[cell]\nprocs = 3\nprocs = 4", 3, "no TOML"),
        ("[notebook]\nprocs = \"x\"\n[cell]\nprocs = \"y\"", 2, "`x`"),
    ];
    for (text, line, part) in wrong {
        let error = Machine::with(text, &[]).error();
        assert!(error.place.ends_with(&format!("etc/forklab/limits.toml, line {line}")), "{text}: {error}");
        assert!(error.message.contains(part), "{text}: {error}");
    }
}

#[test]
fn what_is_wrong_in_a_variable_is_said_with_its_name() {
    let wrong = [
        ("FORKLAB_LIMIT_MEM", "much", "`much` is no size"),
        ("FORKLAB_LIMIT_MEM", "much", "FORKLAB_LIMIT_MEM=512M"),
        ("FORKLAB_LIMIT_PROC", "3", "did you mean FORKLAB_LIMIT_PROCS?"),
        ("FORKLAB_LIMIT_MEMORY", "3", "did you mean FORKLAB_LIMIT_MEM?"),
        ("FORKLAB_LIMIT_mem", "3", "did you mean FORKLAB_LIMIT_MEM?"),
        ("FORKLAB_LIMIT_QUUX", "3", "FORKLAB_LIMIT_PROCS, FORKLAB_LIMIT_MEM"),
        ("FORKLAB_NOTEBOOK_TIMEOUT", "3", "did you mean FORKLAB_NOTEBOOK_TIME?"),
        ("FORKLAB_NOTEBOOK_FILES", "3", "FORKLAB_LIMIT_FILES"),
    ];
    for (name, value, part) in wrong {
        let error = Machine::new(&[(name, value)]).error();
        assert_eq!(error.place, name);
        assert!(error.message.contains(part), "{name}: {error}");
    }
}

#[test]
fn an_empty_file_sets_nothing() {
    assert_eq!(cell(""), Ceiling::default().cell);
    assert_eq!(cell("# nothing\n[cell]\n[notebook]\n"), Ceiling::default().cell);
}
