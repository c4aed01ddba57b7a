//! What a cell may ask for, and what is said about limits.

use super::*;

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn ceiling() -> Ceiling {
    Ceiling { file: PathBuf::from("/etc/forklab/limits.toml"), ..Ceiling::default() }
}

fn parse(text: &str) -> Result<Limits, String> {
    parse_cell(&words(text), &ceiling())
}

#[track_caller]
fn refused(text: &str, ceiling: &Ceiling, part: &str) {
    let error = parse_cell(&words(text), ceiling).expect_err(text);
    assert!(error.contains(part), "{text}: {error}");
}

#[test]
fn a_cell_lowers_the_limits() {
    let limits = parse("procs=20 mem=512M time=10s output=1M cpu=1m files=10").expect("all are below the server's");
    let expected = Limits {
        processes: Some(20),
        memory: Some(512 << 20),
        cpu: Some(Duration::from_secs(60)),
        time: Some(Duration::from_secs(10)),
        files: Some(10),
        output: Some(1 << 20),
    };
    assert_eq!(limits, expected);
    assert_eq!(parse(""), Ok(ceiling().cell));
    assert_eq!(parse("mem=1G").expect("below").processes, Some(256));
    assert_eq!(parse("procs=256"), Ok(ceiling().cell));
    assert_eq!(parse("procs=0 output=0").expect("below").processes, Some(0));
    assert_eq!(parse("time=off"), Ok(ceiling().cell));
}

#[test]
fn wrong_words_are_named() {
    let wrong = [
        ("proc=3", "no limit `proc`; did you mean `procs`?"),
        ("memory=3M", "did you mean `mem`?"),
        ("timeout=3", "did you mean `time`?"),
        ("quux=3", "no limit `quux`. `%%limit` knows `procs`, `mem`, `cpu`, `time`, `files` and `output`"),
        ("PROCS=3", "did you mean `procs`?"),
        ("20", "no limit `20`"),
        ("procs", "write `procs=20`"),
        ("procs = 20", "write `procs=20`, without blanks"),
        ("mem=", "write `mem=512M`"),
        ("mem=512Q", "`mem=512Q`: `512Q` is no size"),
        ("procs=many", "`many` is no number"),
        ("time=10M", "`10M` is no time"),
        ("procs=3 mem=1M procs=4", "`procs` stands twice"),
        ("mem=0", "`mem=0`: 0 would leave nothing"),
        ("time=0s", "0 would leave nothing"),
        ("cpu=0", "0 would leave nothing"),
        ("files=0", "0 would leave nothing"),
    ];
    for (text, part) in wrong {
        refused(text, &ceiling(), part);
    }
}

#[test]
fn a_cell_does_not_get_above_the_server() {
    refused(
        "procs=257",
        &ceiling(),
        "procs=257 is above this server's 256; whoever runs the server raises it with FORKLAB_LIMIT_PROCS=257 or \
         `procs = 257` under [cell] in /etc/forklab/limits.toml",
    );
    refused(
        "output=1G",
        &ceiling(),
        "this server's 64M; whoever runs the server raises it with FORKLAB_LIMIT_OUTPUT=1G or `output = \"1G\"`",
    );
    refused("procs=off", &ceiling(), "procs=off is above this server's 256; ");
    refused("procs=off", &ceiling(), "`procs = \"off\"`");
    let mut set = ceiling();
    set.by_variable.push(Reached { limit: Limit::Processes, scope: Scope::Cell });
    let error = parse_cell(&words("procs=1000"), &set).expect_err("above");
    assert!(error.ends_with("raises it with FORKLAB_LIMIT_PROCS=1000"), "{error}");
}

#[test]
fn a_cell_does_not_get_above_its_notebook() {
    let mut ceiling = ceiling();
    ceiling.cell.processes = None;
    ceiling.notebook.memory = Some(1 << 30);
    refused("procs=600", &ceiling, "above this server's 512 for a whole notebook; ");
    refused("mem=2G", &ceiling, "raises it with FORKLAB_NOTEBOOK_MEM=2G or `mem = \"2G\"` under [notebook]");
    assert_eq!(parse_cell(&words("procs=512 mem=1G"), &ceiling).expect("not above").processes, Some(512));
    assert_eq!(parse_cell(&words("procs=off mem=off"), &ceiling), Ok(ceiling.cell));
}

