//! Records of runs that nobody has run, for tests and for pictures.

use forklab_record::*;

/// Microseconds.
pub const US: Nanoseconds = 1_000;
/// Milliseconds.
pub const MS: Nanoseconds = 1_000_000;
/// Seconds.
pub const S: Nanoseconds = 1_000_000_000;
/// The cell's own process.
pub const P: Pid = 4711;
/// Who adopts orphans: no process of the cell.
pub const SUPERVISOR: Pid = 4700;

/// A record to which things happen one by one.
pub struct Invention(Record);

impl Invention {
    /// Only the cell's own process.
    pub fn new(execution: u32) -> Self {
        let mut record = Record { execution, started: 1_750_000_000.0, ..Record::default() };
        record.processes.push(process(P, "P", None, 0));
        Invention(record)
    }

    pub fn event(&mut self, at: Nanoseconds, pid: Pid, what: What) -> &mut Self {
        self.0.events.push(Event { at, pid, what });
        self
    }

    pub fn of(&mut self, pid: Pid) -> &mut Process {
        self.0.processes.iter_mut().rev().find(|process| process.pid == pid).expect("a process of the invention")
    }

    pub fn fork(&mut self, at: Nanoseconds, parent: Pid, child: Pid) -> &mut Self {
        let role = format!("C{}", self.0.processes.len());
        self.0.processes.push(process(child, &role, Some(parent), at));
        self.event(at, parent, What::Forked(child))
    }

    pub fn exec(&mut self, at: Nanoseconds, pid: Pid, command: &str) -> &mut Self {
        self.of(pid).programs.push((at, command.to_owned()));
        self.event(at, pid, What::Execed(command.to_owned()))
    }

    pub fn end(&mut self, at: Nanoseconds, pid: Pid, status: Status) -> &mut Self {
        self.of(pid).ended = Some((at, status));
        self.event(at, pid, What::Ended(status))
    }

    pub fn exit(&mut self, at: Nanoseconds, pid: Pid) -> &mut Self {
        self.end(at, pid, Status::Exited(0))
    }

    pub fn reap(&mut self, at: Nanoseconds, by: Pid, pid: Pid) -> &mut Self {
        self.of(pid).reaped = Some((at, by));
        self.event(at, by, What::Reaped(pid))
    }

    pub fn adopt(&mut self, at: Nanoseconds, pid: Pid, by: Pid) -> &mut Self {
        self.of(pid).adopted = Some((at, by));
        self.event(at, pid, What::Adopted(by))
    }

    pub fn write(&mut self, at: Nanoseconds, pid: Pid, text: &str) -> &mut Self {
        self.event(at, pid, What::Wrote { stream: Stream::Stdout, text: text.to_owned() })
    }

    pub fn complain(&mut self, at: Nanoseconds, pid: Pid, text: &str) -> &mut Self {
        self.event(at, pid, What::Wrote { stream: Stream::Stderr, text: text.to_owned() })
    }

    pub fn signal(&mut self, at: Nanoseconds, from: Pid, to: Pid, signal: i32) -> &mut Self {
        self.event(at, from, What::SignalSent { signal, to });
        self.event(at + 40 * US, to, What::SignalReceived { signal, from: Some(from) })
    }

    pub fn message(&mut self, at: Nanoseconds, from: Pid, later: Nanoseconds, to: Pid, bytes: u64) -> &mut Self {
        let message = self.0.events.len() as u64;
        self.event(at, from, What::Sent { message, bytes });
        self.event(later, to, What::Received { message, bytes })
    }

    pub fn wait(&mut self, from: Nanoseconds, to: Nanoseconds, pid: Pid, on: &str) -> &mut Self {
        self.event(from, pid, What::Blocked(on.to_owned()));
        self.event(to, pid, What::Running)
    }

    pub fn done(&mut self, duration: Nanoseconds) -> Record {
        self.0.duration = duration;
        self.0.events.sort_by_key(|event| event.at);
        self.0.clone()
    }

    pub fn done_as(&mut self, duration: Nanoseconds, ending: Ending) -> Record {
        self.0.ending = ending;
        self.done(duration)
    }

    pub fn gap(&mut self, text: &str) -> &mut Self {
        self.0.gaps.push(text.to_owned());
        self
    }
}

fn process(pid: Pid, role: &str, parent: Option<Pid>, forked: Nanoseconds) -> Process {
    let role = role.to_owned();
    Process { pid, role, parent, adopted: None, forked, programs: Vec::new(), ended: None, reaped: None }
}

