//! Cells that are run again. What they say must be what a fresh compilation would say; whether one was
//! compiled is seen by the file that the compiler is given, and whether evcxr had a hand in it by the file
//! that evcxr generates: neither is written for a rerun.

mod client;

use std::path::PathBuf;
use std::process::Command;

use client::{Kernel, children, data, eventually};

/// A kernel and where its engine builds.
struct Notebook {
    kernel: Kernel,
    temporary: tempfile::TempDir,
}

impl Notebook {
    fn open() -> Notebook {
        Notebook::open_with(|_| {})
    }

    fn open_with(prepare: impl FnOnce(&mut Command)) -> Notebook {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let kernel = Kernel::start_with(|command| {
            command.env("FORKLAB_DATA", data()).env("TMPDIR", temporary.path());
            prepare(command);
        });
        let mut notebook = Notebook { kernel, temporary };
        // The first cell of a configuration is cargo's.
        notebook.run("1");
        notebook
    }

    fn compiled_source(&self) -> PathBuf {
        let found = std::fs::read_dir(self.temporary.path()).expect("it is there").flatten();
        let builds = found.map(|entry| entry.path().join("build")).find(|build| build.is_dir());
        builds.expect("the engine builds below the kernel's directory").join("src/forklab_lib.rs")
    }

    /// Stdout, or the error, of a cell.
    fn run(&mut self, code: &str) -> String {
        let run = self.kernel.client.execute(code);
        if run.status() == "ok" {
            format!("{}{}", run.stdout(), run.result().unwrap_or_default())
        } else {
            run.error()["evalue"].as_str().unwrap_or_default().to_owned()
        }
    }

    /// Runs a cell that must be compiled for it.
    fn compile(&mut self, code: &str) -> String {
        let (said, compiled) = self.watch(code);
        assert!(compiled, "taken from an earlier run: {code}\n{said}");
        said
    }

    /// Runs a cell that must not be compiled for it.
    fn reuse(&mut self, code: &str) -> String {
        let (said, compiled) = self.watch(code);
        assert!(!compiled, "compiled again: {code}\n{said}");
        said
    }

    /// Runs a cell that must be run without evcxr.
    fn again(&mut self, code: &str) -> String {
        let generated = self.compiled_source().with_file_name("lib.rs");
        let before = std::fs::read(&generated).expect("evcxr has generated a cell");
        std::fs::remove_file(&generated).expect("it can be removed");
        let said = self.run(code);
        assert!(!generated.exists(), "evcxr was asked: {code}\n{said}");
        std::fs::write(&generated, before).expect("it can be written");
        said
    }

    fn watch(&mut self, code: &str) -> (String, bool) {
        let source = self.compiled_source();
        let _ = std::fs::remove_file(&source);
        let said = self.run(code);
        (said, source.exists())
    }
}

#[test]
fn a_cell_is_compiled_once_whatever_it_defines() {
    let mut notebook = Notebook::open();
    for code in [
        "println!(\"a\");",
        "let x = 1;\nfn twice(n: i32) -> i32 { 2 * n }\nlet mut y: Vec<i32> = vec![twice(x)];\ny.push(x);\ny.len()",
        "x + y[0]",
        "use std::collections::*;\nlet m: BTreeMap<i32, i32> = BTreeMap::new();\nm.len()",
        "struct Point { a: i32 }\nimpl Point { fn b(&self) -> i32 { self.a } }\nlet p = Point { a: 3 };\nprintln!(\"{}\", p.b());",
        "\"7\".parse::<i32>()?",
        "let moved = vec![1];\ndrop(moved);\nprintln!(\"gone\");",
    ] {
        let first = notebook.compile(code);
        assert_eq!(notebook.reuse(code), first, "{code}");
        assert_eq!(notebook.reuse(code), first, "{code}");
    }
    assert!(notebook.kernel.shut_down().success());
}

