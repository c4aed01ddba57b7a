//! What a person asks of a cell's record: `%%trace`, `%%time`, `%timeline`, `%export`, `%record`.

use std::io;
use std::time::{Duration, Instant};

use forklab_record::{colour, export, trace};
use forklab_worker::messages::Used;
use jupyter_protocol::messaging::DisplayData;
use serde::Serialize;

use super::magics::observe::{Export, Format};
use super::{Kernel, recording, report, show};

impl Kernel {
    /// `%timeline`
    pub(super) fn timeline(&mut self) {
        let Some(record) = self.recording.record() else {
            return self.say_and_go_on("no cell has run yet whose processes could be shown\n");
        };
        if !self.recording.is_recorded() {
            self.say(recording::HOW_TO_RECORD);
        }
        self.display(recording::timeline(&record));
        self.say_and_go_on("");
    }

    /// `%record`
    pub(super) fn record(&mut self, wanted: Option<bool>) {
        self.recording.always = wanted.unwrap_or(self.recording.always);
        let text = if self.recording.always {
            "recording is on: forks, programs, ends and signals of every cell's processes are in its record; \
             strace and gdb cannot follow them\n"
        } else {
            "recording is off: the record of a cell has forks, programs, ends and signals only with %%trace or %%repeat\n"
        };
        self.say_and_go_on(text);
    }

    /// `%export`
    pub(super) fn export(&mut self, export: &Export) {
        match self.written_to(export) {
            Ok(text) => self.say_and_go_on(&text),
            Err(message) => {
                if let Some(running) = &mut self.running {
                    running.error.get_or_insert(report::export(message));
                }
                self.say_and_go_on("");
            }
        }
    }

    fn written_to(&self, export: &Export) -> Result<String, String> {
        let file = show::home_expanded(&export.file);
        let name = file.display();
        match std::fs::metadata(&file) {
            Ok(found) if found.is_dir() => {
                return Err(format!("{name} is a directory; name a file: `%export {name}/run.json`"));
            }
            // A pipe without a reader would stop the kernel.
            Ok(found) if !found.is_file() => return Err(format!("{name} is there and no plain file")),
            _ => {}
        }
        let nothing = || "no cell has run yet, so there is nothing to write".to_owned();
        let (what, bytes) = match export.format {
            Format::Runs => {
                let none =
                    "no cell has been repeated yet, so there is nothing to write; write `%%repeat 100` above one";
                let orders = self.recording.orders.as_ref().ok_or(none)?;
                (orders.summary(), json(&export::runs_json(orders)))
            }
            Format::Record => {
                let record = self.recording.record().ok_or_else(nothing)?;
                (record.summary(), json(&export::json(&record)))
            }
            Format::Chrome => {
                let record = self.recording.record().ok_or_else(nothing)?;
                (record.summary(), json(&trace::chrome(&record)))
            }
        };
        bytes.and_then(|bytes| std::fs::write(&file, bytes)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => format!("{name} cannot be written: there is no such directory"),
            _ => format!("{name} cannot be written: {error}"),
        })?;
        Ok(format!("wrote {name} ({what})\n"))
    }

    /// Shows something among the running cell's output.
    pub(super) fn display(&mut self, bundle: super::compiler::Bundle) {
        let Some(running) = &self.running else { return };
        if running.request.content.silent {
            return;
        }
        let (cell, origin) = (running.cell, running.request.origin.clone());
        self.deliver_all(cell);
        self.front.iopub(Some(&origin), DisplayData::new(show::media(bundle)));
    }

    /// Takes what was written into the record, of all cells that are listened to.
    pub(super) fn hear_all(&mut self) {
        for (cell, live) in &mut self.outputs {
            let heard = live.output.take_heard();
            if self.recording.is_of(*cell) {
                self.recording.hear(*cell, heard);
            } else {
                live.output.listen(false);
            }
        }
    }

    /// The running cell's output is all there: what its magics show under it.
    pub(super) fn show_record(&mut self) {
        self.hear_all();
        let Some(running) = &self.running else { return };
        let (trace, time) = (running.trace, running.time.text());
        let traced = trace.filter(|_| self.recording.is_of(running.record));
        if let Some((trace, record)) = traced.zip(self.recording.record()) {
            if trace.colour {
                self.legend(&colour::legend(&record));
            }
            self.display(recording::timeline(&record));
        }
        if let Some(text) = time {
            self.say(&text);
            self.deliver_running();
        }
        self.recording.write_last_run();
    }

    fn legend(&mut self, legend: &str) {
        let begins =
            self.running_cell().and_then(|cell| self.outputs.get(&cell)).is_none_or(|live| live.output.at_line_start());
        let newline = if begins { "" } else { "\n" };
        self.say(&format!("{newline}{legend}\n"));
        self.deliver_running();
    }

    fn deliver_running(&mut self) {
        if let Some(cell) = self.running_cell() {
            self.deliver_all(cell);
        }
    }
}

