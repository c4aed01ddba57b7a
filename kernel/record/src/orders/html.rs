//! The orders as HTML: elements that read well without any rule, and rules that make them a chart.

use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::text::{self, Line};
use super::{Options, Order, Orders, Row, Seen, Token, style};
use crate::timeline::words;

/// The last lines of a run that ended differently.
const LAST_LINES: usize = 30;
/// Of one line, in columns.
const MOST_COLUMNS: usize = 300;

/// The whole element.
pub fn draw(orders: &Orders, options: &Options) -> String {
    let id = id(orders, options);
    let mut out = format!("<div class=\"forklab-orders\" id=\"{id}\">\n<style>{}</style>\n", style::css(&id));
    put(&mut out, format_args!("<p class=\"fo-title\"><strong>{}</strong></p>\n", escaped(&text::title(orders), 200)));
    let unfinished = text::unfinished(orders);
    if !unfinished.is_empty() {
        put(&mut out, format_args!("<p class=\"fo-bad\"><strong>{}</strong></p>\n", words::escape(&unfinished)));
    }
    let sentences = [text::estimate(orders), text::durations(orders)];
    let sentences: Vec<&str> = sentences.iter().map(String::as_str).filter(|one| !one.is_empty()).collect();
    if !sentences.is_empty() {
        put(&mut out, format_args!("<p class=\"fo-soft\">{}</p>\n", words::escape(&sentences.join(" "))));
    }
    let seen = orders.seen();
    different(&mut out, orders);
    bars(&mut out, &seen, orders.usual_runs(), options);
    if let (Some(most), Some(rarest)) = (orders.most_frequent(), orders.rarest()) {
        side_by_side(&mut out, &most, &rarest, options);
    } else if let Some(only) = seen.first() {
        out.push_str("<details><summary>the only order</summary>\n");
        listed(&mut out, &only.order.tokens[..only.order.tokens.len().min(options.most_rows)]);
        if only.order.tokens.len() > options.most_rows {
            put(
                &mut out,
                format_args!("<p class=\"fo-soft\">… {} more</p>", only.order.tokens.len() - options.most_rows),
            );
        }
        out.push_str("</details>\n");
    }
    out.push_str("</div>\n");
    out
}

