//! The timeline as one SVG picture without scripts and without anything from outside.

use std::fmt::Write;

use super::density;
use super::family::Family;
use super::lanes::{Lane, Lanes};
use super::life::{self, Span, State};
use super::marks::{self, Arrow, Kind, Link, Mark, Marks};
use super::scale::Scale;
use super::{Options, labels, style, text, words};
use crate::{Ending, Record, Status};

/// A picture beyond this many bytes is drawn again, more coarsely.
const MOST_BYTES: usize = 360_000;
/// Above the axis: the title.
const TITLE_HEIGHT: f64 = 34.0;
const AXIS_HEIGHT: f64 = 22.0;
/// Between the panel's edge and what is in it.
const MARGIN: f64 = 14.0;
/// The room for how a process ended.
const ENDS_WIDTH: f64 = 84.0;
/// What a lane that is shared is higher than the others.
const SHARED_EXTRA: f64 = 26.0;
/// Below the lanes: what the line at the cell's end means.
const FOOT_HEIGHT: f64 = 20.0;

/// Writes into a string, which cannot fail.
macro_rules! put {
    ($out:expr, $($what:tt)*) => {{ let _ = write!($out, $($what)*); }};
}
pub(super) use put;

/// Draws a record.
pub fn draw(record: &Record, options: &Options) -> String {
    let family = Family::new(record);
    let lanes = Lanes::new(&family, options.most_lanes.max(2));
    let mut grain = 1.5;
    loop {
        let drawn = Picture::new(&family, &lanes, options, grain).draw();
        if drawn.len() <= MOST_BYTES || grain > 30.0 {
            return drawn;
        }
        grain *= 2.0;
    }
}

/// A number as short as a picture needs it.
pub(super) fn n(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

struct Picture<'a> {
    family: &'a Family<'a>,
    lanes: &'a Lanes,
    options: &'a Options,
    id: String,
    scale: Scale,
    marks: Marks,
    grain: f64,
    left: f64,
    right: f64,
    top: f64,
    lane: f64,
    bar: f64,
    /// Where each lane begins, and where the last one ends.
    tops: Vec<f64>,
}

impl<'a> Picture<'a> {
    fn new(family: &'a Family<'a>, lanes: &'a Lanes, options: &'a Options, grain: f64) -> Self {
        let (lane, bar) = match lanes.list.len() {
            0..=12 => (40.0, 14.0),
            13..=20 => (32.0, 12.0),
            21..=34 => (23.0, 11.0),
            _ => (16.0, 9.0),
        };
        let labels = lanes.list.iter().map(|lane| label_width(lane, family));
        let left = labels.fold(96.0, f64::max).min(230.0) + MARGIN;
        let right = f64::from(options.width.max(480)) - MARGIN - ENDS_WIDTH;
        let scale = Scale::new(family.times(), left, right, 44.0);
        let marks = marks::find(family, lanes, &scale, grain);
        let (id, top) = (options.id_for(family.record), TITLE_HEIGHT + AXIS_HEIGHT);
        let mut tops = vec![top];
        for shared in lanes.list.iter().map(|lane| lane.members.len() > 1) {
            tops.push(tops.last().unwrap_or(&top) + if shared { lane + SHARED_EXTRA } else { lane });
        }
        Picture { family, lanes, options, id, scale, marks, grain, left, right, top, lane, bar, tops }
    }

    fn roomy(&self) -> bool {
        self.lane > 30.0
    }

    fn shared(&self, lane: usize) -> bool {
        self.lanes.list[lane].members.len() > 1
    }

    /// The middle of a lane's bar. Roomy lanes have it in their lower part, below what their marks say.
    fn middle(&self, lane: usize) -> f64 {
        let (top, height) = (self.tops[lane], self.tops[lane + 1] - self.tops[lane]);
        if self.roomy() && !self.shared(lane) { top + height * 0.64 } else { top + height / 2.0 }
    }

    /// How far from the middle a lane's arrows begin and end.
    fn reach(&self, lane: usize) -> f64 {
        if self.shared(lane) { (self.tops[lane + 1] - self.tops[lane]) / 2.0 - 2.0 } else { self.bar / 2.0 }
    }

    fn bottom(&self) -> f64 {
        self.tops.last().copied().unwrap_or(self.top)
    }

