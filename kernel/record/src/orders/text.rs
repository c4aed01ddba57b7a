//! The orders as text, and the words that text and HTML have in common.

use std::collections::HashMap;
use std::fmt::Write;

use super::{Order, Orders, Row, Seen, diff};
use crate::Ending;
use crate::timeline::{words, wrapped};

/// A text has at least this many columns.
const LEAST_WIDTH: usize = 40;
/// Bars in a text.
const MOST_BARS: usize = 20;
/// Lines of two orders side by side in a text, and the last lines of a run that ended differently.
const MOST_ROWS: usize = 40;
const LAST_LINES: usize = 8;
/// Lines that both orders have, around those in which they differ.
const AROUND: usize = 3;
/// A bar's columns.
const BAR: usize = 24;
/// Ways to end differently that are shown.
pub const MOST_ENDINGS: usize = 8;

/// One line while runs are under way.
pub fn progress(orders: &Orders, wanted: Option<usize>) -> String {
    let done = orders.runs().len();
    let mut out = match wanted {
        Some(wanted) => format!("{} of {}", words::grouped(done), words::count(wanted, "run", "runs")),
        None => words::count(done, "run", "runs"),
    };
    let _ = write!(out, " · {}", words::count(orders.distinct(), "order", "orders"));
    let different = orders.different_runs();
    if different > 0 {
        let _ = write!(out, " · {} ended differently", words::count(different, "run", "runs"));
    }
    out
}

/// `100 runs, 12 different orders by lines`.
pub fn title(orders: &Orders) -> String {
    let runs = words::count(orders.runs().len(), "run", "runs");
    let found = words::count(orders.distinct(), "order", "different orders");
    format!("{runs}, {found} by {}", orders.by())
}

/// From so few runs on, an estimate is said.
const FEWEST: usize = 20;

/// What the estimate says, in a sentence; empty where it has nothing to say.
pub fn estimate(orders: &Orders) -> String {
    // A handful of runs says nothing about what else there is, and one order nothing about how many there are.
    let enough = orders.usual_runs() >= FEWEST && orders.distinct() > 1;
    let Some(estimate) = orders.estimate().filter(|_| enough) else { return String::new() };
    let [total, lower, upper] = [estimate.total, estimate.lower, estimate.upper].map(number);
    let interval = if lower == upper { String::new() } else { format!(", 95 % interval {lower} to {upper}") };
    let numbers = format!("Chao1: {total} in all{interval}");
    let unseen = estimate.unseen().round();
    if estimate.singletons == orders.usual_runs() {
        "Every run had an order of its own: how many there are cannot be told from so few.".to_owned()
    } else if unseen < 1.0 {
        format!("None came only once, so there may be no others on this machine ({numbers}).")
    } else {
        format!("Likely there are at least {} more that no run has had ({numbers}).", words::grouped(unseen as usize))
    }
}

/// A number of orders: whole, or with a digit when it is small.
fn number(value: f64) -> String {
    if value < 99.95 {
        let text = format!("{value:.1}");
        text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
    } else {
        words::grouped(value.round().min(1e15) as usize)
    }
}

/// That no run has come to its end, in a sentence; empty where one has.
pub fn unfinished(orders: &Orders) -> String {
    match orders.usual() {
        None | Some(Ending::Finished) => String::new(),
        Some(usual) if orders.different_runs() == 0 => {
            format!("No run has come to its end: {}.", self::ending(usual))
        }
        Some(usual) => {
            let (runs, all) = (words::grouped(orders.usual_runs()), words::grouped(orders.runs().len()));
            format!("No run has come to its end; {runs} of {all} ended so: {}.", self::ending(usual))
        }
    }
}

/// How many runs ended differently, and that they are not among the others.
pub fn ended_differently(orders: &Orders) -> String {
    let usual = if orders.distinct() == 0 { "" } else { "; shares are of the others" };
    format!("{} ended differently{usual}", words::count(orders.different_runs(), "run", "runs"))
}

/// How long the runs took, in a sentence.
pub fn durations(orders: &Orders) -> String {
    orders.durations().map_or(String::new(), |(least, median, most)| {
        if orders.usual_runs() == 1 {
            format!("The run took {}.", words::time(most))
        } else {
            format!("A run took {} (median; {} to {}).", words::time(median), words::time(least), words::time(most))
        }
    })
}

