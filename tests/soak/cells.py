"""The soak's cells: each is code, what it must come to, and what it does to the variables.

A model of the variables goes beside the kernel's: a cell that commits applies its `effect` to it, a
cell that is rolled back does not. Everything is drawn from one seeded generator.
"""

import random
from dataclasses import dataclass, field
from typing import Callable

# After these, the function had returned: what the cell did to earlier variables stays done.
RETURNED = ("ok", "Panic", "Error", "InputRefused")

# How `linger` of prelude.rs leaves processes behind. A process in the worker's own process group gets
# SIGHUP when its session leader dies; these are in a session of their own, or deaf to it.
SURE = [1, 1 | 2, 1 | 8, 1 | 2 | 4, 1 | 4 | 8, 4, 1 | 2 | 8, 1 | 16, 2 | 4]
UNSURE = [0, 2, 8, 16]


@dataclass
class Cell:
    kind: str
    code: str
    ends: tuple = ("ok",)
    effect: Callable = lambda model: None
    needs: dict = field(default_factory=dict)
    # Must be the whole of stdout, or be its length, where not None.
    prints: object = None
    # None; or ("seen", text, delay) or ("sent", delay): when the person presses the stop button.
    interrupt: tuple | None = None
    # A process of this cell may end the worker at a later moment.
    killer: bool = False
    # The left-over processes that it ends.
    kills: tuple = ()
    # Of a cell that ended well: looks at what it printed, and returns what is wrong.
    check: Callable = lambda stdout: None

    def may_run(self, model: dict) -> bool:
        return all(model.get(name, (None,))[0] == kind for name, kind in self.needs.items())


# --- values -------------------------------------------------------------------------------------

ARC = "std::sync::Arc<std::sync::Mutex<i64>>"
TYPES = ["i64", "String", "Vec<i64>", "BTreeMap<i64, String>", "(i64, String)", "Spot", "Option<Box<i64>>", ARC]


def text(rng) -> str:
    return "".join(rng.choice("abcdefghijklmnop ñ€") for _ in range(rng.randint(0, 12)))


def value(rng, kind):
    n = rng.randint(-10**6, 10**6)
    return {
        "i64": lambda: n,
        "String": lambda: text(rng),
        "Vec<i64>": lambda: [rng.randint(0, 99) for _ in range(rng.randint(1, 5))],
        "BTreeMap<i64, String>": lambda: {rng.randint(0, 9): text(rng) for _ in range(rng.randint(1, 4))},
        "(i64, String)": lambda: (n, text(rng)),
        "Spot": lambda: (n, text(rng)),
        "Option<Box<i64>>": lambda: rng.choice([None, n]),
        ARC: lambda: n,
    }[kind]()


def literal(kind, v) -> str:
    quoted = lambda s: f'"{s}".to_owned()'
    return {
        "i64": lambda: f"{v}i64",
        "String": lambda: quoted(v),
        "Vec<i64>": lambda: f"vec!{v}",
        "BTreeMap<i64, String>": lambda: "BTreeMap::from([" + ", ".join(f"({k}i64, {quoted(s)})" for k, s in v.items()) + "])",
        "(i64, String)": lambda: f"({v[0]}i64, {quoted(v[1])})",
        "Spot": lambda: f"Spot {{ x: {v[0]}, label: {quoted(v[1])} }}",
        "Option<Box<i64>>": lambda: "None" if v is None else f"Some(Box::new({v}i64))",
        ARC: lambda: f"std::sync::Arc::new(std::sync::Mutex::new({v}i64))",
    }[kind]()


def debug(kind, v) -> str:
    """As `{:?}` shows it."""
    quoted = lambda s: f'"{s}"'
    return {
        "i64": lambda: str(v),
        "String": lambda: quoted(v),
        "Vec<i64>": lambda: str(v),
        "BTreeMap<i64, String>": lambda: "{" + ", ".join(f"{k}: {quoted(v[k])}" for k in sorted(v)) + "}",
        "(i64, String)": lambda: f"({v[0]}, {quoted(v[1])})",
        "Spot": lambda: f"Spot {{ x: {v[0]}, label: {quoted(v[1])} }}",
        "Option<Box<i64>>": lambda: "None" if v is None else f"Some({v})",
        ARC: lambda: f"Mutex {{ data: {v}, poisoned: false, .. }}",
    }[kind]()


