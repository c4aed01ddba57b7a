//! The timeline as text: for a terminal, and for those who cannot see the picture.

use std::fmt::Write;

use super::family::Family;
use super::lanes::Lanes;
use super::legend::wrapped;
use super::life::{self, State};
use super::scale::Scale;
use super::svg::put;
use super::words;
use crate::{Event, Process, Record, Status, Stream, What};

/// Lanes in the text form; more processes than this share some.
const MOST_LANES: usize = 40;
/// Events at the beginning and at the end of the list; what is between is counted.
const FIRST_EVENTS: usize = 200;
const LAST_EVENTS: usize = 40;
/// What the picture's description has of each.
const SPOKEN_LIVES: usize = 40;
const SPOKEN_EVENTS: usize = 60;

/// One line for each process with its life as a bar, and the events in order. No line is wider than `width`.
pub fn draw(record: &Record, width: usize) -> String {
    let width = width.max(40);
    let family = Family::new(record);
    let lanes = Lanes::new(&family, MOST_LANES);
    let mut out = String::new();
    put!(out, "{}\n\n", words::cut(&heading(record), width));
    bars(&mut out, &family, &lanes, width);
    for note in
        lanes.note().into_iter().chain(record.gaps.iter().map(|gap| format!("Note: {}", words::shown(gap, 300))))
    {
        for line in wrapped(&note, width) {
            put!(out, "{line}\n");
        }
    }
    out.push('\n');
    events(&mut out, &family, width, FIRST_EVENTS, LAST_EVENTS);
    out
}

/// What is said of the picture to who does not see it: lives and events, without bars of signs.
pub fn spoken(family: &Family) -> String {
    let mut out = heading(family.record) + "\n";
    let count = family.record.processes.len();
    for index in 0..count.min(SPOKEN_LIVES) {
        put!(out, "{}\n", life_line(family, index));
    }
    if count > SPOKEN_LIVES {
        put!(out, "… and {}.\n", words::count(count - SPOKEN_LIVES, "more process", "more processes"));
    }
    events(&mut out, family, 120, SPOKEN_EVENTS, 10);
    out
}

/// `In [3]: 2 processes, 3 events, 1.2 ms, end of the cell`
fn heading(record: &Record) -> String {
    let cell = if record.execution > 0 { format!("In [{}]: ", record.execution) } else { String::new() };
    let processes = words::count(record.processes.len(), "process", "processes");
    let events = words::count(record.events.len(), "event", "events");
    format!("{cell}{processes}, {events}, {}, {}", words::time(record.duration), words::ending(&record.ending))
}

/// The life of a process as a sentence.
pub fn life_line(family: &Family, index: usize) -> String {
    let process = family.process(index);
    let mut line = format!("{}, pid {}", words::clean(&process.role), process.pid);
    if let Some(command) = process.program() {
        put!(line, ", {}", words::shown(command, 60));
    }
    if let Some(parent) = process.parent {
        put!(line, ": forked by {} at {}", family.role(parent, process.forked), words::time(process.forked));
    }
    if let Some((at, by)) = process.adopted {
        put!(line, ", orphan at {}, adopted by {}", words::time(at), family.full(by, at));
    }
    match process.ended {
        Some((at, status)) => {
            put!(line, ", {} at {}", words::status(status), words::time(at));
        }
        None if process.parent.is_some() => line.push_str(", not seen to end"),
        None => {}
    }
    match (process.ended, process.reaped) {
        (Some(_), Some((at, by))) => {
            let zombie = words::time(process.zombie_time().unwrap_or(0));
            put!(line, ", zombie for {zombie}, reaped by {}", family.role(by, at));
        }
        (Some(_), None) if process.parent.is_some() => line.push_str(", not seen to be reaped"),
        _ => {}
    }
    line
}

fn bars(out: &mut String, family: &Family, lanes: &Lanes, width: usize) {
    let label = |lane: &super::lanes::Lane| {
        let mut label = "  ".repeat(lane.depth.min(6)) + &lane.label(family);
        let process = family.process(lane.members[0]);
        if lane.members.len() == 1 {
            put!(label, " {}", process.pid);
        }
        if let Some(command) = process.program().filter(|_| lane.members.len() == lane.heads) {
            put!(label, " {}", words::program(command));
        }
        label
    };
    let labels: Vec<String> = lanes.list.iter().map(label).collect();
    let ends: Vec<String> = lanes.list.iter().map(|lane| lane.ending(family)).collect();
    let widest = |texts: &[String]| texts.iter().map(|text| words::width(text)).max().unwrap_or(0);
    let left = widest(&labels).min(width / 3);
    let right = widest(&ends).min(width / 4);
    let room = width.saturating_sub(left + right + 2).max(10);
    let scale = Scale::new(family.times(), 0.0, (room - 1) as f64, 3.0);
    put!(out, "{}{}\n", " ".repeat(left + 1), axis(&scale, room));
    for (index, lane) in lanes.list.iter().enumerate() {
        let label = words::cut(&labels[index], left);
        let padding = " ".repeat(left - words::width(&label).min(left) + 1);
        let bar: String = bar(family, &lane.members, &scale, room).into_iter().collect();
        let line = format!("{label}{padding}{bar} {}", words::cut(&ends[index], right));
        put!(out, "{}\n", line.trim_end());
    }
    let legend = "━ alive  ─ waiting  ┄ stopped  ▒ zombie  ┣ fork  ┫ exit  × killed  • writes  ! stderr  ↯ signal";
    for line in wrapped(legend, width) {
        put!(out, "{line}\n");
    }
}

