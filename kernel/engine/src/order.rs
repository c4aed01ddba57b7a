//! One order for what evcxr keeps in none.
//!
//! Items and variables are in hash tables, whose order changes when a table grows, which it may when a
//! cell is run again. Neither order means anything, with one exception: a macro by example is known
//! from its definition on. So sources with such macros are taken as they are.

use std::ops::Range;

use crate::source::Source;

/// With what an item begins. Where something else stands at the beginning of what looks like an item,
/// it is the rest of one, and nothing is sorted.
const BEGINNINGS: &[&str] = &[
    "use", "pub", "fn", "struct", "enum", "union", "trait", "impl", "const", "static", "type", "mod", "unsafe",
    "async", "extern", "crate",
];

/// The lines of items, those of each item together, in an order that depends on their text alone.
pub(crate) fn of_items(source: &Source<'_>, items: Range<usize>) -> Vec<usize> {
    let as_they_are = items.clone().collect();
    if source.lines[items.clone()].iter().any(|line| line.contains("macro")) {
        return as_they_are;
    }
    let Some(mut pieces) = pieces(source, items) else { return as_they_are };
    pieces.sort_by(|one, other| source.lines[one.clone()].cmp(&source.lines[other.clone()]));
    pieces.into_iter().flatten().collect()
}

/// Lines that stand one after the other and begin alike, sorted.
pub(crate) fn of_lines(lines: &[&str], range: Range<usize>, beginnings: &[&str]) -> Vec<usize> {
    let kind = |line: usize| beginnings.iter().position(|beginning| lines[line].starts_with(beginning));
    let mut order: Vec<usize> = range.collect();
    for run in order.chunk_by_mut(|one, other| kind(*one).is_some() && kind(*one) == kind(*other)) {
        if kind(run[0]).is_some() {
            run.sort_by_key(|line| lines[*line]);
        }
    }
    order
}

/// The items, each with what stands before it; `None` where it is not clear where they begin.
fn pieces(source: &Source<'_>, items: Range<usize>) -> Option<Vec<Range<usize>>> {
    let mut pieces = Vec::new();
    let mut start = items.start;
    for line in items.clone() {
        let outside = line + 1 == items.end || source.depth.get(line + 1) == Some(&Some(0));
        let text = source.lines[line].trim_end();
        let comment = text.trim_start().starts_with("//") && source.depth[line].is_some();
        if outside && !comment && text.ends_with([';', '}']) {
            pieces.push(start..line + 1);
            start = line + 1;
        }
    }
    let rest = start..items.end;
    let blank = source.lines[rest.clone()].iter().all(|line| line.trim().is_empty());
    pieces.push(rest.clone());
    let begins = |piece: &Range<usize>| {
        let first = source.lines[piece.clone()].iter().find(|line| !line.trim().is_empty());
        first.is_none_or(|line| {
            let line = line.trim_start();
            let word = line.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
            line.starts_with('#') || line.starts_with("//") || BEGINNINGS.contains(&word)
        })
    };
    (blank && pieces.iter().all(begins)).then_some(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(text: &str) -> Vec<String> {
        let source = Source::read(text);
        of_items(&source, 0..source.lines.len()).into_iter().map(|line| source.lines[line].to_owned()).collect()
    }

    #[test]
    fn items_stay_whole() {
        let one = "struct A;\n#[derive(Debug)]\nstruct B {\n    b: u8,\n}\n// of f;\nfn f()\n{\n}\nuse std::fs;\n";
        let other = "use std::fs;\n// of f;\nfn f()\n{\n}\n#[derive(Debug)]\nstruct B {\n    b: u8,\n}\nstruct A;\n";
        assert_eq!(sorted(one), sorted(other));
        let different =
            "#[derive(Debug)]\nstruct A;\nstruct B {\n    b: u8,\n}\n// of f;\nfn f()\n{\n}\nuse std::fs;\n";
        assert_ne!(sorted(one), sorted(different), "an attribute is about what follows");
    }

    #[test]
    fn what_is_not_clear_stays() {
        for text in [
            "struct B;\nconst C: u8 = if true { 1 }\nelse { 2 };\nconst A: u8 = if true { 1 }\nelse { 3 };\n",
            "use b::{c}\n;\nuse a::{d}\n;\n",
            "fn z() {}\nmacro_rules! m { () => {} }\nfn a() {}\n",
            "struct B; /* and\n} */\nstruct A;\nstruct C<const N: usize = { 1 }\n>;\n",
        ] {
            assert_eq!(sorted(text), text.lines().collect::<Vec<_>>(), "{text}");
        }
    }

    #[test]
    fn lines_of_a_kind_are_sorted_and_others_are_not() {
        let lines = ["b", "p 2", "p 1", "a", "q 2", "q 1", "p 0"];
        assert_eq!(of_lines(&lines, 0..7, &["p ", "q "]), [0, 2, 1, 3, 5, 4, 6]);
    }
}
