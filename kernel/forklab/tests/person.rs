//! `input` and `system`, seen from outside: bytes and exit statuses.

mod cases;

use std::io::Write;
use std::process::ExitCode;

use cases::Case;
use forklab::{Error, Process, Signal, input, system};

fn main() -> ExitCode {
    cases::main(&[
        Case {
            input: "línea\n\nno newline".as_bytes(),
            output: Some(b"> 1 2 3 "),
            ..Case::new("lines, and then the end", lines_and_then_the_end)
        },
        Case { input: b"\xff\n", ..Case::new("bytes that are not UTF-8", bytes_that_are_not_utf8) },
        Case { input: b"word\n", ..Case::new("a child asks", a_child_asks) },
        Case { output: Some(b"one two three"), ..Case::new("a shell writes in between", a_shell_writes_in_between) },
        Case::new("how a shell ends", how_a_shell_ends),
    ])
}

fn lines_and_then_the_end() {
    assert_eq!(input("> ").expect("a line"), "línea");
    assert_eq!(input("1 ").expect("an empty line"), "");
    assert_eq!(input("2 ").expect("a line without its newline"), "no newline");
    let error = input("3 ").expect_err("nothing is left");
    assert!(matches!(error, Error::EndOfInput), "{error}");
}

fn bytes_that_are_not_utf8() {
    assert_eq!(input("").expect("a line"), "\u{fffd}");
}

fn a_child_asks() {
    let mut child = Process::new(|| match input("? ").as_deref() {
        Ok("word") => 0,
        _ => 1,
    });
    child.start().expect("it starts");
    assert!(child.join().expect("it ends").success());
}

fn a_shell_writes_in_between() {
    print!("one ");
    assert!(system("printf 'two '").expect("a shell").success());
    print!("three");
    std::io::stdout().flush().expect("stdout is open");
}

fn how_a_shell_ends() {
    let mut child = Process::new(|| 5);
    child.start().expect("it starts");
    assert_eq!(system("exit 3").expect("a shell").code(), Some(3));
    assert_eq!(system("no-such-command 2>/dev/null").expect("a shell").code(), Some(127));
    assert_eq!(system("kill -9 $$").expect("a shell").signal(), Some(Signal::KILL));
    assert_eq!(child.join().expect("system reaps nobody else").code(), Some(5));
}