/// How a run ended, with its message.
pub fn ending(ending: &Ending) -> String {
    let how = words::ending(ending);
    match ending {
        Ending::Panicked(text) | Ending::Failed(text) | Ending::OverLimit(text) if !text.is_empty() => {
            format!("{how}: {}", words::shown(text, 200))
        }
        _ => how,
    }
}

/// Who did something, one after the other: `C1 C2×3 P`.
pub fn roles(order: &Order) -> String {
    let mut runs: Vec<(&str, usize)> = Vec::new();
    for token in &order.tokens {
        match runs.last_mut() {
            Some((who, count)) if *who == token.who => *count += 1,
            _ => runs.push((&token.who, 1)),
        }
    }
    if runs.is_empty() {
        return "(nothing)".to_owned();
    }
    let shown = runs.iter().take(200).map(|(who, count)| match count {
        1 => (*who).to_owned(),
        _ => format!("{who}×{count}"),
    });
    shown.collect::<Vec<String>>().join(" ")
}

/// For each order its roles; where several have the same, also the first thing in which one differs from
/// the most frequent of them.
pub fn labels(seen: &[Seen<'_>]) -> Vec<String> {
    let mut first: HashMap<String, &Order> = HashMap::new();
    let label = |one: &Seen<'_>, roles: String, other: &Order| {
        let differs = |(at, token): &(usize, &super::Token)| other.tokens.get(*at) != Some(token);
        match one.order.tokens.iter().enumerate().find(differs) {
            Some((_, token)) => format!("{} … {}", words::cut(&roles, 40), words::shown(&token.to_string(), 60)),
            None => format!("{} … ends earlier", words::cut(&roles, 40)),
        }
    };
    let mut labels = Vec::new();
    for one in seen {
        let roles = roles(one.order);
        labels.push(match first.get(&roles) {
            Some(other) => label(one, roles, other),
            None => {
                first.insert(roles.clone(), one.order);
                roles
            }
        });
    }
    labels
}