fn json(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(value)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// What `%%time` measures over the tasks of a cell.
#[derive(Debug, Clone, Default)]
pub struct Time {
    wanted: bool,
    wall: Duration,
    user: Duration,
    system: Duration,
    /// Processor time is not known of all tasks.
    unknown: bool,
    tasks: usize,
    /// When the task began that runs.
    begun: Option<Instant>,
}

impl Time {
    /// For a cell that has `%%time`, or has not.
    pub fn wanted(wanted: bool) -> Time {
        Time { wanted, ..Time::default() }
    }

    /// A task begins.
    pub fn begin(&mut self) {
        self.begun = Some(Instant::now());
    }

    /// It has ended, and has used this, as its process itself has measured it.
    pub fn end(&mut self, used: Option<Used>) {
        let Some(begun) = self.begun.take() else { return };
        self.tasks += 1;
        match used {
            Some(used) => {
                self.wall += used.wall;
                self.user += used.user;
                self.system += used.system;
            }
            None => {
                self.wall += begun.elapsed();
                self.unknown = true;
            }
        }
    }

    /// What is shown of it, as IPython does; `None` when nothing has run.
    pub fn text(&self) -> Option<String> {
        let wall = (self.wanted && self.tasks > 0).then(|| format!("Wall time: {}\n", time(self.wall)))?;
        if self.unknown {
            return Some(wall);
        }
        let (user, system, total) = (time(self.user), time(self.system), time(self.user + self.system));
        Some(format!("CPU times: user {user}, sys: {system}, total: {total}\n{wall}"))
    }
}

/// A time in three digits.
fn time(time: Duration) -> String {
    let nanoseconds = time.as_nanos() as f64;
    let (value, unit) = match time.as_nanos() {
        0..1_000 => return format!("{} ns", time.as_nanos()),
        1_000..1_000_000 => (nanoseconds / 1e3, "µs"),
        1_000_000..1_000_000_000 => (nanoseconds / 1e6, "ms"),
        _ if time < Duration::from_secs(60) => (nanoseconds / 1e9, "s"),
        _ => {
            let seconds = time.as_secs();
            let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
            let hours = if hours > 0 { format!("{hours}h ") } else { String::new() };
            return format!("{hours}{minutes}min {}s", seconds % 60);
        }
    };
    let digits = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    let text = format!("{value:.digits$}");
    let text = if digits > 0 { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits() {
        let times = [0, 999, 1_500, 12_340, 340_000_000, 1_000_000_000, 61_000_000_000, 3_723_000_000_000];
        let texts = times.map(|nanoseconds| time(Duration::from_nanos(nanoseconds)));
        assert_eq!(texts, ["0 ns", "999 ns", "1.5 µs", "12.3 µs", "340 ms", "1 s", "1min 1s", "1h 2min 3s"]);
    }

    #[test]
    fn processor_time_that_is_not_known_is_not_said() {
        let mut whole = Time::wanted(true);
        assert_eq!(whole.text(), None);
        whole.begin();
        let used = [3, 2, 1].map(Duration::from_millis);
        whole.end(Some(Used { began: 0, wall: used[0], user: used[1], system: used[2] }));
        assert_eq!(whole.text().as_deref(), Some("CPU times: user 2 ms, sys: 1 ms, total: 3 ms\nWall time: 3 ms\n"));
        whole.begin();
        whole.end(None);
        assert!(whole.text().is_some_and(|text| text.starts_with("Wall time: ")));
    }
}
