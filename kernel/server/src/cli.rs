//! The command line: a subcommand for each thing a person does, and one for each role that our
//! own processes play.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use nix::unistd::{dup, dup2_stdin, dup2_stdout};
use tracing_subscriber::EnvFilter;

/// A Jupyter kernel for Rust whose cells fork real processes.
#[derive(Debug, Parser)]
#[command(name = "forklab", version)]
struct Arguments {
    #[command(subcommand)]
    command: Role,
}

/// The name of the far side's program.
const CELLS: &str = "forklab-cells";

#[derive(Debug, Subcommand)]
enum Role {
    /// Serve one notebook (Jupyter calls this)
    Kernel {
        /// The connection file that Jupyter wrote
        #[arg(long, short = 'f', value_name = "FILE")]
        connection_file: PathBuf,
        /// Whatever else there is; `jupyter run FILE` hands the file's name on to the kernel
        #[arg(hide = true)]
        ignored: Vec<std::ffi::OsString>,
    },
    /// Install this binary, the library for cells and the kernelspec
    Install(crate::install::InstallArgs),
    /// Remove exactly what install put there
    Uninstall(crate::install::UninstallArgs),
    /// Check everything that cells need, and say what to do
    Doctor(crate::doctor::DoctorArgs),
    /// Keep a warm compiler process ready, so that notebooks start at once
    Warm(crate::warm::WarmArgs),
    /// Compile cells (the kernel calls this)
    #[command(hide = true)]
    Engine {
        #[arg(long, required_unless_present = "zygote")]
        build_dir: Option<PathBuf>,
        /// Wait for a byte on the standard input; then be what engines are forked from
        #[arg(long)]
        zygote: bool,
    },
    /// Stand between evcxr and the worker (the engine calls this)
    #[command(hide = true)]
    Runner,
}

/// Runs the role that the command line names.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn")))
        .with_writer(std::io::stderr)
        .init();
    match run(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("forklab: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(role: Role) -> Result<(), Box<dyn std::error::Error>> {
    if matches!(role, Role::Kernel { .. } | Role::Engine { .. } | Role::Runner) {
        // A cell runs as the same user. What it finds of ours in `/proc` it shall not open: our channels
        // are there, and our memory.
        forklab_sys::role::keep_others_out();
    }
    match role {
        Role::Kernel { connection_file, ignored: _ } => crate::kernel::serve(&connection_file),
        Role::Install(arguments) => Ok(crate::install::install(&arguments)?),
        Role::Uninstall(arguments) => Ok(crate::install::uninstall(&arguments)?),
        Role::Doctor(arguments) if crate::doctor::doctor(&arguments)? => Ok(()),
        Role::Doctor(_) => Err("see the lines marked BAD".into()),
        Role::Warm(arguments) => Ok(crate::warm::warm(&arguments)?),
        Role::Engine { build_dir: Some(build_dir), zygote: false } => {
            let (channel, runner) = (take_stdin()?.into(), take_stdout()?);
            Ok(forklab_engine::main(channel, runner, build_dir, data_dir())?)
        }
        Role::Engine { .. } => {
            // It outlives the kernel, and whoever waits for the end of a pipe must not wait for it.
            forklab_sys::descriptors::close_inherited()?;
            Ok(forklab_engine::zygote::main(take_stdin()?.into(), data_dir())?)
        }
        Role::Runner => Ok(forklab_engine::runner::main()?),
    }
}

/// Where `forklab install` put the library and the prepared build directory.
pub fn data_dir() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("FORKLAB_DATA") {
        return Some(named.into());
    }
    let program = std::env::current_exe().ok()?;
    let data = program.parent()?.parent()?.join("share/forklab");
    data.is_dir().then_some(data)
}

/// The program of the far side: beside this one where both were built, or where `forklab install` put it.
pub fn cells_program() -> PathBuf {
    let beside = std::env::current_exe().ok().map(|own| own.with_file_name(CELLS));
    let installed = data_dir().map(|data| data.join(CELLS));
    let found = [beside.clone(), installed].into_iter().flatten().find(|program| program.exists());
    // Where there is none, the error at its start names the place where it should be.
    found.or(beside).unwrap_or_else(|| PathBuf::from(CELLS))
}

/// The stream that a role got as its standard input, which becomes `/dev/null`.
fn take_stdin() -> std::io::Result<OwnedFd> {
    let stream = dup(std::io::stdin())?;
    dup2_stdin(std::fs::File::open("/dev/null")?)?;
    close_on_exec(stream)
}

/// The stream that a role got as its standard output, which becomes `/dev/null`.
fn take_stdout() -> std::io::Result<UnixStream> {
    let stream = dup(std::io::stdout())?;
    dup2_stdout(std::fs::File::options().write(true).open("/dev/null")?)?;
    Ok(close_on_exec(stream)?.into())
}

fn close_on_exec(stream: OwnedFd) -> std::io::Result<OwnedFd> {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    fcntl(&stream, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(stream)
}
