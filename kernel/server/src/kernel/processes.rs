//! What a person asks and orders about processes: `%ps`, `%kill`, `%checkpoint`, `%%wait`.

use std::fmt::Write;
use std::time::{Duration, Instant};

use forklab_worker::messages::{CellId, Limit, ProcessId, ProcessInfo, Reached, Scope, ToSupervisor};

use super::execution::Stage;
use super::magics::{LineMagic, Who};
use super::{Kernel, report};

/// How long a cell waits for its processes when `NBGRADER_EXECUTION` is set and it says nothing else.
pub const GRADED_WAIT: Duration = Duration::from_secs(10);

/// A cell that waits for no time at all waits for the answer whether there is anybody.
const LEAST_WAIT: Duration = Duration::from_millis(50);

/// What has become of a cell whose processes were ended for a limit while it waited for them.
pub const ENDED_WHILE_WAITING: &str = "its processes were ended while it waited for them; the cell's own code had come to its end, and what it defined is kept";

impl Kernel {
    /// Does what a line magic says. The answer of the supervisor moves the cell on, where it is asked.
    pub(super) fn line_magic(&mut self, magic: &LineMagic) {
        let question = match magic {
            LineMagic::Ps => ToSupervisor::ListProcesses,
            LineMagic::Kill(Who::All) => ToSupervisor::Kill { pids: None },
            LineMagic::Kill(Who::Pids(pids)) => {
                ToSupervisor::Kill { pids: Some(pids.iter().copied().map(ProcessId).collect()) }
            }
            LineMagic::Checkpoint(wanted) => {
                self.checkpoints = wanted.unwrap_or(self.checkpoints);
                let text = if self.checkpoints {
                    "checkpoints are on: a cell that crashes or is interrupted leaves the variables as they were\n"
                } else {
                    "checkpoints are off: a cell that crashes or is interrupted takes all variables along\n"
                };
                return self.say_and_go_on(text);
            }
            LineMagic::Timeline => return self.timeline(),
            LineMagic::Export(export) => return self.export(export),
            LineMagic::Record(wanted) => return self.record(*wanted),
            LineMagic::LsMagic | LineMagic::Help(_) => {
                let text = magic.text().unwrap_or_default();
                return self.say_and_go_on(&format!("{}\n", text.trim_end()));
            }
        };
        if let Some(running) = &mut self.running {
            running.stage = Stage::Asking;
        }
        if let Err(error) = self.far.send(&question) {
            // It has ended; that is the next event, and finds the cell in its stage.
            tracing::warn!(%error, "the supervisor cannot be asked");
        }
    }

    pub(super) fn say_and_go_on(&mut self, text: &str) {
        self.say(text);
        if let Some(running) = &mut self.running {
            running.stage = Stage::Between;
        }
        self.advance();
    }

    /// Text of the kernel's own among the running cell's output.
    pub(super) fn say(&mut self, text: &str) {
        let Some(cell) = self.running_cell() else { return };
        self.deliver_all(cell);
        if let Some(live) = self.outputs.get_mut(&cell) {
            live.output.insert(text);
        }
    }

