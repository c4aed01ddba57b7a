//! `forklab doctor`: looks at everything that a person can get wrong, one line each, and says under
//! each bad line what to do. It leaves everything as it was.

mod checks;
mod jupyter;
mod limits;
mod machine;

use std::io::{self, Write};

/// What `forklab doctor` is told on the command line.
#[derive(Debug, Clone, clap::Args)]
pub struct DoctorArgs {
    /// Also start the installed kernel through Jupyter and have it fork.
    #[arg(long)]
    pub run: bool,
}

/// How one check came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Finding {
    /// As it should be: what was seen.
    Good(String),
    /// It works, and something will be missed or slow: what was seen, and what to do.
    Fair(String, String),
    /// Cells will not work: what was seen, and what to do.
    Bad(String, String),
}

impl Finding {
    pub(crate) fn good(seen: impl Into<String>) -> Self {
        Finding::Good(seen.into())
    }

    pub(crate) fn fair(seen: impl Into<String>, fix: impl Into<String>) -> Self {
        Finding::Fair(seen.into(), fix.into())
    }

    pub(crate) fn bad(seen: impl Into<String>, fix: impl Into<String>) -> Self {
        Finding::Bad(seen.into(), fix.into())
    }
}

/// A check: its name in the table, and how it is made.
type Check = (&'static str, fn() -> Finding);

/// In the order in which a person would mend things: what is below comes first.
const CHECKS: &[Check] = &[
    ("rustc", checks::rustc),
    ("cargo", checks::cargo),
    ("linker", checks::linker),
    ("zeromq", checks::zeromq),
    ("home", machine::home),
    ("cargo home", machine::cargo_home),
    ("temporary", machine::temporary_directory),
    ("disk", machine::disk),
    ("memory", machine::memory),
    ("processes", machine::processes),
    ("open files", machine::open_files),
    ("limits", limits::limits),
    ("limits set", limits::settings),
    ("waits seen", machine::waiting_is_visible),
    ("commands", checks::commands),
    ("library", checks::library),
    ("zygote", checks::zygote),
    ("jupyter", jupyter::present),
    ("kernelspec", jupyter::kernelspec),
];

/// Makes every check and prints the table on stdout. Returns whether cells will work.
///
/// # Errors
/// Those of writing to stdout.
pub fn doctor(args: &DoctorArgs) -> io::Result<bool> {
    let mut works = true;
    let last: &[Check] = if args.run { &[("a cell", jupyter::run_a_cell)] } else { &[] };
    for (name, check) in CHECKS.iter().chain(last) {
        let finding = check();
        works &= !matches!(finding, Finding::Bad(..));
        io::stdout().write_all(line(name, &finding).as_bytes())?;
        io::stdout().flush()?;
    }
    let verdict =
        if works { "forklab is ready" } else { "forklab will not work until the lines marked BAD are mended" };
    writeln!(io::stdout(), "{verdict}")?;
    Ok(works)
}

fn line(name: &str, finding: &Finding) -> String {
    let (mark, seen, fix) = match finding {
        Finding::Good(seen) => ("ok  ", seen, None),
        Finding::Fair(seen, fix) => ("note", seen, Some(fix)),
        Finding::Bad(seen, fix) => ("BAD ", seen, Some(fix)),
    };
    let mut text = format!("{mark}  {name:<11} {seen}\n");
    if let Some(fix) = fix {
        for part in fix.lines() {
            text.push_str(&format!("                  -> {part}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_line_is_followed_by_what_to_do() {
        let text = line("rustc", &Finding::bad("not found", "install Rust"));
        assert_eq!(text, "BAD   rustc       not found\n                  -> install Rust\n");
    }
}