#[test]
fn what_a_cell_sees_is_what_it_is_compiled_for() {
    let mut notebook = Notebook::open();
    let shown = "println!(\"{:?} {}\", value, f());";
    notebook.run("let value = 1u8;\nfn f() -> i32 { 1 }");
    assert_eq!(notebook.compile(shown), "1 1\n");
    assert_eq!(notebook.reuse(shown), "1 1\n");
    notebook.run("let value = 2u8;");
    assert_eq!(notebook.reuse(shown), "2 1\n", "another value of the same type");
    notebook.run("let value = \"text\";");
    assert_eq!(notebook.compile(shown), "\"text\" 1\n", "another type");
    notebook.run("fn f() -> i32 { 2 }");
    assert_eq!(notebook.compile(shown), "\"text\" 2\n", "another function");
    notebook.run("macro_rules! m { () => { 1 } }");
    assert_eq!(notebook.compile("m!()"), "1");
    assert_eq!(notebook.reuse("m!()"), "1");
    notebook.run("macro_rules! m { () => { 2 } }");
    assert_eq!(notebook.compile("m!()"), "2", "another macro");
    notebook.run("struct S { a: u8 }\nlet s = S { a: 1 };");
    assert_eq!(notebook.compile("println!(\"{}\", s.a);"), "1\n");
    notebook.run("struct S { b: u8, a: u16 }\nlet s = S { b: 1, a: 500 };");
    assert_eq!(notebook.compile("println!(\"{}\", s.a);"), "500\n", "another type of the same name");
    assert_eq!(notebook.run("let value = value.len();\nvalue"), "4");
    assert!(notebook.run("let value = value.len();\nvalue").contains("E0599"), "and it looked at the old one");
}

#[test]
fn a_rerun_begins_anew() {
    let mut notebook = Notebook::open();
    let counts = "use std::sync::atomic::{AtomicU32, Ordering};\nstatic COUNT: AtomicU32 = AtomicU32::new(0);\n\
        thread_local! { static OWN: std::cell::Cell<u32> = const { std::cell::Cell::new(5) }; }\n\
        OWN.set(OWN.get() + 1);\nprintln!(\"{} {}\", COUNT.fetch_add(1, Ordering::Relaxed), OWN.get());";
    assert_eq!(notebook.compile(counts), "0 6\n");
    for _ in 0..3 {
        assert_eq!(notebook.reuse(counts), "0 6\n");
    }
    let dropped = "struct D(u32);\nimpl Drop for D { fn drop(&mut self) { println!(\"dropped {}\", self.0); } }\n\
        println!(\"begin\");\nlet d = D(std::process::id().min(1));\nprintln!(\"end\");";
    assert_eq!(notebook.compile(dropped), "begin\nend\n");
    assert_eq!(notebook.reuse(dropped), "begin\nend\ndropped 1\n", "the old one lives until the new one is there");
    assert_eq!(notebook.reuse(dropped), "begin\nend\ndropped 1\n");
    let own = "fn shadow() -> i32 { 7 }\nlet early = shadow();\nlet shadow = 1;\nearly + shadow";
    assert_eq!(notebook.compile(own), "8");
    assert!(notebook.run(own).contains("E0618"), "the second time `shadow` is the number: as evcxr has it");
}

#[test]
fn errors_of_a_rerun_are_about_that_run() {
    let mut notebook = Notebook::open();
    let code = "let n: Option<u32> = std::env::var_os(\"FORKLAB_NO_SUCH\").map(|_| 1);\nn.expect(\"there is none\");";
    let first = notebook.compile(code);
    let number = |said: &str| {
        let rest = said.split_once("In [").expect("it names the cell").1.to_owned();
        let (number, place) = rest.split_once(']').expect("it ends");
        (number.parse::<u32>().expect("a number"), place.to_owned())
    };
    let (count, place) = number(&first);
    assert!(place.starts_with(", line 2, column 3"), "{first}");
    let again = notebook.reuse(code);
    assert_eq!(number(&again), (count + 1, place), "{again}");
    let wrong = "let good = 1;\nlet bad: u8 = \"x\";";
    let first = notebook.run(wrong);
    assert!(first.starts_with("error[E0308]") && first.contains("line 2, column 15"), "{first}");
    assert!(notebook.run(wrong).contains("line 2, column 15"));
    assert_eq!(notebook.run("\"no\".parse::<i32>()?;"), "invalid digit found in string");
    assert_eq!(notebook.run("let e = \"no\".parse::<u8>()?;"), "invalid digit found in string");
    assert!(notebook.run("e").contains("E0425"), "it was not defined");
    assert!(notebook.run("struct Bare;\nBare").contains("E0277"), "it has no Debug");
}