/// What stands below the bars for the orders that have none; `None` when all have one.
pub fn more(rest: &[Seen<'_>]) -> Option<String> {
    let (most, least) = (rest.first()?.count, rest.last()?.count);
    let often = match (most, least) {
        (1, 1) => "seen once".to_owned(),
        (2, 2) => "seen twice".to_owned(),
        (most, least) if most == least => format!("seen {most} times"),
        (most, least) => format!("seen {least} to {most} times"),
    };
    let each = if rest.len() > 1 { " each" } else { "" };
    Some(format!("… {} more, {often}{each}", words::grouped(rest.len())))
}

/// Two orders side by side, as rows of left and right, with what both have far from any difference put
/// together. The number is of rows that are left out.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A row.
    Row(Row<'a>),
    /// So many rows that both have.
    Same(usize),
    /// So many rows more than are shown.
    More(usize),
}

/// The rows that are worth showing, at most `most`.
pub fn lines<'a>(left: &'a Order, right: &'a Order, most: usize) -> Vec<Line<'a>> {
    let rows = diff(&left.tokens, &right.tokens);
    let mut near = vec![false; rows.len()];
    for (at, _) in rows.iter().enumerate().filter(|(_, row)| !matches!(row, Row::Both(_))) {
        let end = (at + AROUND + 1).min(rows.len());
        near[at.saturating_sub(AROUND)..end].fill(true);
    }
    let mut lines = Vec::new();
    let mut at = 0;
    while at < rows.len() {
        if lines.len() == most {
            lines.push(Line::More(rows.len() - at));
            break;
        }
        let far = near[at..].iter().take_while(|near| !**near).count();
        // A row that stands for one or two rows is no shorter than they.
        if far > 2 {
            lines.push(Line::Same(far));
            at += far;
        } else {
            lines.push(Line::Row(rows[at]));
            at += 1;
        }
    }
    lines
}

/// The whole text.
pub fn draw(orders: &Orders, width: usize) -> String {
    let width = width.max(LEAST_WIDTH);
    let mut out = format!("{}\n", words::cut(&title(orders), width));
    for sentence in
        [unfinished(orders), estimate(orders), durations(orders)].iter().filter(|sentence| !sentence.is_empty())
    {
        wrapped(sentence, width).iter().for_each(|line| put(&mut out, line));
    }
    let seen = orders.seen();
    bars(&mut out, &seen, orders.usual_runs(), width);
    if let (Some(most), Some(rarest)) = (orders.most_frequent(), orders.rarest()) {
        side_by_side(&mut out, &most, &rarest, width);
    } else if let Some(only) = seen.first() {
        put(&mut out, "\nthe only order");
        only.order.tokens.iter().take(MOST_ROWS).for_each(|token| put(&mut out, &line(&format!("  {token}"), width)));
        if only.order.tokens.len() > MOST_ROWS {
            put(&mut out, &format!("  … {} more", only.order.tokens.len() - MOST_ROWS));
        }
    }
    different(&mut out, orders, width);
    out
}

fn put(out: &mut String, line: &str) {
    out.push_str(line.trim_end());
    out.push('\n');
}

fn line(text: &str, width: usize) -> String {
    words::shown(text, width)
}

fn bars(out: &mut String, seen: &[Seen<'_>], runs: usize, width: usize) {
    let Some(most) = seen.first().map(|seen| seen.count) else { return };
    out.push('\n');
    let shown = &seen[..seen.len().min(MOST_BARS)];
    let digits = words::grouped(most).len();
    let bar = BAR.min(width / 4);
    for (one, label) in shown.iter().zip(labels(shown)) {
        // Eighths of a column, and never nothing.
        let eighths = (one.count * bar * 8).div_ceil(most).max(1);
        let mut drawn = "█".repeat(eighths / 8);
        drawn.extend(char::from_u32(0x2590 - (eighths % 8) as u32).filter(|_| eighths % 8 > 0));
        let padding = " ".repeat(bar - words::width(&drawn).min(bar));
        let share = one.count as f64 * 100.0 / runs as f64;
        let count = words::grouped(one.count);
        put(out, &line(&format!("{count:>digits$} {share:>5.1} % {drawn}{padding} {label}"), width));
    }
    if let Some(more) = more(&seen[shown.len()..]) {
        put(out, &more);
    }
}

fn side_by_side(out: &mut String, most: &Seen<'_>, rarest: &Seen<'_>, width: usize) {
    let half = (width - 3) / 2;
    let mut row = |left: &str, sign: char, right: &str| {
        let left = words::shown(left, half);
        let padding = " ".repeat(half - words::width(&left).min(half));
        put(out, &format!("{left}{padding} {sign} {}", words::shown(right, half)));
    };
    row("", ' ', "");
    let heads = [("the most frequent", most), ("the rarest", rarest)]
        .map(|(name, seen)| format!("{name} ({})", words::count(seen.count, "run", "runs")));
    row(&heads[0], ' ', &heads[1]);
    for line in lines(most.order, rarest.order, MOST_ROWS) {
        match line {
            Line::Row(Row::Both(token)) => row(&token.to_string(), ' ', &token.to_string()),
            Line::Row(Row::Left(token)) => row(&token.to_string(), '<', ""),
            Line::Row(Row::Right(token)) => row("", '>', &token.to_string()),
            Line::Same(count) => row(&format!("… {count} the same"), ' ', ""),
            Line::More(count) => row(&format!("… {count} more"), ' ', ""),
        }
    }
}

fn different(out: &mut String, orders: &Orders, width: usize) {
    let different = orders.different();
    if different.is_empty() {
        return;
    }
    put(out, "");
    put(out, &line(&ended_differently(orders), width));
    for one in different.iter().take(MOST_ENDINGS) {
        let what = format!("{} × {} (first in run {})", one.count, ending(one.ending), one.first + 1);
        put(out, &line(&what, width));
        let tokens = &one.order.tokens;
        let from = tokens.len().saturating_sub(LAST_LINES);
        if from > 0 {
            put(out, &format!("    … {from} before"));
        }
        tokens[from..].iter().for_each(|token| put(out, &line(&format!("    {token}"), width)));
    }
    if different.len() > MOST_ENDINGS {
        put(out, &format!("… {} more ways to end", different.len() - MOST_ENDINGS));
    }
}
