//! `forklab install` and `forklab uninstall`: the binary, the library with its prepared build
//! directory, and the kernelspec, laid out below one prefix; and all of it taken away again.
//!
//! What is written is recorded (`record`), and only what is recorded is removed. Nothing here
//! installs packages of the system: that is `install.sh`.

pub mod library;
pub mod places;
pub mod record;
pub mod toolchain;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use places::{Places, Target};
use record::Record;
use toolchain::Toolchain;

/// The logos of the kernelspec: file name and content.
const LOGOS: &[(&str, &[u8])] = &[
    ("logo-svg.svg", include_bytes!("../assets/logo-svg.svg")),
    ("logo-32x32.png", include_bytes!("../assets/logo-32x32.png")),
    ("logo-64x64.png", include_bytes!("../assets/logo-64x64.png")),
];

/// What `forklab install` is told on the command line.
#[derive(Debug, Clone, clap::Args)]
pub struct InstallArgs {
    /// Where to.
    #[command(flatten)]
    pub target: Target,
    /// Build the library for cells anew, also when nothing has changed.
    #[arg(long)]
    pub force: bool,
    /// The second half: the installed binary goes on where the one that copied it stopped.
    /// It gets a prefix only, and here the kernelspec's directory, which need not be below it.
    #[arg(long, hide = true, value_name = "KERNELSPEC")]
    pub finish: Option<PathBuf>,
}

/// What `forklab uninstall` is told on the command line.
#[derive(Debug, Clone, clap::Args)]
pub struct UninstallArgs {
    /// Where from.
    #[command(flatten)]
    pub target: Target,
}

/// Why an installation did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A file or directory could not be read, written or run.
    #[error("cannot {action} {}: {error}{}", path.display(), advice(error))]
    File {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Something on this machine is missing or does not answer. The text says what to do.
    #[error("{0}")]
    Missing(String),
    /// The library for cells did not compile.
    #[error(
        "the library for cells could not be built: {0}\n  \
             See that `cargo build` works here (network, disk, memory), then run the installation again."
    )]
    Template(String),
}

impl InstallError {
    /// Names what was tried and on which file; for `map_err`.
    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| InstallError::File { action, path, error }
    }
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "\n  Choose a place of your own with --user or --prefix DIR, or run as the owner of that place."
        }
        io::ErrorKind::StorageFull => "\n  Make room on that disk, then run the installation again.",
        io::ErrorKind::ReadOnlyFilesystem => "\n  Choose another place with --prefix DIR.",
        _ => "",
    }
}

/// Installs this very binary and everything that belongs to it, and says on stdout what it does.
/// Run again, it does only what is missing or has changed.
///
/// The binary is copied first, and the copy does the rest: what cargo remembers of a build names
/// the compiler's wrapper, which is this binary, by its path.
///
/// # Errors
/// [`InstallError`]; what has been installed until then stays and is known to `uninstall`.
pub fn install(args: &InstallArgs) -> Result<(), InstallError> {
    let mut places = Places::find(&args.target)?;
    if let Some(kernelspec) = &args.finish {
        places.kernelspec = kernelspec.clone();
    }
    let toolchain = Toolchain::find()?;
    let made = create(&places.data)?;
    // Two installations into one place take turns: the record is read and written by one at a time.
    // The lock goes with the descriptor, which exec(2) closes; the second half takes it anew.
    let lock = File::create(places.lock()).map_err(InstallError::file("create", &places.lock()))?;
    lock.lock().map_err(InstallError::file("lock", &places.lock()))?;
    let mut record = Record::load(&places)?;
    record.directories.extend(made);
    // These bear our name: they are ours also when an installation whose record is lost has made them.
    record.directories.extend([places.data.clone(), places.library(), places.kernelspec.clone()]);
    if args.finish.is_some() {
        return finish(args, &places, &toolchain, &mut record);
    }
    println!("forklab {}: installing below {}", env!("CARGO_PKG_VERSION"), places.prefix.display());
    copy_binary(&places, &mut record)?;
    let mut rest = Command::new(&places.binary);
    rest.arg("install").arg("--prefix").arg(&places.prefix).arg("--finish").arg(&places.kernelspec);
    rest.args(args.force.then_some("--force"));
    rest.env("PATH", toolchain.search_path());
    let error = rest.exec();
    Err(InstallError::File { action: "run", path: places.binary.clone(), error })
}

fn finish(args: &InstallArgs, places: &Places, toolchain: &Toolchain, record: &mut Record) -> Result<(), InstallError> {
    let stamp = library::stamp(toolchain, &places.binary)?;
    library::write(places, record)?;
    if !args.force && record.stamp == stamp && places.template().is_dir() {
        println!("  library    up to date");
    } else {
        println!("  library    compiling for cells, with {} (a minute or less)", toolchain.version);
        build_template(places)?;
        record.stamp = stamp;
        record.save(places)?;
    }
    write_kernelspec(places, toolchain, record)?;
    record.save(places)?;
    println!("  done       in JupyterLab, choose the kernel \"Rust (forklab)\"");
    Ok(())
}

