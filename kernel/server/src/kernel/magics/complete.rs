//! What may stand at the cursor in a line that is a magic, and what there is to say about it.

use super::rust::Rust;
use super::table::{self, Kind, MAGICS, Magic};

/// What may stand at the cursor.
#[derive(Debug, PartialEq, Eq)]
pub struct Completion {
    /// The byte at which the text begins that is replaced; it ends at the cursor.
    pub start: usize,
    /// What may stand there, and what it means.
    pub matches: Vec<(String, &'static str)>,
}

/// What may stand at this byte of the cell, if that is in a magic; else `None`.
pub fn complete(code: &str, position: usize) -> Option<Completion> {
    let (begin, line) = magic_line(code, position)?;
    let typed = &line[..position - begin];
    let indent = typed.len() - typed.trim_start().len();
    let Some(space) = typed[indent..].find(char::is_whitespace) else {
        return Some(Completion { start: begin + indent, matches: names(typed.trim_start()) });
    };
    let magic = magic_of(&typed[indent..indent + space])?;
    let word = typed.trim_end_matches(|sign: char| !sign.is_whitespace()).len();
    Some(words(magic, typed, word, begin))
}

/// What there is to say about the magic of the line in which this byte of the cell is.
pub fn inspect(code: &str, position: usize) -> Option<String> {
    let (_, line) = magic_line(code, position)?;
    let word = line.split_whitespace().next()?;
    magic_of(word.trim_end_matches('?')).map(Magic::text)
}

/// The magics whose names begin so. One percent sign means both kinds.
fn names(typed: &str) -> Vec<(String, &'static str)> {
    let name = typed.trim_start_matches('%');
    let cells_only = typed.starts_with("%%");
    let wanted = |magic: &&Magic| magic.name.starts_with(name) && (matches!(magic.kind, Kind::Cell(_)) || !cells_only);
    MAGICS.iter().filter(wanted).map(|magic| (magic.written(), magic.summary)).collect()
}

/// The magic with this name, of which the percent signs are to be right.
fn magic_of(word: &str) -> Option<&'static Magic> {
    table::named(word.trim_start_matches('%')).filter(|magic| magic.written() == word)
}

/// The words that a magic knows, at the word that begins at `word` in the line up to the cursor.
fn words(magic: &'static Magic, typed: &str, word: usize, begin: usize) -> Completion {
    let before: Vec<&str> = typed[..word].split_whitespace().skip(1).collect();
    let values = |option: &str| magic.values.iter().find(|(name, _)| *name == option).map(|(_, values)| *values);
    // `--by ev` and `--by=ev`
    let assigned = typed[word..].split_once('=').filter(|(option, _)| option.starts_with("--"));
    let behind = match assigned {
        Some((option, _)) => values(option).map(|values| (values, word + option.len() + 1)),
        None => before.last().and_then(|option| values(option)).map(|values| (values, word)),
    };
    if let Some((values, from)) = behind {
        let begun = &typed[from..];
        let matches = values.iter().filter(|value| value.starts_with(begun)).map(|value| ((*value).to_owned(), ""));
        return Completion { start: begin + from, matches: matches.collect() };
    }
    let begun = &typed[word..];
    let used = |option: &str| before.iter().any(|word| word.starts_with(option));
    let options = magic.options.iter().filter(|(option, _)| option.starts_with(begun) && !used(option));
    let matches = options.map(|(option, meaning)| ((*option).to_owned(), *meaning)).collect();
    Completion { start: begin + word, matches }
}

/// The line of this byte, and where it begins, if it is one that may hold a magic and begins with `%`.
fn magic_line(code: &str, position: usize) -> Option<(usize, &str)> {
    let mut rust = Rust::default();
    let mut begin = 0;
    for line in code.split('\n') {
        let starts = |signs: &[char]| rust.before_code() && line.trim_start().starts_with(signs);
        if position <= begin + line.len() {
            return starts(&['%']).then_some((begin, line)).filter(|_| position >= begin);
        }
        if !starts(&['%', '!', ':']) {
            rust.read(line);
        }
        begin += line.len() + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The matches at the `|` of a cell, with the text that they replace.
    fn at(cell: &str) -> Option<(String, Vec<String>)> {
        let position = cell.find('|').expect("a cursor");
        let code = cell.replacen('|', "", 1);
        let found = complete(&code, position)?;
        let matches = found.matches.into_iter().map(|(text, _)| text).collect();
        Some((code[found.start..position].to_owned(), matches))
    }

    fn found(cell: &str) -> (String, Vec<String>) {
        at(cell).unwrap_or_else(|| panic!("{cell:?} is in a magic"))
    }

    #[test]
    fn names_are_completed() {
        assert_eq!(found("%ti|").1, ["%%time", "%timeline"]);
        assert_eq!(found("%%ti|"), ("%%ti".to_owned(), vec!["%%time".to_owned()]));
        assert_eq!(found("// why\n:dep rand\n  %%repe|").0, "%%repe");
        assert_eq!(found("%|").1.len(), MAGICS.len());
        assert_eq!(found("%%trace\n!ls\n%che|\nlet x = 1;").1, ["%checkpoint"]);
        assert!(found("%zz|").1.is_empty());
    }

    #[test]
    fn options_and_values_are_completed() {
        assert_eq!(found("%%repeat 10 --b|"), ("--b".to_owned(), vec!["--by".to_owned()]));
        assert_eq!(found("%%repeat 10 --by |").1, ["lines", "bytes", "events"]);
        assert_eq!(found("%%repeat 10 --by=e|"), ("e".to_owned(), vec!["events".to_owned()]));
        assert_eq!(found("%%repeat --until |").1, ["DISTINCT="]);
        assert_eq!(found("%checkpoint o|").1, ["on", "off"]);
        assert!(found("%%limit |").1.contains(&"procs=".to_owned()));
        assert!(!found("%%limit procs=3 |").1.contains(&"procs=".to_owned()));
        assert!(found("%ps |").1.is_empty());
    }

    #[test]
    fn what_is_no_magic_is_the_compilers() {
        for cell in ["let x = 1;\n%ti|", "x |", "%%time\nstd::|", "/*\n%ti|\n*/", "%nothing o|", "|"] {
            assert_eq!(at(cell), None, "{cell:?}");
        }
    }

    #[test]
    fn a_wide_space_ends_a_word() {
        assert!(found("%%limit\u{a0}|").1.contains(&"procs=".to_owned()));
        assert_eq!(found("%checkpoint\u{3000}o|"), ("o".to_owned(), vec!["on".to_owned(), "off".to_owned()]));
    }

    #[test]
    fn a_magic_is_explained_where_it_stands() {
        let text = inspect("%%repeat 100 --by lines\nf()", 5).expect("it is one");
        assert!(text.starts_with("%%repeat N") && text.contains("--perturb"), "{text}");
        assert!(inspect("%kill?", 6).is_some_and(|text| text.starts_with("%kill")));
        assert_eq!(inspect("let x = 1;", 2), None);
    }
}
