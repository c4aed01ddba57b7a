//! The Rust toolchain that cells are compiled with, found once and written down by absolute paths.
//!
//! rustup's `rustc` and `cargo` are shims that look below `$HOME` for the real ones. A Jupyter
//! server often runs with another HOME or PATH than the person who installs, so the kernelspec
//! names the real toolchain.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::InstallError;

/// The directories in which the linker and the commands of the lessons are looked for at the end.
const SYSTEM_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// A toolchain.
#[derive(Debug, Clone)]
pub struct Toolchain {
    /// The directory that holds the real `rustc`.
    pub bin: PathBuf,
    /// The first line of `rustc -vV`.
    pub version: String,
    /// All of `rustc -vV`.
    pub verbose_version: String,
    /// The directory of the real `cargo`, where it is another.
    cargo_bin: Option<PathBuf>,
    /// Where crates are kept.
    pub cargo_home: PathBuf,
    /// Where rustup keeps its toolchains, when there is one.
    pub rustup_home: Option<PathBuf>,
}

impl Toolchain {
    /// The toolchain that `rustc` means here and now.
    ///
    /// # Errors
    /// [`InstallError::Missing`] when there is no working `rustc` or `cargo`.
    pub fn find() -> Result<Self, InstallError> {
        let root = PathBuf::from(ask("rustc", &["--print", "sysroot"])?);
        let in_root = root.join("bin");
        let bin = if in_root.join("rustc").is_file() { in_root } else { directory_of("rustc")? };
        let verbose_version = ask(&bin.join("rustc").to_string_lossy(), &["-vV"])?;
        let version = verbose_version.lines().next().unwrap_or("rustc").to_owned();
        let cargo_bin = if bin.join("cargo").is_file() { None } else { Some(directory_of("cargo")?) };
        ask("cargo", &["--version"])?;
        let home = env::home_dir().unwrap_or_else(|| PathBuf::from("/"));
        let at_home = |variable: &str, folder: &str| {
            env::var_os(variable).filter(|value| !value.is_empty()).map_or_else(|| home.join(folder), PathBuf::from)
        };
        let rustup_home = Some(at_home("RUSTUP_HOME", ".rustup")).filter(|folder| folder.is_dir());
        Ok(Toolchain {
            bin,
            version,
            verbose_version,
            cargo_bin,
            cargo_home: at_home("CARGO_HOME", ".cargo"),
            rustup_home,
        })
    }

    /// A search path on which this toolchain comes first, for processes started here.
    pub fn search_path(&self) -> OsString {
        let mut path = self.own_path();
        path.push(":");
        path.push(env::var_os("PATH").unwrap_or_else(|| SYSTEM_PATH.into()));
        path
    }

    /// The environment that the kernelspec gives to the kernel. Jupyter replaces `${PATH}` by the
    /// PATH of its own server; what stands around it holds whatever that is.
    pub fn kernel_environment(&self) -> BTreeMap<&'static str, String> {
        let mut path = escaped(self.own_path().to_string_lossy().as_ref());
        path.push_str(":${PATH}:");
        if let Some(linker) =
            on_path("cc").filter(|linker| !SYSTEM_PATH.split(':').any(|system| Path::new(system) == linker))
        {
            path.push_str(&escaped(&linker.to_string_lossy()));
            path.push(':');
        }
        path.push_str(SYSTEM_PATH);
        let mut environment =
            BTreeMap::from([("PATH", path), ("CARGO_HOME", escaped(&self.cargo_home.to_string_lossy()))]);
        if let Some(rustup_home) = &self.rustup_home {
            environment.insert("RUSTUP_HOME", escaped(&rustup_home.to_string_lossy()));
        }
        environment
    }

    fn own_path(&self) -> OsString {
        let mut path = self.bin.clone().into_os_string();
        if let Some(cargo) = &self.cargo_bin {
            path.push(":");
            path.push(cargo);
        }
        path
    }
}

/// A text in which Jupyter's substitution (Python's `string.Template`) finds nothing to replace.
fn escaped(text: &str) -> String {
    text.replace('$', "$$")
}

/// The first directory of PATH that holds an executable of this name.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).find(|directory| directory.is_absolute() && directory.join(name).is_file())
}

fn directory_of(name: &str) -> Result<PathBuf, InstallError> {
    on_path(name).ok_or_else(|| missing(name))
}

fn ask(program: &str, arguments: &[&str]) -> Result<String, InstallError> {
    let output = Command::new(program).args(arguments).output().map_err(|_| missing(program))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(InstallError::Missing(format!("{program} does not work: {said}")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

fn missing(program: &str) -> InstallError {
    InstallError::Missing(format!(
        "{program} was not found: install Rust (https://rustup.rs), open a new shell, then run the installation again"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_finds_the_toolchain_whatever_the_servers_path_is() -> Result<(), InstallError> {
        let toolchain = Toolchain::find()?;
        assert!(toolchain.bin.join("rustc").is_file());
        let environment = toolchain.kernel_environment();
        let path = &environment["PATH"];
        let first = path.split(':').next().expect("a path has a first part");
        let version = Command::new(Path::new(first).join("rustc")).arg("-V").env_clear().output().expect("it is there");
        assert!(version.status.success());
        assert!(path.contains(":${PATH}:") && path.ends_with("/bin"), "{path}");
        Ok(())
    }

    #[test]
    fn a_dollar_in_a_path_is_no_variable() {
        assert_eq!(escaped("/home/$ana"), "/home/$$ana");
    }
}
