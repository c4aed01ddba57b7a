"""The cells that are measured, in Rust and in Python. `@N@` is another number for each new cell.

What evcxr_jupyter needs before it can run the same cells stands in SETUP; forklab has it by itself.
"""

# What a kernel runs once, unmeasured, before these cells.
SETUP = {
    "forklab": [],
    "evcxr": [
        ':dep forklab = { path = "@LIBRARY@" }\n:dep nix = { version = "0.31", features = ["process"] }',
        "use forklab::Process;",
    ],
    "ipykernel": ["import multiprocessing, os, sys, time\nfrom multiprocessing import get_context\nProcess = get_context('fork').Process"],
}

# Cells of which a new one, its unchanged rerun, and a second rerun are measured.
CELLS = {
    "println": {
        "rust": 'println!("{}", @N@);',
        "python": "print(@N@)",
    },
    "let": {
        "rust": "let numbers = vec![@N@, 2, 3];",
        "python": "numbers = [@N@, 2, 3]",
    },
    "expression": {
        "rust": "@N@ + 1",
        "python": "@N@ + 1",
    },
    "question": {
        "rust": 'println!("{}", "@N@".parse::<i32>()?);',
        "python": 'print(int("@N@"))',
    },
    "function": {
        "rust": "fn square(x: i64) -> i64 { x * x + @N@ }\nlet squared = square(12);\nprintln!(\"{squared}\");",
        "python": "def square(x): return x * x + @N@\nsquared = square(12)\nprint(squared)",
    },
    "process": {
        "rust": 'use forklab::Process;\nlet mut child = Process::new(|| println!("child @N@"));\nchild.start()?;\nchild.join()?',
        "python": 'child = Process(target=lambda: print("child @N@"))\nchild.start()\nchild.join()\nchild.exitcode',
    },
    "lesson": {
        "rust": """use forklab::Process;

fn work(n: u32) -> u32 { (1..=n + @N@ % 100).sum() }

let mut children: Vec<Process> =
    (1..=3).map(|n| Process::new(move || println!("child {n}: {}", work(n)))).collect();
for child in &mut children { child.start()?; }
for child in &children { child.join()?; }
println!("{} children, @N@", children.len());""",
        "python": """def work(n): return sum(range(1, n + 1 + @N@ % 100))

children = [Process(target=lambda n=n: print(f"child {n}: {work(n)}")) for n in (1, 2, 3)]
for child in children: child.start()
for child in children: child.join()
print(f"{len(children)} children, @N@")""",
    },
}

COMPLETION = {"rust": '"abc@N@".to_upp', "python": '"abc@N@".upp'}

# 16 MB by one writer: blocks of 64 KiB, lines of 64 bytes. The first line says when the code began to
# run, by the machine's monotonic clock, so that no compilation is in the figure.
BEGIN_RUST = """let now = { let mut now = nix::libc::timespec { tv_sec: 0, tv_nsec: 0 };
    unsafe { nix::libc::clock_gettime(nix::libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9 };
println!("begun {now:.6}");
"""
BEGIN_PYTHON = 'print(f"begun {time.monotonic():.6f}")\n'

OUTPUT = {
    "rust": "{ use std::io::Write;\n" + BEGIN_RUST + """
    let block = format!("{}\\n", "x".repeat(63)).repeat(1024);
    let mut out = std::io::stdout().lock();
    for _ in 0..256 { out.write_all(block.as_bytes()).unwrap(); }
    out.flush().unwrap();
}""",
    "python": BEGIN_PYTHON + 'block = ("x" * 63 + "\\n") * 1024\nfor _ in range(256): sys.stdout.write(block)\nsys.stdout.flush()',
}

# And by eight processes at once, 2 MB each.
OUTPUT_BY_EIGHT = {
    "rust": "{ use std::io::Write;\n" + BEGIN_RUST + """
    let mut writers: Vec<forklab::Process> = (0..8).map(|_| forklab::Process::new(|| {
        let block = format!("{}\\n", "x".repeat(63)).repeat(1024);
        let mut out = std::io::stdout().lock();
        for _ in 0..32 { out.write_all(block.as_bytes()).unwrap(); }
        out.flush().unwrap();
    })).collect();
    for writer in &mut writers { writer.start().unwrap(); }
    for writer in &writers { writer.join().unwrap(); }
}""",
    "python": BEGIN_PYTHON + """sys.stdout.flush()
def write():
    block = ("x" * 63 + "\\n") * 1024
    for _ in range(32): sys.stdout.write(block)
    sys.stdout.flush()
writers = [Process(target=write) for _ in range(8)]
for writer in writers: writer.start()
for writer in writers: writer.join()""",
}
OUTPUT_BYTES = 16 << 20


def output_by_eight(megabytes: int) -> dict:
    """As OUTPUT_BY_EIGHT, with so many megabytes in all."""
    return {language: code.replace("0..32", f"0..{2 * megabytes}").replace("range(32)", f"range({2 * megabytes})") for language, code in OUTPUT_BY_EIGHT.items()}

# Says the microseconds of one fork and wait; floor.rs is the same loop in a program of its own.
FORKS = 2000
FORK = {
    "rust": """{
    let begun = std::time::Instant::now();
    for _ in 0..2000 {
        match unsafe { nix::unistd::fork() }.unwrap() {
            nix::unistd::ForkResult::Child => unsafe { nix::libc::_exit(0) },
            nix::unistd::ForkResult::Parent { child } => { nix::sys::wait::waitpid(child, None).unwrap(); }
        }
    }
    println!("{}", begun.elapsed().as_secs_f64() / 2000.0 * 1e6);
}""",
    "python": """begun = time.monotonic()
for _ in range(2000):
    child = os.fork()
    if child == 0: os._exit(0)
    os.waitpid(child, 0)
print((time.monotonic() - begun) / 2000 * 1e6)""",
}

# One of fifty definitions.
DEFINITION = {
    "rust": "fn f@N@(x: i64) -> i64 { x + @N@ }\nlet v@N@ = vec![f@N@(1)];",
    "python": "def f@N@(x): return x + @N@\nv@N@ = [f@N@(1)]",
}

# What the state of a checkpoint is made of, in a cell: @N@ MB, every page touched.
STATE = "let state: Vec<u8> = vec![1; @N@ << 20];"
