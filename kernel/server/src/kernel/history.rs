//! The cells that were run in this session, for `history_request`.

use jupyter_protocol::messaging::{HistoryEntry, HistoryRequest};

/// Inputs in order, with their execution counts.
#[derive(Debug, Default)]
pub struct History {
    inputs: Vec<(usize, String)>,
}

impl History {
    /// Adds a cell.
    pub fn push(&mut self, execution: u32, code: &str) {
        self.inputs.push((execution as usize, code.to_owned()));
    }

    /// What a request asks for. Outputs are not kept: where they are asked for, they are empty.
    pub fn answer(&self, request: &HistoryRequest) -> Vec<HistoryEntry> {
        match request {
            HistoryRequest::Tail { n, output, .. } => entries(last(self.inputs.iter().collect(), *n), *output),
            HistoryRequest::Range { session, start, stop, output, .. } => {
                // Session 0 is the running one; sessions of the past are not kept.
                if session.is_some_and(|session| session != 0) {
                    return Vec::new();
                }
                let from = usize::try_from(*start).unwrap_or(0);
                // A stop that is not positive means: up to the end.
                let to = usize::try_from(*stop).ok().filter(|stop| *stop > 0).unwrap_or(usize::MAX);
                let chosen = self.inputs.iter().filter(|(n, _)| (from..to).contains(n)).collect();
                entries(chosen, *output)
            }
            HistoryRequest::Search { pattern, unique, output, n, .. } => {
                let mut found: Vec<&(usize, String)> =
                    self.inputs.iter().filter(|(_, code)| glob(pattern, code)).collect();
                if *unique {
                    let mut seen = std::collections::HashSet::new();
                    found.reverse();
                    found.retain(|(_, code)| seen.insert(code.as_str()));
                    found.reverse();
                }
                entries(last(found, *n), *output)
            }
        }
    }
}

fn last<T>(mut all: Vec<T>, n: i32) -> Vec<T> {
    let keep = usize::try_from(n).unwrap_or(usize::MAX).min(all.len());
    all.split_off(all.len() - keep)
}

fn entries(chosen: Vec<&(usize, String)>, output: bool) -> Vec<HistoryEntry> {
    let entry = |(n, code): &(usize, String)| match output {
        false => HistoryEntry::Input(0, *n, code.clone()),
        true => HistoryEntry::InputOutput(0, *n, (code.clone(), String::new())),
    };
    chosen.into_iter().map(entry).collect()
}

/// Whether a text matches a glob with `*` and `?`, as in IPython's search.
fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == '?' || *c == text[t] => (p, t) = (p + 1, t + 1),
            // No match here: let the last star take one character more.
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    (p, t) = (at + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(entries: Vec<HistoryEntry>) -> Vec<String> {
        let code = |entry| match entry {
            HistoryEntry::Input(_, _, code) | HistoryEntry::InputOutput(_, _, (code, _)) => code,
        };
        entries.into_iter().map(code).collect()
    }

    fn history() -> History {
        let mut history = History::default();
        for (n, code) in [(1, "let a = 1;"), (2, "a"), (3, "a"), (4, "fork()")] {
            history.push(n, code);
        }
        history
    }

    #[test]
    fn tail_range_and_search() {
        let history = history();
        let tail = HistoryRequest::Tail { n: 2, output: false, raw: true };
        assert_eq!(codes(history.answer(&tail)), ["a", "fork()"]);
        let range = HistoryRequest::Range { session: Some(0), start: 1, stop: 3, output: false, raw: true };
        assert_eq!(codes(history.answer(&range)), ["let a = 1;", "a"]);
        let search = |unique| HistoryRequest::Search { pattern: "a*".into(), unique, output: true, raw: true, n: 10 };
        assert_eq!(codes(history.answer(&search(false))), ["a", "a"]);
        assert_eq!(codes(history.answer(&search(true))), ["a"]);
    }

    #[test]
    fn globs() {
        assert!(glob("*rk*", "fork()") && glob("f?rk()", "fork()") && glob("*", ""));
        assert!(!glob("rk", "fork()") && !glob("f?", "f"));
    }
}