/// Copies the running executable and the far side's to their places, by renames, so that a kernel that runs
/// from there goes on undisturbed.
fn copy_binary(places: &Places, record: &mut Record) -> Result<(), InstallError> {
    let own = Path::new("/proc/self/exe");
    let content = fs::read(own).map_err(InstallError::file("read", own))?;
    let changed = write_if_changed(&places.binary, &content, 0o755, record)?;
    record.save(places)?;
    println!("  binary     {}{}", places.binary.display(), if changed { "" } else { " (up to date)" });
    let cells = crate::cli::cells_program();
    let content = fs::read(&cells).map_err(InstallError::file("read", &cells))?;
    write_if_changed(&places.cells(), &content, 0o755, record)?;
    record.save(places)
}

/// Builds the template beside the old one and swaps them, so that an engine that starts meanwhile
/// finds the one or the other.
fn build_template(places: &Places) -> Result<(), InstallError> {
    let (fresh, template) = (places.data.join("template.new"), places.template());
    remove_tree(&fresh)?;
    forklab_engine::template::prepare(&places.library(), &fresh)
        .map_err(|error| InstallError::Template(error.to_string()))?;
    let old = places.data.join("template.old");
    remove_tree(&old)?;
    if template.exists() {
        fs::rename(&template, &old).map_err(InstallError::file("rename", &template))?;
    }
    fs::rename(&fresh, &template).map_err(InstallError::file("rename", &fresh))?;
    remove_tree(&old)
}

fn write_kernelspec(places: &Places, toolchain: &Toolchain, record: &mut Record) -> Result<(), InstallError> {
    let spec = json!({
        "argv": [places.binary, "kernel", "--connection-file", "{connection_file}"],
        "display_name": "Rust (forklab)",
        "language": "rust",
        // With "signal", SIGINT would go to the kernel's whole process group.
        "interrupt_mode": "message",
        "env": toolchain.kernel_environment(),
        "metadata": { "debugger": false, "forklab": { "version": env!("CARGO_PKG_VERSION") } },
    });
    let mut text = serde_json::to_string_pretty(&spec).expect("the value has text keys only");
    text.push('\n');
    let mut changed = write_if_changed(&places.kernelspec.join("kernel.json"), text.as_bytes(), 0o644, record)?;
    for (name, content) in LOGOS {
        changed |= write_if_changed(&places.kernelspec.join(name), content, 0o644, record)?;
    }
    println!("  kernelspec {}{}", places.kernelspec.display(), if changed { "" } else { " (up to date)" });
    Ok(())
}

/// Writes a file by a rename, unless it has this content already, and notes it in the record.
/// Returns whether it wrote.
pub(crate) fn write_if_changed(
    path: &Path,
    content: &[u8],
    mode: u32,
    record: &mut Record,
) -> Result<bool, InstallError> {
    let parent = path.parent().expect("the path of a file has a directory");
    record.directories.extend(create(parent)?);
    record.note_file(path);
    if fs::read(path).is_ok_and(|old| old == content) {
        return Ok(false);
    }
    let name = path.file_name().expect("the path names a file").to_string_lossy();
    let fresh = parent.join(format!(".{name}.{}", std::process::id()));
    fs::write(&fresh, content).map_err(InstallError::file("write", &fresh))?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(mode)).map_err(InstallError::file("write", &fresh))?;
    fs::rename(&fresh, path).map_err(InstallError::file("write", path))?;
    Ok(true)
}

/// Makes a directory and those above it. Returns the ones that were not there, the outermost first.
pub(crate) fn create(directory: &Path) -> Result<Vec<PathBuf>, InstallError> {
    let mut missing: Vec<PathBuf> =
        directory.ancestors().take_while(|path| !path.exists()).map(Path::to_owned).collect();
    missing.reverse();
    fs::create_dir_all(directory).map_err(InstallError::file("create", directory))?;
    Ok(missing)
}

fn remove_tree(directory: &Path) -> Result<(), InstallError> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(InstallError::file("remove", directory)(error)),
        _ => Ok(()),
    }
}

/// Removes exactly what [`install`] put there: the recorded files, the built library, and the
/// directories that it made and that are empty now. Without an installation it says so and succeeds.
///
/// # Errors
/// [`InstallError::File`] for what could not be removed; the record then stays, so that another try knows it.
pub fn uninstall(args: &UninstallArgs) -> Result<(), InstallError> {
    let places = Places::find(&args.target)?;
    if !places.record().exists() {
        println!("forklab is not installed below {}: nothing to remove", places.prefix.display());
        return Ok(());
    }
    let record = Record::load(&places)?;
    for file in &record.files {
        match fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(InstallError::file("remove", file)(error));
            }
            _ => {}
        }
    }
    println!("  removed    {} files, and the library that was built for cells", record.files.len());
    for tree in ["template", "template.new", "template.old"] {
        remove_tree(&places.data.join(tree))?;
    }
    for last in [places.record(), places.lock()] {
        fs::remove_file(&last).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(InstallError::file("remove", &last)(error)),
        })?;
    }
    remove_empty(&record.directories);
    println!("  done       forklab is no longer installed below {}", places.prefix.display());
    Ok(())
}

/// Removes those of the directories that are empty, the innermost first. One that holds something
/// of somebody else's stays, and that is no error.
fn remove_empty(directories: &[PathBuf]) {
    let mut directories = directories.to_vec();
    directories.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    for directory in directories {
        if let Err(error) = fs::remove_dir(&directory) {
            tracing::debug!("{} stays: {error}", directory.display());
        }
    }
}
