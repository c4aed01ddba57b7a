//! Jupyter as a person has it: is it there, does it know the kernel, does a cell run through it?

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use super::Finding;
use super::checks::first_line;
use crate::install::places::Places;

/// How many seconds the kernel's start may take, and then a cell, on a slow machine.
const CELL_LIMIT: u32 = 120;

const INSTALL_JUPYTER: &str = "install it where you like, e.g.: python3 -m venv ~/jupyter && ~/jupyter/bin/pip install jupyterlab\n\
                               and put it on PATH: export PATH=~/jupyter/bin:$PATH";

/// A cell that only a kernel of processes can answer.
const CELL: &str = "\
use forklab::Process;\n\
let mut child = Process::new(|| println!(\"child of {}\", std::os::unix::process::parent_id()));\n\
child.start().unwrap();\n\
child.join().unwrap();\n\
println!(\"parent {}\", std::process::id());\n";

pub(super) fn present() -> Finding {
    if first_line("jupyter", &["kernelspec", "--version"]).is_none() {
        return Finding::bad("jupyter was not found on PATH", INSTALL_JUPYTER);
    }
    match first_line("jupyter", &["lab", "--version"]) {
        Some(version) => Finding::good(format!("JupyterLab {version}")),
        None => {
            Finding::fair("jupyter is there, JupyterLab is not", "pip install jupyterlab, in jupyter's environment")
        }
    }
}

pub(super) fn kernelspec() -> Finding {
    let output = Command::new("jupyter").args(["kernelspec", "list", "--json"]).stdin(Stdio::null()).output();
    let text = match output {
        Ok(output) if output.status.success() => output.stdout,
        _ => return Finding::bad("jupyter does not list its kernels", "see the line \"jupyter\""),
    };
    let list: Value = serde_json::from_slice(&text).unwrap_or_default();
    let entry = &list["kernelspecs"]["forklab"];
    if entry.is_null() {
        return Finding::bad("jupyter does not know the kernel", advice_on_unknown());
    }
    let program = entry["spec"]["argv"][0].as_str().unwrap_or_default();
    let directory = entry["resource_dir"].as_str().unwrap_or_default();
    judge(program, directory)
}

/// The kernel is known: does its kernelspec lead to this binary?
fn judge(program: &str, directory: &str) -> Finding {
    let run_install = "run install.sh again";
    if !Path::new(program).is_file() {
        return Finding::bad(format!("{directory} names {program}, which is not there"), run_install);
    }
    let same =
        fs::canonicalize(program).ok() == std::env::current_exe().ok().and_then(|own| fs::canonicalize(own).ok());
    if !same {
        return Finding::fair(
            format!("jupyter starts {program}, which is not the forklab that you ask now"),
            format!("ask that one: {program} doctor; or remove one of the two with install.sh --uninstall"),
        );
    }
    Finding::good(directory)
}

fn advice_on_unknown() -> String {
    match Places::of_this_executable() {
        Some(places) if places.kernelspec.is_dir() => format!(
            "it is in {}, where this jupyter does not look:\n\
             install into jupyter's own environment (install.sh --sys-prefix), or set JUPYTER_PATH={}",
            places.kernelspec.display(),
            places.kernelspec.parent().and_then(Path::parent).unwrap_or(Path::new("/")).display()
        ),
        _ => "run install.sh".to_owned(),
    }
}

/// Starts the kernel as a notebook would and runs one cell that forks.
pub(super) fn run_a_cell() -> Finding {
    let started = Instant::now();
    match through_jupyter() {
        Ok(output) => {
            let pid_after =
                |word: &str| output.lines().find_map(|line| line.strip_prefix(word)?.trim().parse::<u32>().ok());
            let (child, parent) = (pid_after("child of "), pid_after("parent "));
            if child.is_some() && child == parent {
                Finding::good(format!(
                    "forked and was joined, {:.1} s with the kernel's start",
                    started.elapsed().as_secs_f32()
                ))
            } else {
                Finding::bad(
                    format!("a cell ran, but did not show its child: {}", output.trim()),
                    "report this, with the text above",
                )
            }
        }
        Err(error) => Finding::bad(
            format!("the kernel did not run a cell: {error}"),
            "mend the lines above; if they are good, `jupyter console --kernel forklab` shows more",
        ),
    }
}

/// What the cell printed, through `jupyter execute` and the installed kernelspec.
fn through_jupyter() -> io::Result<String> {
    let directory = tempfile::tempdir()?;
    let (notebook, log) = (directory.path().join("cell.ipynb"), directory.path().join("log"));
    fs::write(&notebook, notebook_of_one_cell().to_string())?;
    let mut command = Command::new("jupyter");
    command.args(["execute", "--inplace", "--kernel_name=forklab"]);
    command.args([format!("--timeout={CELL_LIMIT}"), format!("--startup_timeout={CELL_LIMIT}")]).arg(&notebook);
    // Into a file: a pipe would stay open for as long as anything that the kernel started lives.
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&log)?).status()?;
    if !status.success() {
        let text = fs::read_to_string(&log)?;
        let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it says nothing");
        return Err(io::Error::other(last.trim().to_owned()));
    }
    let ran: Value = serde_json::from_slice(&fs::read(&notebook)?)?;
    let outputs = ran["cells"][0]["outputs"].as_array().cloned().unwrap_or_default();
    Ok(outputs.iter().map(|output| joined(&output["text"])).collect())
}

fn notebook_of_one_cell() -> Value {
    json!({
        "cells": [{ "cell_type": "code", "id": "fork", "source": CELL, "metadata": {}, "outputs": [], "execution_count": null }],
        "metadata": { "kernelspec": { "name": "forklab", "display_name": "Rust (forklab)", "language": "rust" } },
        "nbformat": 4,
        "nbformat_minor": 5,
    })
}

/// A text as notebooks hold it: whole, or as its lines.
fn joined(text: &Value) -> String {
    match text {
        Value::Array(lines) => lines.iter().filter_map(Value::as_str).collect(),
        other => other.as_str().unwrap_or_default().to_owned(),
    }
}
