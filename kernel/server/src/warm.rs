//! `forklab warm`: the zygote as a person sees it. Starts one ahead of the first notebook, says how it is,
//! ends it.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use forklab_engine::zygote::{Status, Zygote, is_wanted};

use crate::cli::data_dir;
use crate::install::places::Places;

/// How long a zygote may take to be warm. Ten seconds are usual; machines are slow when they start.
const LIMIT: Duration = Duration::from_secs(180);

/// What `--status` says where there is no zygote.
const NONE: &str = "there is none";

/// What `forklab warm` is told on the command line.
#[derive(Debug, Clone, clap::Args)]
pub struct WarmArgs {
    /// End it; notebooks that run are not touched.
    #[arg(long)]
    pub stop: bool,
    /// Say whether there is one. Fails when there is none.
    #[arg(long, conflicts_with = "stop")]
    pub status: bool,
    /// For kernels with this very environment, and not with that of the kernelspec.
    #[arg(long, hide = true)]
    pub as_is: bool,
}

/// Does what the arguments say, and says on stdout what it did.
///
/// # Errors
/// With `--status`, `NotFound` when there is none. Otherwise what keeps one from starting, or from leaving.
pub fn warm(args: &WarmArgs) -> io::Result<()> {
    if !is_wanted() {
        return Err(io::Error::other("switched off (FORKLAB_ZYGOTE=off, or a build that cannot fork)"));
    }
    if !args.as_is
        && let Some(environment) = kernels_environment()
    {
        return Err(command(args.stop, args.status)?.envs(environment).exec());
    }
    let zygote = Zygote::of_this_process(data_dir().as_deref())?;
    match (args.stop, args.status) {
        (true, _) if zygote.stop()? => println!("stopped"),
        (true, _) => println!("there was none"),
        (_, true) => println!("{}", told(&look(&zygote)?)),
        (false, false) => println!("{}", told(&start(&zygote)?)),
    }
    Ok(())
}

/// This program, asked the same, in the environment that it has already.
fn command(stop: bool, status: bool) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["warm", "--as-is"]).args(stop.then_some("--stop")).args(status.then_some("--status"));
    Ok(command)
}

/// What Jupyter adds to a kernel's environment, as the installed kernelspec says: a zygote is for kernels
/// whose compiler is the same. `None` where nothing is installed.
fn kernels_environment() -> Option<Vec<(String, String)>> {
    let places = Places::of_this_executable()?;
    let spec = std::fs::read(places.kernelspec.join("kernel.json")).ok()?;
    let spec: serde_json::Value = serde_json::from_slice(&spec).ok()?;
    let entries = spec["env"].as_object()?.iter();
    Some(entries.filter_map(|(name, value)| Some((name.clone(), substituted(value.as_str()?)))).collect())
}

/// A value with `${PATH}` replaced, and `$$` by `$`: as much of Python's `string.Template` as we write.
fn substituted(value: &str) -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    value.split("$$").map(|part| part.replace("${PATH}", &path)).collect::<Vec<_>>().join("$")
}

/// How the zygote for installed kernels is, for a check; `None` when there is none.
///
/// # Errors
/// Those of running this program, and what it says.
pub(crate) fn seen() -> io::Result<Option<String>> {
    let environment = kernels_environment().unwrap_or_default();
    let output = command(false, true)?.envs(environment).output()?;
    if output.status.success() {
        return Ok(Some(String::from_utf8_lossy(&output.stdout).trim().to_owned()));
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().trim_start_matches("forklab: ").to_owned();
    if said == NONE { Ok(None) } else { Err(io::Error::other(said)) }
}

fn look(zygote: &Zygote) -> io::Result<Status> {
    zygote.status().map_err(|error| match error.kind() {
        _ if !zygote.exists() => io::Error::new(io::ErrorKind::NotFound, NONE),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => io::Error::other("one is warming up"),
        _ => error,
    })
}

fn told(status: &Status) -> String {
    format!("warm: process {}, {} engines forked, {} living", status.pid, status.forked, status.living)
}

fn start(zygote: &Zygote) -> io::Result<Status> {
    if let Ok(status) = zygote.status() {
        return Ok(status);
    }
    let mut ember = zygote.ember(&std::env::current_exe()?)?;
    ember.detach();
    ember.kindle();
    let begun = Instant::now();
    let mut seen = zygote.exists();
    loop {
        match zygote.status() {
            Ok(status) => return Ok(status),
            Err(_) if seen && !zygote.exists() => {
                let log = zygote.log_path().map(|path| format!("; see {}", path.display())).unwrap_or_default();
                return Err(io::Error::other(format!("it has left before it was warm{log}")));
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
            Err(error) if begun.elapsed() > LIMIT || !seen && begun.elapsed() > Duration::from_secs(10) => {
                return Err(error);
            }
            Err(_) => seen |= zygote.exists(),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