#[test]
fn files_and_settings_are_part_of_a_cell() {
    let mut notebook = Notebook::open();
    let file = notebook.temporary.path().join("included.txt");
    std::fs::write(&file, "one").expect("it can be written");
    let code = format!("println!(\"{{}}\", include_str!({file:?}));");
    assert_eq!(notebook.run(&code), "one\n");
    assert_eq!(notebook.run(&code), "one\n");
    std::fs::write(&file, "two").expect("it can be written");
    assert_eq!(notebook.compile(&code), "two\n");
    let debug = "println!(\"{}\", cfg!(debug_assertions)); 5u8";
    notebook.run(debug);
    assert_eq!(notebook.reuse(debug), "true\n5");
    notebook.run(":fmt {:?}!");
    assert_eq!(notebook.run(debug), "true\n5!");
    notebook.run(":fmt {:?}");
    notebook.run(":opt 0");
    assert_eq!(notebook.compile(debug), "true\n5");
    notebook.run(":build_env FORKLAB_TEST=x");
    assert_eq!(notebook.run("option_env!(\"FORKLAB_TEST\")"), "Some(\"x\")");
    notebook.run(":build_env FORKLAB_TEST=y");
    assert_eq!(notebook.run("option_env!(\"FORKLAB_TEST\")"), "Some(\"y\")");
}

#[test]
fn a_crate_that_changes_is_compiled_again() {
    let mut notebook = Notebook::open();
    let path = notebook.temporary.path().join("small");
    std::fs::create_dir_all(path.join("src")).expect("it can be made");
    let write = |name: &str, text: &str| std::fs::write(path.join(name), text).expect("it can be written");
    write("Cargo.toml", "[package]\nname = \"small\"\nversion = \"0.1.0\"\nedition = \"2024\"\n");
    write("src/lib.rs", "pub fn number() -> u8 { 1 }\n");
    notebook.run(&format!(":dep small = {{ path = {path:?} }}"));
    assert_eq!(notebook.run("small::number()"), "1");
    assert_eq!(notebook.run("small::number()"), "1");
    write("src/lib.rs", "pub fn number() -> u8 { 23 }\n");
    assert_eq!(notebook.run("small::number()"), "23");
    // A crate's own way to show its values is known to nobody but the compiler.
    write("src/lib.rs", "pub struct N; impl N { pub fn evcxr_display(&self) { println!(\"an N\"); } }\n");
    assert_eq!(notebook.run("small::N"), "an N\n");
}

#[test]
fn a_cell_that_failed_or_was_rolled_back_changes_nothing() {
    let mut notebook = Notebook::open();
    notebook.run("let kept = 5u8;");
    let code = "let next = kept + 1;\nnext";
    assert_eq!(notebook.compile(code), "6");
    assert_eq!(notebook.reuse(code), "6");
    notebook.run("let kept = \"other\"; std::process::exit(3);");
    assert_eq!(notebook.reuse(code), "6", "the cell that left has not happened");
    notebook.run("let kept: u32 = nothing();");
    assert_eq!(notebook.reuse(code), "6");
    let panics = "let fresh = 1u8;\nif kept == 5 { panic!(\"as it should\"); }\nfresh";
    for _ in 0..2 {
        assert!(notebook.run(panics).contains("as it should"));
        assert!(notebook.run("fresh").contains("E0425"));
        assert_eq!(notebook.run(code), "6");
    }
    notebook.run("std::thread::spawn(move || drop(kept)).join().unwrap();");
    assert_eq!(notebook.run("kept"), "5");
    notebook.run("let text = String::from(\"t\");");
    assert_eq!(notebook.run("drop(text);"), "");
    assert!(notebook.run("drop(text);").contains("E0425"));
    notebook.run("let text = String::from(\"t\");");
    assert_eq!(notebook.run("drop(text);"), "");
    assert!(notebook.run("text").contains("E0425"));
}