/// The times under which the bars stand; `╱╱` where quiet time is cut short.
fn axis(scale: &Scale, room: usize) -> String {
    let mut line = vec![' '; room];
    let mut write = |x: f64, text: &str| {
        let from = x.round().max(0.0) as usize;
        let letters: Vec<char> = text.chars().collect();
        let free = from + letters.len() <= room
            && line[from.saturating_sub(1)..from + letters.len()].iter().all(|c| *c == ' ');
        if free {
            line[from..from + letters.len()].copy_from_slice(&letters);
        }
    };
    for quiet in scale.breaks() {
        let label = format!("╱ {} ╱", words::time(quiet.duration));
        let centre = (quiet.left + quiet.right - label.chars().count() as f64) / 2.0;
        write(centre, &label);
    }
    // A terminal's columns are ten times as wide as the picture's points.
    for tick in scale.ticks_every(14.0) {
        write(tick.x, &format!("╷{}", tick.label));
    }
    line.into_iter().collect::<String>().trim_end().to_owned()
}

fn bar(family: &Family, members: &[usize], scale: &Scale, room: usize) -> Vec<char> {
    let mut bar = vec![' '; room];
    let column = |at| (scale.x(at).round() as usize).min(room - 1);
    // What must not be hidden comes last.
    for wanted in [State::Zombie, State::Stopped, State::Blocked, State::Alive, State::Running] {
        let sign = match wanted {
            State::Alive | State::Running => '━',
            State::Blocked => '─',
            State::Stopped => '┄',
            State::Zombie => '▒',
        };
        for span in members.iter().flat_map(|index| life::spans(family, *index)).filter(|span| span.state == wanted) {
            bar[column(span.from)..=column(span.to)].fill(sign);
        }
    }
    for index in members {
        for event in &family.events[*index] {
            let sign = match event.what {
                What::Wrote { stream: Stream::Stdout, .. } => '•',
                What::Wrote { stream: Stream::Stderr, .. } => '!',
                What::SignalReceived { .. } => '↯',
                _ => continue,
            };
            bar[column(event.at)] = sign;
        }
        if let [index] = members {
            ends(&mut bar, family.process(*index), column);
        }
    }
    bar
}

fn ends(bar: &mut [char], process: &Process, column: impl Fn(u64) -> usize) {
    if process.parent.is_some() {
        bar[column(process.forked)] = '┣';
    }
    match process.ended {
        Some((at, Status::Exited(_))) => bar[column(at)] = '┫',
        Some((at, Status::Killed(_))) => bar[column(at)] = '×',
        None => {}
    }
}

fn events(out: &mut String, family: &Family, width: usize, first: usize, last: usize) {
    let events = &family.record.events;
    let widest =
        family.record.processes.iter().map(|process| words::width(&process.role)).max().unwrap_or(1).clamp(1, 10);
    let latest = family.until;
    for (index, event) in events.iter().enumerate() {
        let left_out = events.len().saturating_sub(first + last);
        if left_out > 0 && index >= first && index < first + left_out {
            if index == first {
                put!(
                    out,
                    "{}\n",
                    words::cut(&format!("… {} are left out here …", words::count(left_out, "event", "events")), width)
                );
            }
            continue;
        }
        put!(out, "{}\n", event_line(family, event, widest, width, latest));
    }
}

fn event_line(family: &Family, event: &Event, widest: usize, width: usize, latest: u64) -> String {
    let step = if latest >= 1_000_000 { 1_000 } else { 1 };
    let step = if latest >= 100_000_000_000 { 1_000_000 } else { step };
    let time = words::time_in(event.at, step, latest);
    let role = words::cut(
        &words::clean(&match family.process_of(event) {
            Some(index) => family.process(index).role.clone(),
            None => format!("pid {}", event.pid),
        }),
        widest.max(8),
    );
    let padding = " ".repeat(widest.saturating_sub(words::width(&role)));
    let line = format!("{time:>12}  {role}{padding}  ");
    let room = width.saturating_sub(words::width(&line));
    words::cut(&(line + &words::event(family, event, room)), width)
}
