//! The tools that cells are compiled with, and what the installation has prepared.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use super::Finding;
use crate::install::library::stamp;
use crate::install::places::Places;
use crate::install::record::Record;
use crate::install::toolchain::{Toolchain, on_path};

/// The oldest compiler that knows the library's edition and functions.
const OLDEST_RUST: (u32, u32) = (1, 95);

const INSTALL_RUST: &str = "install Rust: https://rustup.rs, then open a new shell";

/// What the lessons call beside Rust, and the Debian package of each.
const COMMANDS: &[(&str, &str)] =
    &[("ps", "procps"), ("top", "procps"), ("lscpu", "util-linux"), ("bash", "bash"), ("cat", "coreutils")];

pub(super) fn rustc() -> Finding {
    match Toolchain::find() {
        Ok(toolchain) => match version(&toolchain.version) {
            Some(found) if found < OLDEST_RUST => {
                let needed = format!("{}.{}", OLDEST_RUST.0, OLDEST_RUST.1);
                Finding::bad(toolchain.version, format!("Rust {needed} or newer is needed: rustup update stable"))
            }
            _ => Finding::good(format!("{} in {}", toolchain.version, toolchain.bin.display())),
        },
        Err(error) => Finding::bad(error.to_string(), INSTALL_RUST),
    }
}

/// Major and minor number of `rustc 1.95.0 (…)`.
fn version(line: &str) -> Option<(u32, u32)> {
    let mut numbers = line.split_whitespace().nth(1)?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

pub(super) fn cargo() -> Finding {
    match first_line("cargo", &["--version"]) {
        Some(version) => Finding::good(version),
        None => Finding::bad("cargo does not run", INSTALL_RUST),
    }
}

/// Links a program: a compiler without the C library's files is as bad as none.
pub(super) fn linker() -> Finding {
    const FIX: &str = "sudo apt-get install gcc libc6-dev";
    let Ok(directory) = tempfile::tempdir() else {
        return Finding::bad("not tried: no temporary directory", "see the line \"temporary\"");
    };
    let mut command = Command::new("cc");
    command.args(["-x", "c", "-", "-o"]).arg(directory.path().join("linked"));
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let Ok(mut child) = command.spawn() else {
        return Finding::bad("cc was not found", FIX);
    };
    if let Some(mut source) = child.stdin.take() {
        // A compiler that has left already says why itself.
        source.write_all(b"#include <stdlib.h>\nint main(void) { return EXIT_SUCCESS; }\n").ok();
    }
    match child.wait_with_output() {
        Ok(output) if output.status.success() => {
            Finding::good(first_line("cc", &["--version"]).unwrap_or_else(|| "cc links".to_owned()))
        }
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            Finding::bad(format!("cc cannot link a program: {}", said.lines().next().unwrap_or("")), FIX)
        }
        Err(error) => Finding::bad(format!("cc does not run: {error}"), FIX),
    }
}

pub(super) fn zeromq() -> Finding {
    // Without the library this binary would not have started; what can be wrong is its age.
    let (major, minor, patch) = zmq::version();
    let found = format!("libzmq {major}.{minor}.{patch}");
    if (major, minor) < (4, 2) { Finding::bad(found, "sudo apt-get install libzmq5") } else { Finding::good(found) }
}

pub(super) fn commands() -> Finding {
    let missing: Vec<_> = COMMANDS.iter().filter(|(name, _)| on_path(name).is_none()).collect();
    if missing.is_empty() {
        return Finding::good(COMMANDS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "));
    }
    let names: Vec<_> = missing.iter().map(|(name, _)| *name).collect();
    let mut packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
    packages.dedup();
    Finding::fair(
        format!("not found: {}", names.join(", ")),
        format!("the lessons call them: sudo apt-get install {}", packages.join(" ")),
    )
}

pub(super) fn library() -> Finding {
    let Some(places) = Places::of_this_executable() else {
        return Finding::bad("this binary does not know where it stands", "run install.sh");
    };
    let Ok(record) = Record::load(&places) else {
        return Finding::bad(format!("{} cannot be read", places.record().display()), "forklab install --force");
    };
    if record.files.is_empty() {
        let here = places.binary.display();
        return Finding::bad(
            format!("{here} is not an installed forklab"),
            "run install.sh, then the forklab that it names (is that the first on PATH?)",
        );
    }
    if !filled(&places.template()) {
        return Finding::bad(
            format!("{} is missing or empty", places.template().display()),
            "run install.sh again, as you ran it before",
        );
    }
    let fresh = Toolchain::find().and_then(|toolchain| stamp(&toolchain, &places.binary));
    if fresh.is_ok_and(|stamp| stamp == record.stamp) {
        Finding::good(format!("compiled in {}", places.template().display()))
    } else {
        Finding::fair(
            "compiled by another rustc than the one found here: the first cell of a notebook takes longer",
            "run install.sh again, as you ran it before",
        )
    }
}

/// A zygote is a matter of speed only, so none of this is bad.
pub(super) fn zygote() -> Finding {
    if !forklab_engine::zygote::is_wanted() {
        return Finding::good("switched off: every notebook loads the compiler anew");
    }
    match crate::warm::seen() {
        Ok(Some(seen)) => Finding::good(seen),
        Ok(None) => Finding::good("none yet: the first notebook starts one (or `forklab warm`)"),
        Err(error) if error.to_string().contains("of this user's alone") => {
            Finding::fair(error.to_string(), "set XDG_RUNTIME_DIR or TMPDIR to a directory of yours")
        }
        Err(error) => Finding::good(error.to_string()),
    }
}

fn filled(directory: &Path) -> bool {
    fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some())
}

/// The first line that a command prints, if it succeeds.
pub(super) fn first_line(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned);
    text.filter(|_| output.status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert_eq!(version("rustc 1.95.0 (59807616e 2026-04-14)"), Some((1, 95)));
        assert_eq!(version("rustc 1.101.0-nightly"), Some((1, 101)));
        assert_eq!(version("rustc"), None);
    }
}
