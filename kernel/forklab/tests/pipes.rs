//! `Pipe`, between real processes.

mod cases;

use std::fs;
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use cases::Case;
use forklab::{Connection, Error, Pipe, Process};
use serde::{Deserialize, Serialize};

fn main() -> ExitCode {
    cases::main(&[
        Case::new("values of all kinds", values_of_all_kinds),
        Case::new("two ways at once", two_ways_at_once),
        Case::new("the end of the file is a value", the_end_of_the_file_is_a_value),
        Case::new("a child's end is the end", a_childs_end_is_the_end),
        Case::new("nobody receives", nobody_receives),
        Case::new("the wrong type costs one message", the_wrong_type_costs_one_message),
        Case::new("a large value", a_large_value),
        Case::new("a sender killed in the middle", a_sender_killed_in_the_middle),
        Case::new("poll looks and waits", poll_looks_and_waits),
        Case::new("a child holds its own end only", a_child_holds_its_own_end_only),
        Case::new("ends of other pipes stay", ends_of_other_pipes_stay),
        Case::new("an end left to the parent says so", an_end_left_to_the_parent_says_so),
        Case::new("an exec'd program inherits no end", an_execd_program_inherits_no_end),
    ])
}

fn start<T: forklab::ExitValue>(function: impl FnOnce() -> T + 'static) -> Process {
    let mut process = Process::new(function);
    process.start().expect("it starts");
    process
}

fn succeeds(process: &Process) {
    assert_eq!(process.join().expect("it ends").to_string(), "exit status 0", "{process:?}");
}