    fn is_asking(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.stage == Stage::Asking)
    }

    /// The answer to `%ps`.
    pub(super) fn on_processes(&mut self, processes: &[ProcessInfo]) {
        if self.is_asking() {
            let text = self.table(processes);
            self.say_and_go_on(&text);
        }
    }

    fn table(&self, processes: &[ProcessInfo]) -> String {
        if processes.is_empty() {
            return format!("no processes but the notebook's own ({})\n", self.worker);
        }
        let mut text = format!("{:>7} {:>7}  {:<9} {:<6} {:>8}  COMMAND\n", "PID", "PARENT", "STATE", "CELL", "AGE");
        for process in processes {
            let parent = match process.parent.0 {
                pid if pid == self.far.pid() => "orphan".to_owned(),
                pid => pid.to_string(),
            };
            let cell = process.cell.and_then(|cell| self.executions.get(&cell));
            let cell = cell.map_or_else(|| "?".to_owned(), |execution| format!("[{execution}]"));
            let (pid, state, age) = (process.pid.0, state(process.state), age(process.age));
            // Writing to a string does not fail.
            let _ = writeln!(text, "{pid:>7} {parent:>7}  {state:<9} {cell:<6} {age:>8}  {}", process.command);
        }
        // As above.
        let _ = writeln!(text, "The notebook's own process is {}; the cells' processes are its children.", self.worker);
        text
    }

    /// The answer to `%kill`.
    pub(super) fn on_killed(&mut self, pids: &[ProcessId], strangers: &[ProcessId]) {
        if !self.is_asking() {
            return;
        }
        let list = |pids: &[ProcessId]| pids.iter().map(|pid| pid.0.to_string()).collect::<Vec<_>>().join(", ");
        let text = match pids.len() {
            0 if !strangers.is_empty() => String::new(),
            0 => "no process was ended\n".to_owned(),
            1 => format!("ended process {}\n", list(pids)),
            more => format!("ended {more} processes: {}\n", list(pids)),
        };
        self.say(&text);
        if !strangers.is_empty() {
            let error = report::strangers(&list(strangers), strangers.iter().any(|pid| pid.0 == self.worker));
            if let Some(running) = &mut self.running {
                running.error.get_or_insert(error);
            }
        }
        self.say_and_go_on("");
    }

    /// The cell's code is done, and the cell waits for the processes that it has started.
    pub(super) fn await_processes(&mut self, most: Option<Duration>) {
        let Some(running) = &mut self.running else { return };
        running.stage = Stage::Waiting;
        let now = Instant::now();
        // Where there is nobody to wait for, the supervisor says so first.
        let wanted = most.and_then(|most| now.checked_add(most.max(LEAST_WAIT)));
        // Waiting is the cell's time, too.
        let begun = running.begun.unwrap_or(now);
        let limit = running.limits.time.and_then(|most| begun.checked_add(most)).map(|end| end.max(now));
        running.wait_until = [wanted, limit].into_iter().flatten().min();
        running.wait_limited = limit.is_some() && running.wait_until == limit;
        if let Err(error) = self.far.send(&ToSupervisor::Await { cell: running.cell }) {
            tracing::warn!(%error, "the supervisor cannot be asked");
        }
    }

    /// When the running cell's patience with its processes ends.
    pub(super) fn end_of_wait(&self) -> Option<Instant> {
        self.running.as_ref().filter(|running| running.stage == Stage::Waiting)?.wait_until
    }

    /// Ends the wait when its time has come; the processes go on.
    pub(super) fn look_at_wait(&mut self, now: Instant) {
        if self.end_of_wait().is_some_and(|end| end <= now) {
            if self.running.as_ref().is_some_and(|running| running.wait_limited) {
                return self.end_wait_for_limit();
            }
            self.say("\n[forklab: the cell waits no longer for its processes; they go on: %ps shows them]\n");
            self.finish();
        }
    }

    /// The cell's time is up while it waits: its processes are ended, and that they are gone ends the cell.
    fn end_wait_for_limit(&mut self) {
        let reached = Reached { limit: Limit::Time, scope: Scope::Cell };
        let Some(running) = &mut self.running else { return };
        running.wait_until = None;
        let (cell, limits) = (running.cell, running.limits);
        let error = self.over_limit(reached, &limits, ENDED_WHILE_WAITING);
        if let Some(running) = &mut self.running {
            running.error.get_or_insert(error);
        }
        if let Err(error) = self.far.send(&ToSupervisor::EndCell { cell, reached }) {
            tracing::warn!(%error, "the supervisor ended before it could end a cell's processes");
        }
    }

    /// No process lives any more that a cell has started.
    pub(super) fn on_gone(&mut self, cell: CellId) {
        let Some(running) = &mut self.running else { return };
        if running.stage != Stage::Waiting || running.cell != cell {
            return;
        }
        if running.interrupted {
            running.error.get_or_insert(report::wait_interrupted());
        }
        self.finish();
    }
}

/// The states of proc_pid_stat(5) in words.
fn state(letter: char) -> String {
    match letter {
        'R' => "running",
        'S' | 'I' => "sleeping",
        'D' => "disk wait",
        'T' => "stopped",
        't' => "traced",
        'Z' => "zombie",
        'X' | 'x' => "dead",
        other => return other.to_string(),
    }
    .to_owned()
}

fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..60 => format!("{:.1} s", age.as_secs_f64()),
        60..3600 => format!("{}:{:02}", seconds / 60, seconds % 60),
        _ => format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_short() {
        let ages = [0.04, 59.9, 61.0, 3725.0].map(|seconds| age(Duration::from_secs_f64(seconds)));
        assert_eq!(ages, ["0.0 s", "59.9 s", "1:01", "1:02:05"]);
    }
}