    fn draw(&self) -> String {
        let mut body = String::new();
        self.axis(&mut body);
        let height = {
            let mut legend = String::new();
            let height = self.legend(&mut legend, self.bottom() + FOOT_HEIGHT);
            for index in 0..self.lanes.list.len() {
                self.label(&mut body, index);
            }
            self.arrows(&mut body, &[Link::Fork, Link::Reap]);
            for index in 0..self.lanes.list.len() {
                self.life(&mut body, index);
            }
            self.arrows(&mut body, &[Link::Message, Link::Signal]);
            self.cell_end(&mut body);
            for mark in &self.marks.marks {
                self.mark(&mut body, mark);
            }
            if self.roomy() {
                self.words(&mut body);
            }
            body.push_str(&legend);
            height
        };
        let (id, width) = (&self.id, self.options.width.max(480));
        let mut out = String::with_capacity(body.len() + 16_000);
        put!(
            out,
            r#"<svg xmlns="http://www.w3.org/2000/svg" id="{id}" class="forklab-timeline" width="{width}" height="{0}" viewBox="0 0 {width} {0}" role="img" aria-labelledby="{id}-t {id}-d" style="max-width:100%;height:auto">"#,
            n(height)
        );
        // Before any <style>: some readers take the first child for the picture's name.
        let spoken = text::spoken(self.family);
        put!(
            out,
            "\n<title id=\"{id}-t\">{}</title>\n<desc id=\"{id}-d\">{}</desc>\n",
            words::escape(&self.title()),
            words::escape(&spoken)
        );
        put!(out, "<style>\n{}</style>\n", style::css(id));
        self.definitions(&mut out);
        put!(
            out,
            r#"<rect class="fl-panel" x=".5" y=".5" width="{}" height="{}" rx="8"/>"#,
            width - 1,
            n(height - 1.0)
        );
        put!(out, r#"<text class="fl-text fl-title" x="{}" y="23">{}</text>"#, n(MARGIN), words::escape(&self.title()));
        out.push_str(&body);
        out.push_str("</svg>\n");
        out
    }

    fn title(&self) -> String {
        let record = self.family.record;
        let cell = if record.execution > 0 { format!("In [{}]: ", record.execution) } else { String::new() };
        let processes = words::count(record.processes.len(), "process", "processes");
        let ending = match record.ending {
            Ending::Finished => String::new(),
            ref other => format!(", {}", words::ending(other)),
        };
        format!("{cell}{processes}, {}{ending}", words::time(record.duration))
    }

    fn definitions(&self, out: &mut String) {
        let id = &self.id;
        put!(
            out,
            r#"<defs><pattern id="{id}-z" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect class="fl-hatched" width="5" height="5"/><path class="fl-hatch" d="M0 0V5" stroke-width="3"/></pattern>"#
        );
        for link in ["fork", "reap", "message", "signal"] {
            put!(
                out,
                r#"<marker id="{id}-{link}" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="7" markerHeight="7" markerUnits="userSpaceOnUse" orient="auto"><path class="fl-tip-{link}" d="M0 .8L8 4L0 7.2z"/></marker>"#
            );
        }
        out.push_str("</defs>\n");
    }

    fn axis(&self, out: &mut String) {
        let (top, bottom) = (self.top, self.bottom());
        for index in (0..self.lanes.list.len()).step_by(2) {
            let y = self.tops[index];
            put!(
                out,
                r#"<rect class="fl-stripe" x="1" y="{}" width="{}" height="{}"/>"#,
                n(y),
                n(f64::from(self.options.width.max(480)) - 2.0),
                n(self.tops[index + 1] - y)
            );
        }
        for quiet in self.scale.breaks() {
            let (x, middle) = (quiet.left, (quiet.left + quiet.right) / 2.0);
            let told = format!("Nothing happens here for {}: the axis is cut short", words::time(quiet.duration));
            put!(
                out,
                r#"<g class="fl-quiet"><title>{}</title><rect class="fl-break" x="{}" y="{}" width="{}" height="{}"/>"#,
                words::escape(&told),
                n(x),
                n(top),
                n(quiet.right - x),
                n(bottom - top)
            );
            for edge in [quiet.left, quiet.right] {
                put!(out, r#"<path class="fl-zig fl-line" d="{}"/>"#, zigzag(edge, top - 4.0, bottom));
            }
            put!(
                out,
                r#"<text class="fl-soft fl-small" x="{}" y="{}" text-anchor="middle" font-style="italic">… {} …</text></g>"#,
                n(middle),
                n(top - 8.0),
                words::escape(&words::time(quiet.duration))
            );
        }
        out.push_str("<g class=\"fl-axis\">");
        for tick in self.scale.ticks() {
            put!(out, r#"<path class="fl-grid" d="M{} {}V{}"/>"#, n(tick.x), n(top - 4.0), n(bottom));
            if !tick.label.is_empty() {
                let anchor = if tick.centred && tick.x > self.left + 4.0 { "middle" } else { "start" };
                put!(
                    out,
                    r#"<text class="fl-soft fl-small" x="{}" y="{}" text-anchor="{anchor}">{}</text>"#,
                    n(tick.x),
                    n(top - 8.0),
                    tick.label
                );
            }
        }
        out.push_str("</g>\n");
    }

    /// Role, pid and program at the left, and how it ended at the right.
    fn label(&self, out: &mut String, index: usize) {
        let lane = &self.lanes.list[index];
        let process = self.family.process(lane.members[0]);
        let (middle, x) = (self.middle(index), MARGIN + indent(lane.depth));
        if lane.depth > 0 {
            put!(out, r#"<path class="fl-tree fl-line" d="M{} {}v4h5"/>"#, n(x - 8.0), n(middle - 4.0));
        }
        let size = if self.lane < 20.0 { " fl-small" } else { "" };
        put!(
            out,
            r#"<text class="fl-text{size}" x="{}" y="{}"><tspan class="fl-role">{}</tspan>"#,
            n(x),
            n(middle + 4.0),
            words::escape(&lane.label(self.family))
        );
        if lane.members.len() == 1 {
            put!(out, r#"<tspan class="fl-soft" dx="6">{}</tspan>"#, process.pid);
        }
        if let Some(name) = process.program().map(words::program)
            && lane.members.len() == lane.heads
        {
            put!(out, r#"<tspan class="fl-text fl-mono" dx="6">{}</tspan>"#, words::escape(&name));
        }
        out.push_str("</text>");
        let ending = lane.ending(self.family);
        if !ending.is_empty() {
            let bad = !matches!(process.ended, Some((_, Status::Exited(0))));
            let class = if bad { "fl-bad fl-role" } else { "fl-soft" };
            put!(
                out,
                r#"<text class="{class}{size}" x="{}" y="{}">{}</text>"#,
                n(self.right + 10.0),
                n(middle + 4.0),
                words::escape(&ending)
            );
        }
        out.push('\n');
    }

    fn life(&self, out: &mut String, index: usize) {
        let lane = &self.lanes.list[index];
        let process = self.family.process(lane.members[0]);
        put!(
            out,
            r#"<g class="fl-lane" data-role="{}" data-pid="{}"><title>{}</title>"#,
            words::escape(&lane.label(self.family)),
            process.pid,
            words::escape(&self.lane_told(lane))
        );
        if lane.members.len() == 1 {
            let spans = life::spans(self.family, lane.members[0]);
            self.bar(out, index, &spans);
            if self.roomy() {
                self.stretch_words(out, index, &spans);
            }
        } else {
            let (top, bottom) = (self.tops[index] + 12.0, self.tops[index + 1] - 3.0);
            let room = density::Room { left: self.left, right: self.right, base: bottom, height: bottom - top };
            let most = density::draw(out, self.family, &lane.members, &self.scale, &room, &self.id);
            let y = self.middle(index) + 18.0;
            put!(
                out,
                r#"<text class="fl-soft fl-small" x="{}" y="{}">at most {}</text>"#,
                n(self.right + 10.0),
                n(y),
                words::grouped(most as usize)
            );
        }
        out.push_str("</g>\n");
    }

    fn lane_told(&self, lane: &Lane) -> String {
        let lines = lane.members.iter().take(12).map(|index| text::life_line(self.family, *index));
        let mut told = lines.collect::<Vec<_>>().join("\n");
        if lane.members.len() > 12 {
            put!(told, "\n… and {} more", words::grouped(lane.members.len() - 12));
        }
        told
    }

    fn bar(&self, out: &mut String, index: usize, spans: &[Span]) {
        let (top, height) = (self.middle(index) - self.bar / 2.0, self.bar);
        for state in [State::Alive, State::Running, State::Blocked, State::Stopped, State::Zombie] {
            let mut path = String::new();
            for (from, to) in self.stretches(spans, state) {
                // A zombie's bar is lower than a living one's: its shape tells, too.
                let inset = if state == State::Zombie { height * 0.18 } else { 0.0 };
                put!(
                    path,
                    "M{} {}h{}v{}h-{}z",
                    n(from),
                    n(top + inset),
                    n(to - from),
                    n(height - 2.0 * inset),
                    n(to - from)
                );
            }
            if path.is_empty() {
                continue;
            }
            match state {
                State::Zombie => put!(out, r#"<path class="fl-zombie" fill="url(#{}-z)" d="{path}"/>"#, self.id),
                State::Alive => put!(out, r#"<path class="fl-alive" d="{path}"/>"#),
                State::Running => put!(out, r#"<path class="fl-running" d="{path}"/>"#),
                State::Blocked => put!(out, r#"<path class="fl-blocked" d="{path}"/>"#),
                State::Stopped => put!(out, r#"<path class="fl-stopped" d="{path}"/>"#),
            }
        }
    }

    /// Where a state's stretches are, joined where they are closer than can be seen.
    fn stretches(&self, spans: &[Span], state: State) -> Vec<(f64, f64)> {
        let mut found: Vec<(f64, f64)> = Vec::new();
        for span in spans.iter().filter(|span| span.state == state) {
            let from = self.scale.x(span.from);
            // The shortest life can still be seen.
            let to = self.scale.x(span.to).max(from + if state == State::Zombie { 2.5 } else { 1.0 });
            match found.last_mut() {
                Some(last) if from - last.1 < self.grain * 0.5 => last.1 = last.1.max(to),
                _ => found.push((from, to)),
            }
        }
        found
    }

    fn arrows(&self, out: &mut String, links: &[Link]) {
        for arrow in self.marks.arrows.iter().filter(|arrow| links.contains(&arrow.link)) {
            let name = match arrow.link {
                Link::Fork => "fork",
                Link::Reap => "reap",
                Link::Message => "message",
                Link::Signal => "signal",
            };
            let wide = if arrow.count > 1 { 1.8 } else { 1.2 };
            let many =
                if arrow.count > 1 { format!("{} times:\n", words::grouped(arrow.count)) } else { String::new() };
            put!(
                out,
                r#"<path class="fl-over fl-line fl-{name}" stroke-width="{wide}" marker-end="url(#{}-{name})" d="{}"><title>{}</title></path>"#,
                self.id,
                self.arrow_path(arrow),
                words::escape(&(many + &arrow.told))
            );
        }
        out.push('\n');
    }

    fn arrow_path(&self, arrow: &Arrow) -> String {
        let down = if arrow.to > arrow.from { 1.0 } else { -1.0 };
        let from = self.middle(arrow.from) + down * self.reach(arrow.from);
        let to = self.middle(arrow.to) - down * self.reach(arrow.to);
        format!("M{} {}L{} {}", n(arrow.from_x), n(from), n(arrow.to_x), n(to))
    }

    fn mark(&self, out: &mut String, mark: &Mark) {
        let many = if mark.count > 1 { 0.7 } else { 0.0 };
        let (y, r) = match self.shared(mark.lane) {
            true => (self.tops[mark.lane] + 7.0, 2.4),
            false => (self.middle(mark.lane), (self.bar / 3.6).clamp(2.4, 3.8) + many),
        };
        // A stop and its signal fall together; the one stands beside the other.
        let x = if mark.kind == Kind::Stop { mark.x + r + 4.0 } else { mark.x };
        let half = self.bar / 2.0;
        let (class, shape) = match mark.kind {
            Kind::Stdout => (
                "fl-out",
                format!(
                    "M{} {y:.1}a{r:.1} {r:.1} 0 1 0 {d:.1} 0a{r:.1} {r:.1} 0 1 0 -{d:.1} 0z",
                    n(x - r),
                    d = 2.0 * r
                ),
            ),
            Kind::Stderr => (
                "fl-err",
                format!(
                    "M{} {}l{s:.1} {t:.1}h-{u:.1}z",
                    n(x),
                    n(y - r - 0.8),
                    s = r + 0.8,
                    t = 2.0 * r + 0.8,
                    u = 2.0 * r + 1.6
                ),
            ),
            Kind::Signal => {
                ("fl-tip-signal", format!("M{} {}l{r:.1} {r:.1}l-{r:.1} {r:.1}l-{r:.1} -{r:.1}z", n(x), n(y - r)))
            }
            Kind::Exec => {
                ("fl-end", format!("M{} {}v{}M{} {}l4 3l-4 3", n(x), n(y - half), n(self.bar), n(x + 1.0), n(y - 3.0)))
            }
            Kind::Adopted => ("fl-out", format!("M{} {}l4 4.5v4h-8v-4z", n(x), n(y - 4.5))),
            Kind::Stop => (
                "fl-end",
                format!("M{} {}v{}M{} {}v{}", n(x - 1.5), n(y - 3.0), n(6.0), n(x + 1.5), n(y - 3.0), n(6.0)),
            ),
            Kind::Exited => ("fl-end", format!("M{} {}v{}", n(x), n(y - half - 2.0), n(self.bar + 4.0))),
            Kind::Killed => ("fl-killed", format!("M{} {}l7 7m0 -7l-7 7", n(x - 3.5), n(y - 3.5))),
        };
        let many = if mark.count > 1 { format!("{} times:\n", words::grouped(mark.count)) } else { String::new() };
        put!(
            out,
            r#"<path class="fl-over {class}" d="{shape}"><title>{}</title></path>"#,
            words::escape(&(many + &mark.told))
        );
    }

    /// What marks say, and what long stretches are.
    fn words(&self, out: &mut String) {
        let lines = (0..self.lanes.list.len()).map(|lane| self.middle(lane) - self.bar / 2.0 - 4.5).collect();
        labels::draw(
            out,
            &self.marks.marks,
            &labels::Room { lanes: self.lanes, sides: (self.left, self.right), lines },
        );
        out.push('\n');
    }

    /// In a long wait what for, in a long zombie's time how long.
    fn stretch_words(&self, out: &mut String, index: usize, spans: &[Span]) {
        for span in spans {
            let (label, class) = match span.state {
                State::Blocked => (words::shown(span.on, 12), "fl-soft"),
                State::Zombie => (format!("zombie {}", words::time(span.to - span.from)), "fl-tip-reap"),
                _ => continue,
            };
            let (from, to) = (self.scale.x(span.from), self.scale.x(span.to));
            let (width, middle) = (words::width(&label) as f64 * 5.6 + 8.0, (from + to) / 2.0);
            if label.is_empty() || to - from < width + 12.0 {
                continue;
            }
            let y = self.middle(index);
            if span.state == State::Zombie {
                put!(
                    out,
                    r#"<rect class="fl-ground" x="{}" y="{}" width="{}" height="{}" rx="2"/>"#,
                    n(middle - width / 2.0),
                    n(y - self.bar / 2.0 + 3.0),
                    n(width),
                    n(self.bar - 6.0 + 1.0)
                );
            }
            put!(
                out,
                r#"<text class="{class} fl-tiny" x="{}" y="{}" text-anchor="middle">{}</text>"#,
                n(middle),
                n(y + 3.2),
                words::escape(&label)
            );
        }
    }

    fn cell_end(&self, out: &mut String) {
        let (record, bottom) = (self.family.record, self.bottom());
        let x = self.scale.x(record.duration);
        let bad = record.ending != Ending::Finished;
        let told = format!("{} · {}", words::time(record.duration), words::ending(&record.ending));
        let (line, letters) = if bad { ("fl-killed", "fl-bad") } else { ("fl-end", "fl-text") };
        let (anchor, shift) = if x > (self.left + self.right) / 2.0 { ("end", 3.0) } else { ("start", -3.0) };
        put!(
            out,
            r#"<g class="fl-cell-end"><title>{0}</title><path class="{line}" style="stroke-width:1;stroke-dasharray:6 3" d="M{1} {2}V{3}"/><text class="{letters} fl-small" x="{4}" y="{5}" text-anchor="{anchor}">{0}</text></g>"#,
            words::escape(&told),
            n(x),
            n(self.top - 4.0),
            n(bottom + 4.0),
            n(x + shift),
            n(bottom + 15.0)
        );
        out.push('\n');
    }

    /// The legend of what is in this picture and the notes below it. Gives where the picture ends.
    fn legend(&self, out: &mut String, top: f64) -> f64 {
        let legend = super::legend::Legend { family: self.family, lanes: self.lanes, marks: &self.marks, id: &self.id };
        legend.draw(out, MARGIN, top, self.right + ENDS_WIDTH)
    }
}

fn indent(depth: usize) -> f64 {
    // Beyond this the label would have no room.
    depth.min(7) as f64 * 11.0
}

/// About how wide a lane's label is.
fn label_width(lane: &Lane, family: &Family) -> f64 {
    let process = family.process(lane.members[0]);
    let mut width = words::width(&lane.label(family)) as f64 * 8.4;
    if lane.members.len() == 1 {
        width += 6.0 + process.pid.to_string().len() as f64 * 7.8;
    }
    if lane.members.len() == lane.heads {
        width += process.program().map_or(0.0, |command| 6.0 + words::width(&words::program(command)) as f64 * 6.6);
    }
    indent(lane.depth) + width + 10.0
}

/// A line that goes to and fro: the edge of a break.
fn zigzag(x: f64, top: f64, bottom: f64) -> String {
    let mut path = format!("M{} {}", n(x), n(top));
    let teeth = ((bottom - top) / 8.0).ceil() as usize;
    let tooth = (bottom - top) / teeth.max(1) as f64 / 2.0;
    for _ in 0..teeth {
        put!(path, "l3 {}l-3 {}", n(tooth), n(tooth));
    }
    path
}