/// Five children that work and write, each reaped by the parent.
pub fn five_workers() -> Record {
    let mut it = Invention::new(4);
    for n in 0..5u64 {
        let pid = 4712 + n as Pid;
        let at = (300 + 420 * n) * US;
        it.fork(at, P, pid).write(at + 500 * US, pid, &format!("worker {n} begins\n"));
        it.write(at + (4_000 + 1_700 * ((n * 3) % 5)) * US, pid, &format!("worker {n}: {} primes\n", 17 * n + 4));
        it.exit(at + (5_200 + 1_700 * ((n * 3) % 5)) * US, pid);
    }
    it.wait(2_500 * US, 14 * MS, P, "wait");
    let mut ends: Vec<(Nanoseconds, Pid)> =
        (0..5).map(|n| (it.of(4712 + n).ended.map_or(0, |(at, _)| at), 4712 + n)).collect();
    ends.sort_unstable();
    for (at, pid) in ends {
        it.reap(at + 90 * US, P, pid);
    }
    it.write(14_300 * US, P, "all done\n");
    it.done(14_600 * US)
}

/// Lesson 3: a child that is a zombie for three seconds.
pub fn zombie() -> Record {
    let mut it = Invention::new(3);
    it.fork(210 * US, P, 4712).write(480 * US, 4712, "I am the child, and I leave\n").end(
        620 * US,
        4712,
        Status::Exited(3),
    );
    it.write(700 * US, P, "I sleep\n").wait(730 * US, 3 * S + 800 * US, P, "sleep");
    it.fork(3 * S + 900 * US, P, 4713).exec(3 * S + 1_500 * US, 4713, "/usr/bin/ps -o pid,stat,cmd");
    it.write(3 * S + 9 * MS, 4713, "  PID STAT CMD\n 4712 Z    [forklab] <defunct>\n");
    it.exit(3 * S + 10 * MS, 4713).wait(3 * S + 1100 * US, 3 * S + 10_100 * US, P, "wait").reap(
        3 * S + 10_100 * US,
        P,
        4713,
    );
    it.reap(3 * S + 10_400 * US, P, 4712).write(3 * S + 10_800 * US, P, "reaped: exit 3\n");
    it.done(3 * S + 11 * MS)
}

/// Two processes that talk over a pipe.
pub fn pipe_talk() -> Record {
    let mut it = Invention::new(12);
    it.fork(150 * US, P, 4712);
    for n in 0..6u64 {
        let at = (600 + 700 * n) * US;
        it.message(at, P, at + 130 * US, 4712, 12 + n).message(at + 330 * US, 4712, at + 420 * US, P, 40);
        it.wait(at + 30 * US, at + 420 * US, P, "read").wait(at + 350 * US, at + 800 * US, 4712, "read");
        it.write(at + 480 * US, P, &format!("answer {n}: {}\n", n * n));
    }
    it.exit(5_100 * US, 4712).reap(5_180 * US, P, 4712);
    it.done(5_300 * US)
}

/// Signals, stops, a handler, an orphan, an exec'd pipeline, and a process that outlives the cell.
pub fn signals() -> Record {
    let mut it = Invention::new(9);
    it.fork(MS, P, 4712).fork(2 * MS, P, 4713).fork(3 * MS, 4713, 4714).fork(5 * MS, P, 4715);
    it.write(6 * MS, 4712, "I handle SIGUSR1 <b>&amp;</b> \"so\" 🦀\n").signal(10 * MS, P, 4712, 10);
    it.write(10_400 * US, 4712, "got it\n").signal(16 * MS, P, 4712, 19).event(16_100 * US, 4712, What::Stopped(19));
    it.signal(28 * MS, P, 4712, 18).event(28_100 * US, 4712, What::Continued);
    it.event(34 * MS, P, What::SignalSent { signal: 9, to: 4712 }).end(34_050 * US, 4712, Status::Killed(9));
    it.complain(35 * MS, P, "killed the first\n").reap(40 * MS, P, 4712);
    it.exit(12 * MS, 4713).adopt(12 * MS, 4714, SUPERVISOR).reap(30 * MS, P, 4713);
    it.write(13 * MS, 4714, "who is my parent?\n").write(60 * MS, 4714, "still there\n").exit(72 * MS, 4714).reap(
        72_100 * US,
        SUPERVISOR,
        4714,
    );
    it.exec(7 * MS, 4715, "/bin/sh -c 'ls | wc -l'").fork(9 * MS, 4715, 4716).fork(9_500 * US, 4715, 4717);
    it.exec(11 * MS, 4716, "/usr/bin/ls").exec(11_400 * US, 4717, "/usr/bin/wc -l").exit(19 * MS, 4716).write(
        20 * MS,
        4717,
        "42\n",
    );
    it.exit(20_300 * US, 4717)
        .reap(19_200 * US, 4715, 4716)
        .reap(20_400 * US, 4715, 4717)
        .end(21 * MS, 4715, Status::Exited(1))
        .reap(44 * MS, P, 4715);
    it.gap("When a process was reaped is known to 10 ms.");
    it.done(50 * MS)
}