#[test]
fn amounts_are_said_with_their_unit() {
    let said = [
        (Limit::Processes, Value::Number(256), "256 processes"),
        (Limit::Processes, Value::Number(1), "1 process"),
        (Limit::Memory, Value::Number(512 << 20), "512 MiB of memory"),
        (Limit::Cpu, Value::Time(Duration::from_secs(10)), "10 s of processor time"),
        (Limit::Time, Value::Time(Duration::from_secs(10)), "10 s of time"),
        (Limit::Files, Value::Number(100), "100 open files in one process"),
        (Limit::Output, Value::Number(1 << 20), "1 MiB of output"),
    ];
    for (limit, value, text) in said {
        assert_eq!(describe(limit, value), text);
    }
}

#[test]
fn what_was_reached_is_said_with_whose_it_is() {
    let used = parse("procs=20").expect("below");
    let said = |limit, scope| describe_reached(Reached { limit, scope }, &used, &ceiling());
    assert_eq!(said(Limit::Processes, Scope::Cell), "the cell's limit of 20 processes");
    assert_eq!(said(Limit::Processes, Scope::Notebook), "the notebook's limit of 512 processes");
    assert_eq!(said(Limit::Cpu, Scope::Cell), "the cell's limit `cpu`");
}

#[test]
fn a_cells_own_limit_is_raised_in_the_cell() {
    let how = |text: &str, limit| {
        let used = parse(text).expect("below");
        how_to_raise(Reached { limit, scope: Scope::Cell }, &used, &ceiling())
    };
    assert_eq!(how("procs=20", Limit::Processes), "raise it with `%%limit procs=40`; this server allows up to 256");
    assert_eq!(how("procs=200", Limit::Processes), "raise it with `%%limit procs=256`; this server allows up to 256");
    assert_eq!(how("procs=0", Limit::Processes), "raise it with `%%limit procs=1`; this server allows up to 256");
    assert_eq!(how("mem=512M", Limit::Memory), "raise it with `%%limit mem=1G`, or leave `mem` out");
    assert_eq!(how("time=10s", Limit::Time), "raise it with `%%limit time=20s`, or leave `time` out");
    assert_eq!(how("output=1M", Limit::Output), "raise it with `%%limit output=2M`; this server allows up to 64M");
}

#[test]
fn the_servers_limit_is_raised_by_whoever_runs_it() {
    let how = |limit, scope| how_to_raise(Reached { limit, scope }, &ceiling().cell, &ceiling());
    assert_eq!(
        how(Limit::Processes, Scope::Cell),
        "whoever runs the server raises it with FORKLAB_LIMIT_PROCS=512 or `procs = 512` under [cell] in \
         /etc/forklab/limits.toml, before the kernel starts"
    );
    let notebook = how(Limit::Processes, Scope::Notebook);
    assert!(notebook.contains("`%kill all`") && notebook.contains("FORKLAB_NOTEBOOK_PROCS=1024"), "{notebook}");
    assert!(how(Limit::Cpu, Scope::Notebook).contains("restarted kernel"));
}

#[test]
fn every_limit_has_one_row_and_its_magic_lists_it() {
    for limit in [Limit::Processes, Limit::Memory, Limit::Cpu, Limit::Time, Limit::Files, Limit::Output] {
        assert_eq!(KEYS.iter().filter(|key| key.limit == limit).count(), 1);
        let example = read(key(limit), key(limit).example).expect("an example is right");
        let mut limits = Limits::default();
        set_value(&mut limits, limit, example);
        assert_eq!(value(&limits, limit), example);
        assert_eq!(written(limit, example.expect("it is not off")), key(limit).example);
    }
}