#[test]
fn a_cell_that_changes_nothing_is_run_again_without_evcxr() {
    let mut notebook = Notebook::open();
    let mine = "use std::collections::*;\nstruct P { a: i32 }\nimpl P { fn b(&self) -> i32 { self.a } }\n\
        let mut v = vec![1];\nv.push(P { a: 2 }.b());\nv.len()";
    let reads = "\"7\".parse::<usize>()? + v.len()";
    for code in [mine, reads, "println!(\"é {}\", v.len());"] {
        let first = notebook.run(code);
        for _ in 0..3 {
            assert_eq!(notebook.again(code), first, "{code}");
        }
    }
    // The first of them is evcxr's once more after what the others have brought, and then all are known.
    notebook.run(mine);
    for _ in 0..2 {
        assert_eq!(notebook.again(mine), "2");
        assert_eq!(notebook.again(reads), "9");
    }
    // What a rerun leaves is what evcxr believes.
    notebook.run("v.push(1);");
    assert_eq!(notebook.again("v.push(1);"), "");
    assert_eq!(notebook.run("v"), "[1, 2, 1, 1]");
    assert_eq!(notebook.run("let v = 3u8;"), "");
    assert_eq!(notebook.run(mine), "2");
    assert_eq!(notebook.again(mine), "2");
}

#[test]
fn a_rerun_that_ends_badly_leaves_what_its_first_run_would() {
    let mut notebook = Notebook::open();
    notebook.run("use std::sync::atomic::{AtomicU32, Ordering};\nlet runs = std::sync::Arc::new(AtomicU32::new(0));");
    for (end, said) in [("panic!(\"as it should\");", "as it should"), ("Err::<(), _>(\"so be it\")?;", "so be it")] {
        let code = format!("let fresh = 5u8;\nif runs.fetch_add(1, Ordering::SeqCst) == 2 {{ {end} }}\nfresh");
        assert_eq!(notebook.run(&code), "5");
        assert_eq!(notebook.again(&code), "5");
        assert!(notebook.run(&code).contains(said), "the third time");
        assert!(notebook.run("fresh").contains("E0425"), "what a cell has defined that did not end is not there");
        assert_eq!(notebook.run("runs.swap(0, Ordering::SeqCst)"), "3", "it has run once each time");
    }
    let dies = "let later = 5u8;\nif runs.fetch_add(1, Ordering::SeqCst) == 1 { std::process::abort(); }\nlater";
    assert_eq!(notebook.run(dies), "5");
    assert!(notebook.again(dies).contains("SIGABRT"), "the second time");
    assert_eq!(notebook.run("runs.load(Ordering::SeqCst) + u32::from(later)"), "6", "the second run has not happened");
    assert!(notebook.again(dies).contains("SIGABRT"), "it is the second time again");
}