/// A hundred children at once.
pub fn hundred() -> Record {
    crowd(100)
}

/// Children that all do the same, but for the second.
pub fn crowd(count: i32) -> Record {
    let mut it = Invention::new(21);
    for n in 0..count {
        let (pid, at) = (4712 + n, (200 + 90 * n as u64) * US);
        it.fork(at, P, pid).write(at + 700 * US, pid, "here\n");
        let status = if n == 1 { Status::Killed(11) } else { Status::Exited(0) };
        it.end(at + (4_000 + 37 * (n as u64 * 7919 % 100)) * US, pid, status);
    }
    let last = (200 + 90 * count as u64) * US;
    for n in 0..count {
        let ended = it.of(4712 + n).ended.map_or(0, |(at, _)| at);
        it.reap(ended.max(last + 30 * US * n as u64) + 20 * US, P, 4712 + n);
    }
    it.done(last + 9 * MS + 30 * US * count as u64)
}

/// Forty children, each with another program and end: nothing to put together.
pub fn forty() -> Record {
    let mut it = Invention::new(22);
    for n in 0..40 {
        let (pid, at) = (4712 + n, (200 + 300 * n as u64) * US);
        it.fork(at, P, pid).exec(at + 400 * US, pid, &format!("/opt/bin/program-{n}"));
        it.end(at + 3 * MS, pid, Status::Exited(n)).reap(at + (3_300 + 50 * n as u64) * US, P, pid);
    }
    it.done(20 * MS)
}

/// Ten thousand pieces of output and messages.
pub fn ten_thousand() -> Record {
    let mut it = Invention::new(30);
    for n in 0..4 {
        it.fork((100 + n) * US * 10, P, 4712 + n as Pid);
    }
    for n in 0..10_000u64 {
        let (pid, at) = (4712 + (n * 7 % 4) as Pid, 2 * MS + n * 23 * US + (n * n) % 17 * US);
        match n % 10 {
            0 => it.message(at, pid, at + 30 * US, P, n),
            1 => it.complain(at, pid, "warning: \u{1b}[31mred\u{1b}[0m\n"),
            2 => it.wait(at, at + 9 * US, pid, "write"),
            _ => it.write(at, pid, &format!("line {n} of many, {}\n", "long ".repeat(30))),
        };
    }
    for n in 0..4 {
        it.exit((240 + n) * MS, 4712 + n as Pid).reap((245 + n) * MS, P, 4712 + n as Pid);
    }
    it.done(250 * MS)
}

/// Sleeps of seconds, with microseconds of work between them.
pub fn sleepers() -> Record {
    let mut it = Invention::new(31);
    it.fork(100 * US, P, 4712).fork(180 * US, P, 4713).wait(250 * US, 2 * S + 400 * US, P, "wait");
    it.wait(300 * US, S, 4712, "sleep").wait(320 * US, 2 * S, 4713, "sleep");
    it.write(S + 50 * US, 4712, "one second\n").exit(S + 90 * US, 4712).reap(S + 140 * US, P, 4712);
    it.write(2 * S + 50 * US, 4713, "two seconds\n").exit(2 * S + 90 * US, 4713).reap(2 * S + 140 * US, P, 4713);
    it.done(2 * S + 500 * US)
}

/// Nothing but the cell's own process, which dies.
pub fn alone() -> Record {
    let mut it = Invention::new(1);
    it.write(20 * US, P, "hello\n").end(90 * US, P, Status::Killed(11));
    it.done_as(95 * US, Ending::Died(Status::Killed(11)))
}

/// Each process forks the next.
pub fn chain(count: i32) -> Record {
    let mut it = Invention::new(40);
    for n in 0..count {
        it.fork(MS + n as u64 * 50 * US, P + n, P + n + 1);
    }
    for n in (1..=count).rev() {
        let at = MS + (2 * count - n) as u64 * 50 * US;
        it.exit(at, P + n).reap(at + 20 * US, P + n - 1, P + n);
    }
    it.done(2 * MS + 100 * US * count as u64)
}

/// All of them, with names.
pub fn all() -> Vec<(&'static str, Record)> {
    vec![
        ("five-workers", five_workers()),
        ("zombie", zombie()),
        ("pipe-talk", pipe_talk()),
        ("signals", signals()),
        ("hundred", hundred()),
        ("forty", forty()),
        ("ten-thousand", ten_thousand()),
        ("sleepers", sleepers()),
        ("alone", alone()),
        ("chain", chain(12)),
        ("long-chain", chain(200)),
        ("thousand", crowd(1_000)),
        ("empty", Record::default()),
    ]
}