fn pair() -> (Connection, Connection) {
    Pipe::new().expect("descriptors")
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Order {
    Add { a: i64, b: i64 },
    Stop,
}

fn values_of_all_kinds() {
    let (here, there) = pair();
    let child = start(move || {
        there.send(&(42, None::<()>, "hello"))?;
        assert_eq!(there.recv::<String>()?.as_deref(), Some("línea\n\u{1F980}"));
        while let Some(Order::Add { a, b }) = there.recv()? {
            there.send(&(a + b))?;
        }
        Ok::<_, Error>(())
    });
    let mixed: Option<(i32, Option<()>, String)> = here.recv().expect("it sends");
    assert_eq!(mixed, Some((42, None, "hello".to_owned())));
    here.send("línea\n\u{1F980}").expect("it receives");
    here.send(&Order::Add { a: 40, b: 2 }).expect("it receives");
    assert_eq!(here.recv::<serde_json::Value>().expect("it answers"), Some(serde_json::json!(42)));
    here.send(&Order::Stop).expect("it receives");
    succeeds(&child);
    let (from, to) = Pipe::one_way().expect("descriptors");
    to.send(&std::collections::BTreeMap::from([((1, 2), 3)])).expect_err("keys that are no strings");
    to.send(&None::<i32>).expect("nothing is a value");
    assert_eq!(from.recv::<Option<i32>>().expect("it came"), Some(None));
}

fn two_ways_at_once() {
    // Few enough to be in the kernel's buffer all at once: the child sends them before it receives.
    const ROUNDS: u32 = 100;
    let (here, there) = pair();
    let child = start(move || {
        for n in 0..ROUNDS {
            there.send(&n)?;
        }
        for n in 0..ROUNDS {
            assert_eq!(there.recv()?, Some(n));
        }
        Ok::<_, Error>(())
    });
    for n in 0..ROUNDS {
        here.send(&n).expect("it receives");
        assert_eq!(here.recv().expect("it sends"), Some(n));
    }
    succeeds(&child);
}

fn the_end_of_the_file_is_a_value() {
    // Two-way: the child's own copy of the parent's end would keep the child waiting for ever.
    let (here, there) = pair();
    let child = start(move || {
        let mut lines = 0;
        while let Some(line) = there.recv::<String>()? {
            lines += 1;
            there.send(&line.to_uppercase())?;
        }
        Ok::<i32, Error>(lines)
    });
    for word in ["one", "two"] {
        here.send(word).expect("it receives");
        assert_eq!(here.recv::<String>().expect("it answers"), Some(word.to_uppercase()));
    }
    here.close();
    assert_eq!(child.join().expect("it ends").code(), Some(2));

    let (from, to) = Pipe::one_way().expect("descriptors");
    let child = start(move || match from.recv::<i32>() {
        Ok(None) => 0,
        _ => 1,
    });
    drop(to);
    succeeds(&child);
}

fn a_childs_end_is_the_end() {
    let (here, there) = pair();
    let child = start(move || there.send("last words"));
    assert_eq!(here.recv::<String>().expect("it sends").as_deref(), Some("last words"));
    assert_eq!(here.recv::<String>().expect("the end is no error"), None);
    assert_eq!(here.recv::<String>().expect("nor is it the second time"), None);
    succeeds(&child);

    // With something of ours unread, a socket ends in ECONNRESET, which is an end as well.
    let (here, there) = pair();
    here.send("unread").expect("there is room");
    let child = start(move || there.send("last words"));
    succeeds(&child);
    assert_eq!(here.recv::<String>().expect("it sent").as_deref(), Some("last words"));
    assert_eq!(here.recv::<String>().expect("the end is no error"), None);
}

fn nobody_receives() {
    let (here, there) = pair();
    succeeds(&start(move || there.close()));
    assert!(matches!(here.send("anybody?"), Err(Error::BrokenPipe)));
    let (from, to) = Pipe::one_way().expect("descriptors");
    succeeds(&start(move || from.close()));
    let error = to.send("anybody?").expect_err("nobody");
    assert!(error.to_string().starts_with("broken pipe"), "{error:?}");
}

fn the_wrong_type_costs_one_message() {
    let (here, there) = pair();
    there.send("hello").expect("there is room");
    there.send(&5).expect("there is room");
    let error = here.recv::<i32>().expect_err("a text is no number");
    assert_eq!(error.to_string(), "received \"hello\", which is no i32: invalid type: string \"hello\", expected i32");
    assert_eq!(here.recv().expect("the next one is whole"), Some(5));
    there.send(&"x".repeat(1000)).expect("there is room");
    let error = here.recv::<i32>().expect_err("a text is no number");
    assert!(matches!(&error, Error::WrongType { received, .. } if received.len() < 100), "{error}");
}

fn a_large_value() {
    let text = "x".repeat(8 << 20);
    let (here, there) = pair();
    let sent = text.clone();
    let child = start(move || {
        there.send(&sent)?;
        assert_eq!(there.recv::<String>()?.map(|text| text.len()), Some(sent.len()));
        Ok::<_, Error>(())
    });
    assert!(here.recv::<String>().expect("it sends").is_some_and(|received| received == text));
    here.send(&text).expect("it receives");
    succeeds(&child);
}

fn a_sender_killed_in_the_middle() {
    let (from, to) = Pipe::one_way().expect("descriptors");
    let child = start(move || to.send(&"x".repeat(8 << 20)));
    assert!(from.poll(Duration::MAX).expect("a pipe"), "it has begun");
    child.kill().expect("it is ours");
    child.join().expect("it ends");
    let error = from.recv::<String>().expect_err("a part is no message");
    assert!(matches!(error, Error::CutShort { length, .. } if length == (8 << 20) + 2), "{error}");
    assert_eq!(from.recv::<String>().expect("then comes the end"), None);
}

fn poll_looks_and_waits() {
    let (here, there) = pair();
    assert!(!here.poll(Duration::ZERO).expect("a socket"));
    assert!(!here.poll(Duration::from_millis(10)).expect("a socket"));
    let child = start(move || there.send(&1));
    assert!(here.poll(Duration::MAX).expect("a socket"));
    assert_eq!(here.recv().expect("it sends"), Some(1));
    assert!(here.poll(Duration::MAX).expect("a socket"), "the end counts");
    assert_eq!(here.recv::<i32>().expect("the end"), None);
    succeeds(&child);
}

/// The sockets and pipes that a process has open, the harness's among them.
fn channels() -> usize {
    let links = fs::read_dir("/proc/self/fd").expect("proc is there").flatten();
    let names = links.filter_map(|entry| fs::read_link(entry.path()).ok());
    names.filter(|name| name.to_string_lossy().starts_with(['s', 'p'])).count()
}

fn a_child_holds_its_own_end_only() {
    let none = channels();
    let (here, there) = pair();
    let child = start(move || there.send(&(channels() - none)));
    assert_eq!(channels() - none, 1, "ours");
    assert_eq!(here.recv().expect("it counts"), Some(1));
    succeeds(&child);
    drop(here);

    // Both ends moved in, and clones of one end kept and given: nothing is closed that is needed.
    let (here, there) = pair();
    succeeds(&start(move || {
        here.send(&1)?;
        assert_eq!(there.recv()?, Some(1));
        Ok::<_, Error>(())
    }));
    let (from, to) = Pipe::one_way().expect("descriptors");
    let first = to.try_clone().expect("a descriptor");
    let first = start(move || first.send(&(channels() - none)));
    let second = start(move || to.send(&(channels() - none)));
    assert_eq!(from.recv().expect("it counts"), Some(1));
    assert_eq!(from.recv().expect("it counts"), Some(1));
    assert_eq!(from.recv::<usize>().expect("the end"), None);
    succeeds(&first);
    succeeds(&second);
}

fn ends_of_other_pipes_stay() {
    let (here, there) = pair();
    let here = Rc::new(here);
    let shared = Rc::clone(&here);
    let (from, to) = Pipe::one_way().expect("descriptors");
    // Shared and not moved: the library cannot see it and must leave it alone.
    let child = start(move || {
        to.send(&shared.recv::<i32>()?)?;
        Ok::<_, Error>(())
    });
    there.send(&7).expect("there is room");
    assert_eq!(from.recv::<Option<i32>>().expect("it sends"), Some(Some(7)));
    succeeds(&child);
    assert!(here.as_raw_fd() >= 0);
}

fn an_end_left_to_the_parent_says_so() {
    let (here, there) = pair();
    let here = Rc::new(here);
    let shared = Rc::clone(&here);
    let child = start(move || {
        drop(there);
        assert_eq!(format!("{shared:?}"), "Connection(left to the parent)");
        match shared.send(&1) {
            Err(Error::LeftToParent) => 0,
            _ => 1,
        }
    });
    succeeds(&child);
    assert_eq!(here.recv::<i32>().expect("the end"), None);
}

fn an_execd_program_inherits_no_end() {
    let count = || forklab::system("exit $(ls /proc/self/fd | wc -l)").expect("a shell").code();
    let before = count();
    let ends = pair();
    let one_way = Pipe::one_way().expect("descriptors");
    assert_eq!(count(), before);
    drop((ends, one_way));
}