def change(rng, name, kind):
    """Code that changes a variable, and the function from its old value to its new one."""
    n, s = rng.randint(1, 99), text(rng)
    return {
        "i64": (f"{name} += {n};", lambda v: v + n),
        "String": (f'{name}.push_str("{s}");', lambda v: v + s),
        "Vec<i64>": (f"{name}.push({n});", lambda v: [*v, n]),
        "BTreeMap<i64, String>": (f'{name}.insert({n}, "{s}".to_owned());', lambda v: {**v, n: s}),
        "(i64, String)": (f"{name}.0 -= {n};", lambda v: (v[0] - n, v[1])),
        "Spot": (f'{name}.label = "{s}".to_owned();', lambda v: (v[0], s)),
        "Option<Box<i64>>": (f"{name} = Some(Box::new({n}));", lambda v: n),
        ARC: (f"*{name}.lock().unwrap() -= {n};", lambda v: v - n),
    }[kind]


def show_all(model: dict) -> tuple:
    """Code that prints every variable, and what it must print."""
    code = "".join(f'println!("{name}={{:?}}", {name});\n' for name in model) or "println!();"
    said = "".join(f"{name}={debug(*model[name])}\n" for name in model) or "\n"
    return code, said


# --- cells --------------------------------------------------------------------------------------


