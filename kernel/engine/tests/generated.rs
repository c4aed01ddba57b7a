//! The code that every cell carries, compiled alone and run: neither a panic nor a child that leaves
//! waits for somebody else's stdout.

use std::io;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const GENERATED: &str = include_str!("../src/generated.rs.txt");

/// A host, inside the generated module, where the table's fields can be named.
const HOST: &str = r#"
extern "C" fn text(_: Text, _: usize) {}
extern "C" fn texts(_: Text, _: usize, _: Text, _: usize) {}
extern "C" fn nothing() {}
extern "C" fn seen(_: Text, _: usize, _: u32, _: u32, _: Text, _: usize, _: Text, _: usize, _: bool) {
    crate::say_at_once("seen;");
}
extern "C" fn ended() -> ! {
    crate::leave_child_at_once()
}
pub fn table() -> Host {
    Host { version: 2, panicked: text, failed: text, display: texts, lost_variable: text, panic_seen: seen,
        display_begin: nothing, display_end: nothing, leave_child: ended }
}
"#;

const MAIN: &str = r#"
use std::panic::catch_unwind;
use std::sync::mpsc::channel;

unsafe extern "C" {
    fn fork() -> i32;
    fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
    fn write(fd: i32, text: *const u8, count: usize) -> isize;
    fn _exit(status: i32) -> !;
}

fn leave_child_at_once() -> ! {
    unsafe { _exit(8) }
}

fn say_at_once(text: &str) {
    unsafe { write(1, text.as_ptr(), text.len()) };
}

fn main() {
    let host = Box::leak(Box::new(generated::table()));
    generated::FORKLAB_HOST.store(host, std::sync::atomic::Ordering::Release);
    let cell = generated::enter();

    let held = std::io::stdout().lock();
    assert!(std::thread::spawn(|| panic!("in a thread")).join().is_err());
    drop(held);

    let (holds, is_held) = channel();
    let (release, is_released) = channel::<()>();
    let holder = std::thread::spawn(move || {
        let held = std::io::stdout().lock();
        holds.send(()).unwrap();
        let _ = is_released.recv();
        drop(held);
    });
    is_held.recv().unwrap();
    match unsafe { fork() } {
        0 => unsafe { _exit(if catch_unwind(|| panic!("in a child")).is_err() { 7 } else { 0 }) },
        child => {
            let mut status = 0;
            assert_eq!(unsafe { waitpid(child, &mut status, 0) }, child);
            assert_eq!(status, 7 << 8);
        }
    }
    match unsafe { fork() } {
        0 => generated::leave(None),
        child => {
            let mut status = 0;
            assert_eq!(unsafe { waitpid(child, &mut status, 0) }, child);
            assert_eq!(status, 8 << 8);
        }
    }
    drop(release);
    holder.join().unwrap();

    if unsafe { fork() } == 0 {
        print!("child;");
        generated::leave(None);
    }
    assert!(unsafe { waitpid(-1, std::ptr::null_mut(), 0) } > 0);

    print!("before;");
    assert!(catch_unwind(|| panic!("in the cell")).is_err());
    generated::leave(cell);
}
"#;

/// After so long the program hangs.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn a_panic_waits_for_nobodys_stdout() -> io::Result<()> {
    let directory = tempfile::tempdir()?;
    let (source, program) = (directory.path().join("main.rs"), directory.path().join("main"));
    std::fs::write(&source, format!("mod generated {{\n{GENERATED}\n{HOST}\n}}\n{MAIN}"))?;
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let compiled =
        Command::new(rustc).args(["--edition=2024", "--cap-lints=allow", "-o"]).arg(&program).arg(source).status()?;
    assert!(compiled.success());
    let mut child = Command::new(program).stdout(Stdio::piped()).spawn()?;
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            child.kill()?;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output()?;
    assert!(output.status.success(), "{}", output.status);
    // What the cell has written before its panic comes before it.
    assert_eq!(String::from_utf8_lossy(&output.stdout), "seen;seen;child;before;seen;");
    Ok(())
}
