//! What cells have in common, each of them a shared object with statics of its own.

mod cases;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cases::Case;
use forklab_sys::generated::{Library, Variables};
use forklab_sys::process::{Pid, Signal, kill, wait};

fn main() -> ExitCode {
    cases::main(&[Case {
        output: Some(b"Process-1\nProcess-2\n"),
        ..Case::new("two cells count and reap together", two_cells_count_and_reap_together)
    }])
}

/// The compiled example: `examples/libcell.so` beside the `deps/` in which this test stands.
fn compiled_cell() -> PathBuf {
    let this = std::env::current_exe().expect("proc is there");
    let profile = this.ancestors().nth(2).expect("cargo puts tests into a profile's deps");
    profile.join("examples/libcell.so")
}

fn run(object: &Path) {
    let library = Library::open(object).expect("the example is built with the tests");
    library.function("cell").expect("it exports its function").call(Variables::none());
}

fn children() -> Vec<Pid> {
    let this = Pid::this();
    let listed = fs::read_to_string(format!("/proc/{this}/task/{this}/children")).expect("proc tells children");
    listed.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}

fn two_cells_count_and_reap_together() {
    let first = compiled_cell();
    // Another file is another object to the loader, and so another cell.
    let second = std::env::temp_dir().join(format!("forklab-second-cell-{}.so", Pid::this()));
    fs::copy(&first, &second).expect("the directory for temporary files is writable");

    run(&first);
    let [dropped] = children()[..] else { panic!("one child: {:?}", children()) };
    kill(dropped, Signal::KILL).expect("it lives: dropping did not end it");
    wait(dropped).expect("a zombie: nobody has reaped it");
    run(&second);
    let [other] = children()[..] else { panic!("the first child was reaped: {:?}", children()) };
    assert_ne!(other, dropped);
    kill(other, Signal::KILL).expect("it lives");
    assert_eq!(wait(other).expect("it is ours").signal(), Some(Signal::KILL));
    fs::remove_file(second).expect("it was copied above");
}