class Author:
    """Writes cells for a model. Each kind is a method; its weight stands in KINDS."""

    def __init__(self, rng: random.Random, model: dict, left=()):
        self.rng, self.model, self.left = rng, model, sorted(left)

    def write(self, kind: str) -> Cell:
        cell = getattr(self, kind)()
        cell.kind = kind
        return cell

    def draw(self) -> Cell:
        names = list(KINDS)
        return self.write(self.rng.choices(names, [KINDS[name] for name in names])[0])

    # Parts

    def some(self, count=1) -> list:
        names = sorted(self.model)
        return self.rng.sample(names, min(count, len(names)))

    def changes(self, most=2):
        """Changes to earlier variables: code, effect, needs."""
        parts = [(name, *change(self.rng, name, self.model[name][0])) for name in self.some(self.rng.randint(0, most))]

        def effect(model):
            for name, _, function in parts:
                kind, old = model[name]
                model[name] = (kind, function(old))

        needs = {name: self.model[name][0] for name, _, _ in parts}
        return "\n".join(code for _, code, _ in parts) + "\n", effect, needs

    def definition(self, without=()):
        """A variable, new or redefined, perhaps with another type, but none of some: code and effect."""
        names = [name for name in (f"v{n}" for n in range(12)) if name not in without]
        name, kind = self.rng.choice(names), self.rng.choice(TYPES)
        v = value(self.rng, kind)
        return f"let mut {name}: {kind} = {literal(kind, v)};\n", lambda model: model.update({name: (kind, v)})

    def leftover(self, chance=0.4) -> str:
        """Perhaps leaves processes behind, and says their pids: `left PID HOW`."""
        code = ""
        while self.rng.random() < chance and code.count("linger") < 3:
            how = self.rng.choice(SURE * 2 + UNSURE)
            code += f'println!("left {{}} {how}", linger({how}));\n'
        return code

    def fatal(self, end: str, ename: str) -> Cell:
        """Changes, definitions and processes, and then an end that takes all of it back."""
        code, _, needs = self.changes()
        if self.rng.random() < 0.5:
            code += self.definition()[0].replace("let mut v", "let mut _lost_v")
        if self.rng.random() < 0.2:
            code += f"flood({self.rng.randint(1, 300_000)});\n"
        code += self.leftover() + end
        return Cell("", code, (ename,), needs=needs)

    # Cells that commit

    def define(self):
        code, effect = self.definition()
        return Cell("", code, effect=effect)

    def modify(self):
        code, effect, needs = self.changes(3)
        shown = [f'println!("{{:?}}", {name});\n' for name in needs]
        after = dict(self.model)
        effect(after)
        said = "".join(debug(*after[name]) + "\n" for name in needs)
        # What it prints depends on the values before it, so only its effect holds when it runs again.
        return Cell("", code + "".join(shown), effect=effect, needs=needs, prints=("once", said))

    def move(self):
        if not self.model:
            return self.define()
        (name,) = self.some()
        kind = self.model[name][0]
        target = f"m{self.rng.randint(0, 3)}"
        if target == name:
            return self.define()

        def effect(model):
            model[target] = model.pop(name) if kind != "i64" else model[name]

        return Cell("", f"let mut {target} = {name};", effect=effect, needs={name: kind})

    def item(self):
        n, name = self.rng.randint(0, 999), f"f{self.rng.randint(0, 5)}"
        code = f"fn {name}(x: i64) -> i64 {{ x * {n} }}\nprintln!(\"{{}}\", {name}(3));"
        return Cell("", code, prints=f"{3 * n}\n")

    def result(self):
        n = self.rng.randint(0, 999)
        return Cell("", f"{n} + 1")

    def good_question(self):
        n = self.rng.randint(0, 999)
        return Cell("", f'let parsed = "{n}".parse::<i64>()?;\nprintln!("{{parsed}}");', prints=f"{n}\n")

    def children(self):
        code, effect, needs = self.changes()
        statuses = [self.rng.randint(0, 60) for _ in range(self.rng.randint(1, 6))]
        for status in statuses:
            code += f"let c = child(|| unsafe {{ libc::_exit({status}) }});\n"
            code += f"assert_eq!(waitpid(c, None).unwrap(), WaitStatus::Exited(c, {status}));\n"
        return Cell("", f"{code}let _ = c;\nprintln!(\"all\");", effect=effect, needs=needs, prints="all\n")

    def child_falls_off(self):
        """The child runs to the cell's end, with a change of its own that nobody may see."""
        code, effect, needs = self.changes()
        lost, _, more = self.changes()
        code += f"match unsafe {{ fork() }}.unwrap() {{\nForkResult::Child => {{ {lost} }}\n"
        code += 'ForkResult::Parent { child } => println!("{:?}", waitpid(child, None).unwrap() == WaitStatus::Exited(child, 0)),\n}'
        return Cell("", code, effect=effect, needs={**needs, **more}, prints="true\n")

    def child_panics(self):
        code = 'match unsafe { fork() }.unwrap() {\nForkResult::Child => panic!("in the child"),\n'
        code += 'ForkResult::Parent { child } => println!("{:?}", waitpid(child, None).unwrap() == WaitStatus::Exited(child, 101)),\n}'
        return Cell("", code, prints="true\n")

    def leave(self):
        code, effect, needs = self.changes()
        return Cell("", self.leftover(0.7) + code, effect=effect, needs=needs)

    def leave_by_shell(self):
        return Cell("", "!setsid sleep 1000 & echo left $! 1")

    def reap(self):
        code = "loop { match waitpid(None, Some(WaitPidFlag::WNOHANG)) { Ok(WaitStatus::StillAlive) | Err(_) => break, Ok(_) => {} } }"
        return Cell("", code)

    def write_much(self):
        count, each = self.rng.choice([1, 1, 2, 8]), self.rng.randint(1, 2_000_000)
        if count == 1:
            return Cell("", f"flood({each});", prints=each)
        code = f"let writers: Vec<Pid> = (0..{count}).map(|_| child(|| flood({each}))).collect();\n"
        code += "for writer in writers { waitpid(writer, None).unwrap(); }"
        return Cell("", code, prints=count * each)

    def thread_panics(self):
        code = 'let ended = std::thread::spawn(|| { if getpid().as_raw() > 0 { panic!("in a thread") } }).join().is_err();\n'
        return Cell("", code + 'println!("{ended}");', prints="true\n")

    def scripted(self):
        word = self.rng.choice("abcdef") * self.rng.randint(1, 9)
        name = f"s{self.rng.randint(0, 2)}"
        code = f'%%stdin "{word}"\nlet mut {name}: String = asked();'
        return Cell("", code, effect=lambda model: model.update({name: ("String", word)}))

    def shell(self):
        n = self.rng.randint(0, 99)
        return Cell("", f"!echo {n}; kill -9 $$", prints=f"{n}\n")

    def killer(self):
        """A process that ends the worker some time later, between two cells or in one."""
        pause = self.rng.randint(0, 700)
        code = "let target = getpid();\nlet killer = child(|| {\n"
        code += f"std::thread::sleep(std::time::Duration::from_millis({pause}));\nlet _ = kill(target, Signal::SIGKILL);\n}});\n"
        code += 'println!("killer {killer}");'
        # It may be done before its own cell is.
        return Cell("", code, ("ok", "SIGKILL"), killer=True)

    def waits(self):
        """Children that write when the cell's function has returned."""
        count = self.rng.randint(1, 5)
        code = f"%%wait\nfor n in 0..{count} {{ child(|| {{ std::thread::sleep(std::time::Duration::from_millis(40)); flood(64); }}); }}"
        return Cell("", code, prints=64 * count)

    def ps(self):
        missing = lambda said: [pid for pid in self.left if str(pid) not in said.split()]
        return Cell("", "%ps", check=lambda said: f"%ps does not show {missing(said)}" if missing(said) else None)

    def kill_one(self):
        if not self.left:
            return self.ps()
        pid = self.rng.choice(self.left)
        return Cell("", f"%kill {pid}", kills=(pid,))

    def kill_all(self):
        return Cell("", "%kill all", kills=tuple(self.left))

    def refused_forks(self):
        """More forks than the limit has room for: EAGAIN, and nothing else."""
        most = self.rng.randint(3, 30)
        code = f"%%limit procs={most}\nlet mut made = Vec::new();\n"
        code += f"for _ in 0..{most + 5} {{ match unsafe {{ fork() }} {{ Ok(ForkResult::Child) => loop {{ pause(); }},\n"
        code += "Ok(ForkResult::Parent { child }) => made.push(child), Err(error) => assert_eq!(error, nix::errno::Errno::EAGAIN) } }\n"
        code += 'println!("{}", made.len());\n'
        code += "for child in made.drain(..) { kill(child, Signal::SIGKILL).unwrap(); waitpid(child, None).unwrap(); }\ndrop(made);"
        # A watchdog, where there is no control group, may be a few late.
        wrong = lambda said: None if most <= int(said) <= most + 5 else f"{said} processes under a limit of {most}"
        return Cell("", code, check=wrong)

    # Cells that reach a limit

    def limited(self, limit: str, end: str) -> Cell:
        code, _, needs = self.changes()
        return Cell("", f"%%limit {limit}\n{code}{self.leftover(0.2)}{end}", ("LimitReached",), needs=needs)

    def too_long(self):
        return self.limited("time=1s", self.rng.choice(["loop { pause(); }", "loop { std::hint::spin_loop() }"]))

    def too_busy(self):
        return self.limited("cpu=500ms", "loop { std::hint::spin_loop() }")

    def too_large(self):
        return self.limited("mem=400M", "let mut all = Vec::new();\nloop { all.push(std::hint::black_box(vec![1u8; 1 << 20])); }")

    def too_loud(self):
        return self.limited("output=1M", "flood(40 << 20);\nloop { pause(); }")

    def bomb(self):
        return self.limited("procs=60", "loop { let _ = unsafe { fork() }; }")

    # Cells that end in an error and keep what they did

    def panic(self):
        code, effect, needs = self.changes()
        return Cell("", code + self.leftover(0.2) + 'if getpid().as_raw() > 0 { panic!("on purpose") }', ("Panic",), effect, needs)

    def question(self):
        code, effect, needs = self.changes()
        return Cell("", code + '"no number".parse::<i64>()?;', ("Error",), effect, needs)

    def reads(self):
        code, effect, needs = self.changes()
        how = self.rng.choice(["assert_eq!(asked(), \"\");", 'let c = child(|| { asked(); });\nwaitpid(c, None).unwrap();\nlet _ = c;'])
        return Cell("", code + how, ("InputRefused",), effect, needs)

    # Cells that leave no trace

    def compile_error(self):
        code, _, needs = self.changes()
        wrong = ["let n: i64 = \"text\";", "no_such_function();", "let x = ;", "let s = String::new(); drop(s); drop(s);", "struct Bad { a: NoSuch }"]
        return Cell("", code + self.rng.choice(wrong), ("CompileError",), needs=needs)

    def ghost(self):
        """A variable of a cell that was rolled back."""
        return Cell("", f'println!("{{:?}}", _lost_v{self.rng.randint(0, 11)});', ("CompileError",))

    def segfault(self):
        return self.fatal("unsafe { *std::hint::black_box(8 as *mut i32) = 1 };", "SIGSEGV")

    def abort(self):
        return self.fatal("std::process::abort();", "SIGABRT")

    def overflow(self):
        return self.fatal("println!(\"{}\", deeper(0));", "SIGABRT")

    def exits(self):
        return self.fatal(f"std::process::exit({self.rng.choice([0, 1, 3, 101, 255])});", "Exit")

    def exits_now(self):
        return self.fatal(f"unsafe {{ libc::_exit({self.rng.choice([0, 70, 7])}) }};", "Exit")

    def kills_itself(self):
        # Not SIGSEGV or SIGBUS: std has handlers for those, which return when nothing has faulted.
        signal = self.rng.choice(["SIGKILL", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGQUIT", "SIGFPE"])
        return self.fatal(f"raise(Signal::{signal}).unwrap();", signal)

    def killed_by_child(self):
        code = "let target = getpid();\nlet _ = child(|| { kill(target, Signal::SIGKILL).unwrap(); });\nloop { pause(); }"
        return self.fatal(code, "SIGKILL")

    def killed_by_orphan(self):
        code = "let target = getpid();\nlet _ = child(|| { setsid().unwrap(); child(|| { kill(target, Signal::SIGKILL).unwrap(); }); });\nloop { pause(); }"
        return self.fatal(code, "SIGKILL")

    def group_killed(self):
        return self.fatal("unsafe { libc::kill(0, libc::SIGKILL) };\nloop { pause(); }", "SIGKILL")

    def thread_crashes(self):
        return self.fatal("std::thread::spawn(|| unsafe { *std::hint::black_box(8 as *mut i32) = 1 }).join().unwrap();", "SIGSEGV")

    def becomes_another(self):
        return self.fatal('nix::unistd::execv(c"/bin/true", &[c"true"]).unwrap();', "Exit")

    # Cells that the person stops

    def interrupted(self):
        code, _, needs = self.changes()
        ends = [
            "loop { std::hint::spin_loop() }",
            "loop { pause(); }",
            "let c = child(|| loop { pause(); });\nwaitpid(c, None).unwrap();",
            "unsafe { signal(Signal::SIGINT, SigHandler::SigIgn) }.unwrap();\nloop { std::hint::spin_loop() }",
            "loop { flood(1000); std::thread::sleep(std::time::Duration::from_millis(1)) }",
            "loop { let c = child(|| {}); waitpid(c, None).unwrap(); }",
            "raise(Signal::SIGSTOP).unwrap();\nloop { pause(); }",
            "unsafe { libc::system(c\"sleep 1000\".as_ptr()) };\nloop { pause(); }",
        ]
        code += self.leftover() + 'println!("begun");\n' + self.rng.choice(ends)
        return Cell("", code, ("Interrupted",), needs=needs, interrupt=("seen", "begun", self.rng.random() * 0.2))

    def interrupted_shell(self):
        command = self.rng.choice(["sleep 1000", "sleep 1000 & wait", "setsid sleep 1000; sleep 1", "trap '' INT TERM; while :; do :; done"])
        return Cell("", f"!echo begun; {command}", ("Interrupted",), interrupt=("seen", "begun", self.rng.random() * 0.1))

    def interrupted_early(self):
        """At any moment from the request on: while it is compiled, or while it runs."""
        code, _, needs = self.changes()
        fresh = self.rng.randint(0, 10**6)
        code += f"let _unique = {fresh};\nloop {{ pause(); }}"
        return Cell("", code, ("Interrupted",), needs=needs, interrupt=("sent", self.rng.random() * 0.8))

    def interrupted_perhaps(self):
        """A short cell, stopped at any moment: it has happened, or it has not."""
        code, second, needs = self.changes()
        define, first = self.definition(without=needs)

        def effect(model):
            first(model)
            second(model)

        return Cell("", define + code, ("ok", "Interrupted"), effect, needs, interrupt=("sent", self.rng.random() * 1.2))


KINDS = {
    "define": 10, "modify": 10, "move": 4, "item": 3, "result": 2, "good_question": 2, "children": 4,
    "child_falls_off": 4, "child_panics": 2, "leave": 6, "leave_by_shell": 2, "reap": 2, "write_much": 4,
    "thread_panics": 1, "scripted": 3, "shell": 2, "killer": 2,
    "waits": 2, "ps": 2, "kill_one": 3, "kill_all": 1, "refused_forks": 1,
    "too_long": 1, "too_busy": 1, "too_large": 1, "too_loud": 1, "bomb": 1,
    "panic": 4, "question": 3, "reads": 3,
    "compile_error": 5, "ghost": 2, "segfault": 3, "abort": 2, "overflow": 2, "exits": 3, "exits_now": 2,
    "kills_itself": 3, "killed_by_child": 2, "killed_by_orphan": 2, "group_killed": 1, "thread_crashes": 2,
    "becomes_another": 1,
    "interrupted": 6, "interrupted_shell": 2, "interrupted_early": 4, "interrupted_perhaps": 4,
}