fn id(orders: &Orders, options: &Options) -> String {
    let allowed = |id: &&String| {
        let letter = id.starts_with(|c: char| c.is_ascii_alphabetic());
        letter && id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    options.id.as_ref().filter(allowed).cloned().unwrap_or_else(|| {
        // Without keys: the same for the same orders in every process.
        let mut hasher = DefaultHasher::new();
        orders.runs().iter().for_each(|run| (run.order, run.duration).hash(&mut hasher));
        orders.all().hash(&mut hasher);
        format!("forklab-orders-{:08x}", hasher.finish() as u32)
    })
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a String takes everything");
}

fn escaped(text: &str, most: usize) -> String {
    words::escape(&words::shown(text, most))
}

fn bars(out: &mut String, seen: &[Seen<'_>], runs: usize, options: &Options) {
    let Some(most) = seen.first().map(|seen| seen.count) else { return };
    out.push_str(
        "<table class=\"fo-bars\"><colgroup><col style=\"width:4em\"/><col style=\"width:5em\"/>\
         <col style=\"width:38%\"/><col/></colgroup>\n<thead><tr><th class=\"fo-number\" scope=\"col\">runs</th>\
         <th class=\"fo-number\" scope=\"col\">share</th><th></th><th scope=\"col\">who, in order</th></tr></thead>\n<tbody>\n",
    );
    let shown = &seen[..seen.len().min(options.most_bars)];
    for (one, label) in shown.iter().zip(text::labels(shown)) {
        let share = one.count as f64 * 100.0 / runs as f64;
        let width = one.count as f64 * 100.0 / most as f64;
        put(
            out,
            format_args!(
                "<tr><td class=\"fo-number\">{}</td><td class=\"fo-number fo-soft\">{share:.1} %</td>\
                 <td><div class=\"fo-track\"><div class=\"fo-bar\" style=\"width:{width:.2}%\"></div></div></td>\
                 <td class=\"fo-roles\" title=\"{}\">{}</td></tr>\n",
                words::grouped(one.count),
                whole(one.order),
                escaped(&label, 160)
            ),
        );
    }
    out.push_str("</tbody></table>\n");
    if let Some(more) = text::more(&seen[shown.len()..]) {
        put(out, format_args!("<p class=\"fo-soft\">{more}</p>\n"));
    }
}

/// An order for the tip over its bar: a line for each token, as long as tips are readable.
fn whole(order: &Order) -> String {
    let lines = order.tokens.iter().take(24).map(|token| escaped(&token.to_string(), 80));
    let more = if order.tokens.len() > 24 { "&#10;…" } else { "" };
    lines.collect::<Vec<String>>().join("&#10;") + more
}

fn token(token: &Token) -> String {
    let text = token.to_string();
    let what = escaped(text.strip_prefix(&token.who).unwrap_or(&text), MOST_COLUMNS);
    format!("<span class=\"fo-who\">{}</span>{what}", escaped(&token.who, 12))
}

fn side_by_side(out: &mut String, most: &Seen<'_>, rarest: &Seen<'_>, options: &Options) {
    let head = |name: &str, seen: &Seen<'_>| {
        format!("<th scope=\"col\">{name} ({})</th>", words::count(seen.count, "run", "runs"))
    };
    out.push_str("<details open=\"\"><summary>the most frequent and the rarest order</summary>\n<table class=\"fo-diff\"><thead><tr>");
    put(out, format_args!("{}{}</tr></thead>\n<tbody>\n", head("the most frequent", most), head("the rarest", rarest)));
    for line in text::lines(most.order, rarest.order, options.most_rows) {
        match line {
            Line::Row(Row::Both(both)) => {
                let both = token(both);
                put(out, format_args!("<tr><td class=\"fo-mono\">{both}</td><td class=\"fo-mono\">{both}</td></tr>\n"));
            }
            Line::Row(Row::Left(left)) => put(
                out,
                format_args!(
                    "<tr><td class=\"fo-mono fo-left\"><del>{}</del></td><td class=\"fo-none\"></td></tr>\n",
                    token(left)
                ),
            ),
            Line::Row(Row::Right(right)) => put(
                out,
                format_args!(
                    "<tr><td class=\"fo-none\"></td><td class=\"fo-mono fo-right\"><ins>{}</ins></td></tr>\n",
                    token(right)
                ),
            ),
            Line::Same(count) => {
                put(out, format_args!("<tr><td class=\"fo-soft\" colspan=\"2\">… {count} the same</td></tr>\n"));
            }
            Line::More(count) => {
                put(out, format_args!("<tr><td class=\"fo-soft\" colspan=\"2\">… {count} more</td></tr>\n"));
            }
        }
    }
    out.push_str("</tbody></table></details>\n");
}

fn listed(out: &mut String, tokens: &[Token]) {
    out.push_str("<div class=\"fo-mono\">");
    let lines: Vec<String> = tokens.iter().map(token).collect();
    out.push_str(&lines.join("<br/>\n"));
    out.push_str("</div>\n");
}

fn different(out: &mut String, orders: &Orders) {
    let different = orders.different();
    if different.is_empty() {
        return;
    }
    let runs = text::ended_differently(orders);
    put(out, format_args!("<div class=\"fo-different\"><p class=\"fo-bad\"><strong>{runs}</strong></p>\n"));
    for one in different.iter().take(text::MOST_ENDINGS) {
        put(
            out,
            format_args!(
                "<details><summary>{} × {} <span class=\"fo-soft\">(first in run {})</span></summary>\n",
                words::grouped(one.count),
                words::escape(&text::ending(one.ending)),
                one.first + 1
            ),
        );
        let tokens = &one.order.tokens;
        let from = tokens.len().saturating_sub(LAST_LINES);
        if from > 0 {
            put(out, format_args!("<p class=\"fo-soft\">… {from} before</p>\n"));
        }
        if tokens.is_empty() {
            out.push_str("<p class=\"fo-soft\">Nothing had happened until then.</p>\n");
        }
        listed(out, &tokens[from..]);
        out.push_str("</details>\n");
    }
    if different.len() > text::MOST_ENDINGS {
        put(out, format_args!("<p>… {} more ways to end</p>\n", different.len() - text::MOST_ENDINGS));
    }
    out.push_str("</div>\n");
}
