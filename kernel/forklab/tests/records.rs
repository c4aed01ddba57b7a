//! `last_run` and `runs`, with the files that a kernel would write.
#![allow(unsafe_code)]

mod cases;

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use cases::Case;
use forklab::record::{By, Ending, Event, Orders, Record, Run, Runs, Status, Stream, What};
use forklab::{Error, last_run, runs};
use forklab_record::builder::Builder;
use forklab_record::export;

fn main() -> ExitCode {
    cases::main(&[
        Case::new("outside a notebook", outside_a_notebook),
        Case::new("before anything has run", before_anything_has_run),
        Case::new("a run is read", a_run_is_read),
        Case::new("runs are read", runs_are_read),
        Case::new("files of another version", files_of_another_version),
        Case::new("debug is one line", debug_is_one_line),
        Case::new("shows a run and runs", shows_a_run_and_runs),
        Case::new("each is shown as picture and as text", each_is_shown_as_picture_and_as_text),
    ])
}

/// A file that is removed with its owner.
struct File(PathBuf);

impl File {
    /// Under this name in the environment, for this process.
    fn named(variable: &str, content: &str) -> File {
        let file = env::temp_dir().join(format!("forklab-records-{}-{variable}", std::process::id()));
        fs::write(&file, content).expect("a temporary file");
        // SAFETY: each case is a process of its own with one thread, so nobody reads the environment now.
        unsafe { env::set_var(variable, &file) };
        File(file)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn record(pid: i32) -> Record {
    let mut builder = Builder::new(5, 0.0, pid, 100);
    let child = pid + 1;
    let event = |at, pid, what| Event { at, pid, what };
    builder.add([event(200, pid, What::Forked(child)), event(400, child, What::Ended(Status::Exited(3)))], []);
    builder.wrote(300, child, Stream::Stdout, format!("I am {child} EVCXR_END_CONTENT\n"));
    builder.build(Ending::Finished, 500)
}

fn many() -> Orders {
    let mut orders = Orders::new(By::Lines);
    for pid in [100, 200, 300] {
        orders.add_record(&record(pid));
    }
    orders
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("JSON")
}

fn outside_a_notebook() {
    for variable in ["FORKLAB_LAST_RUN", "FORKLAB_RUNS"] {
        // SAFETY: as above.
        unsafe { env::remove_var(variable) };
    }
    let error = last_run().expect_err("no kernel");
    assert!(matches!(error, Error::NotInNotebook { .. }) && error.to_string().contains("forklab notebook"), "{error}");
    assert!(matches!(runs(), Err(Error::NotInNotebook { .. })));
}

fn before_anything_has_run() {
    let files = ["FORKLAB_LAST_RUN", "FORKLAB_RUNS"].map(|variable| File::named(variable, ""));
    assert!(matches!(last_run(), Err(Error::NothingRecorded { .. })));
    drop(files);
    assert_eq!(last_run().expect_err("no run").to_string(), "there is no record: no cell has run yet");
    let error = runs().expect_err("no runs").to_string();
    assert!(error.contains("%%repeat"), "{error}");
}

fn a_run_is_read() {
    let _file = File::named("FORKLAB_LAST_RUN", &json(&export::json(&record(4711))));
    let run = last_run().expect("a record");
    assert_eq!(*run, record(4711));
    assert_eq!(run.output(4712, Stream::Stdout), "I am 4712 EVCXR_END_CONTENT\n");
    assert_eq!(run.processes[1].ended, Some((300, Status::Exited(3))));
}

fn runs_are_read() {
    let _file = File::named("FORKLAB_RUNS", &json(&export::runs_json(&many())));
    let runs = runs().expect("runs");
    assert_eq!((runs.runs().len(), runs.distinct(), runs.different_runs()), (3, 1, 0));
    assert_eq!(*runs, many());
}

fn files_of_another_version() {
    for content in ["{\"schema\": \"forklab-record/99\", \"record\": {}}", "{\"schema\": 1}", "no JSON"] {
        let _file = File::named("FORKLAB_LAST_RUN", content);
        let error = last_run().expect_err("not to be read");
        assert!(matches!(error, Error::System { .. }), "{error}");
        assert!(error.to_string().starts_with("cannot read the record of the last run: "), "{error}");
    }
}

fn debug_is_one_line() {
    let run = Run::from(record(4711));
    assert_eq!(format!("{run:?}"), "Run(In [5]: 2 processes, 3 events, 400 ns, end of the cell)");
    assert!(format!("{run:#?}").lines().count() > 20);
    assert_eq!(format!("{:?}", Runs::from(many())), "Runs(3 runs, 1 order by lines)");
}

fn shows_a_run_and_runs() {
    Run::from(record(4711)).evcxr_display();
    Runs::from(many()).evcxr_display();
}

fn each_is_shown_as_picture_and_as_text() {
    let program = env::current_exe().expect("this program");
    let shown = Command::new(program).args(["--case", "shows a run and runs"]).output().expect("it runs").stdout;
    let shown = String::from_utf8(shown).expect("UTF-8");
    let parts: Vec<&str> = shown.split("EVCXR_BEGIN_CONTENT ").skip(1).collect();
    let begins: Vec<&str> = parts.iter().filter_map(|part| part.lines().next()).collect();
    assert_eq!(begins, ["text/html", "text/plain", "text/html", "text/plain"]);
    // The output that is shown has the end's mark in itself, which must not end anything.
    assert!(parts.iter().all(|part| part.matches("EVCXR_END_CONTENT").count() == 1), "{shown}");
    assert!(parts.iter().all(|part| part.ends_with("\nEVCXR_END_CONTENT\n")), "{shown}");
    assert!(parts[0].contains("<svg") && parts[1].contains("C1"), "{shown}");
    assert!(parts[2].contains("forklab-orders") && parts[3].starts_with("text/plain\n3 runs, 1 order by lines\n"));
}