/// Cells that get in each other's way: other types, other mutability, moves, redefinitions, settings, bad ends.
const MIXTURE: &[&str] = &[
    "let x = 1u8;",
    "let mut x = 1u8; x += 1;",
    "let x = String::from(\"s\");",
    "x += 1;",
    "let x = x.clone();",
    "let y = x;",
    "println!(\"{:?}\", x);",
    "x",
    "fn f() -> u8 { 1 }",
    "fn f() -> u8 { 2 }\nlet z = f();",
    "println!(\"{} {:?}\", f(), z);",
    "struct S(u8);\nimpl S { fn g(&self) -> u8 { self.0 } }\nlet s = S(3);",
    "struct S(u16);\nlet t = S(4);",
    "s.g()",
    "drop(t);",
    "use std::collections::*;\nlet m: BTreeMap<u8, u8> = BTreeMap::new();\nm.len()",
    "macro_rules! m { () => { 1 } }",
    "m!()",
    "\"1\".parse::<u8>()?;",
    "let w = \"n\".parse::<u8>()?;",
    "let (a, mut b) = (1u8, 2u8); b += a;",
    "b += 1; (a, b)",
    "let a = { let b = 3u32; b };",
    "if let Some(a) = Some(1u64) { println!(\"{a}\"); }",
    "panic!(\"p\");",
    "let x: u8 = nothing();",
    "std::process::exit(1);",
    ":opt 1",
    "type T = u8;\nlet c: T = 1;",
    "mod n { pub fn f() -> u8 { 7 } }\nlet f = n::f();",
    "let v = vec![1u8];\nlet v = v.len();",
];

/// The engine compares what it would have run without evcxr with what evcxr makes of the cell, and a
/// difference ends it.
#[test]
fn what_would_be_run_again_is_what_evcxr_would_run() {
    let mut notebook = Notebook::open_with(|command| {
        command.env("FORKLAB_VERIFY_RERUNS", "1");
    });
    let mut random = 20_261_123u64;
    let mut choose = |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % below
    };
    let mut history = Vec::new();
    // The first ones are all about `x`: each is run around each of the others.
    let mut cells: Vec<&str> =
        (0..36).flat_map(|pair| [MIXTURE[pair / 6], MIXTURE[pair % 6], MIXTURE[pair / 6]]).collect();
    for _ in 0..40 {
        // Most cells are run again at once, as people do.
        cells.extend(std::iter::repeat_n(MIXTURE[choose(MIXTURE.len())], 1 + choose(3)));
    }
    for code in cells {
        history.push(code);
        let said = notebook.run(code);
        assert!(!said.contains("the compiler process ended"), "after {history:#?}: {said}");
    }
}

/// The engine gives its place to its standby, which shares more memory, and nothing is lost with it.
#[test]
fn an_engine_that_rests_loses_nothing() {
    let mut notebook = Notebook::open_with(|command| {
        command.env("FORKLAB_ENGINE_REST", "1");
    });
    notebook.run("let mut kept = vec![1];\nfn f() -> usize { 7 }");
    // What the first `let` has made of rust-analyzer is too much to be taken for what every cell writes.
    notebook.run("f()");
    let code = "kept.push(1); kept.len() + f()";
    assert_eq!(notebook.run(code), "9");
    assert_eq!(notebook.again(code), "10");
    for expected in [11, 12] {
        let server = notebook.kernel.process.id();
        let old = children(server, "engine");
        eventually("another engine and its standby", || {
            let engines = children(server, "engine");
            let is_ready = |engine: &u32| !old.contains(engine) && !children(*engine, "engine").is_empty();
            !engines.is_empty() && engines.iter().all(is_ready)
        });
        assert_eq!(notebook.again(code), expected.to_string());
        assert_eq!(notebook.run(&format!("kept.len() + {expected}")), (expected - 7 + expected).to_string());
    }
}

/// A fork copies them all.
#[test]
fn a_cell_adds_few_mappings() {
    let mut notebook = Notebook::open();
    let count = "std::fs::read_to_string(\"/proc/self/maps\")?.lines().count()";
    let mappings = |said: String| said.parse::<usize>().expect("a number");
    let first = mappings(notebook.run(count));
    let cells = 5;
    for cell in 0..cells {
        notebook.run(&format!("let v{cell} = vec![{cell}]; println!(\"{{v{cell}:?}}\");"));
    }
    let more = mappings(notebook.run(count)) - first;
    assert!(more <= 3 * (cells + 1), "{more} mappings for {cells} cells and another of this");
}
