//! Where the parts of an installation stand. Reads the environment, writes nothing.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::InstallError;

/// Where to install, as the command line says it. Without an option: for the person.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(multiple = false)]
pub struct Target {
    /// For yourself, below ~/.local and in your own Jupyter directory (the default).
    #[arg(long)]
    pub user: bool,
    /// Into the Python environment that is active ($VIRTUAL_ENV, $CONDA_PREFIX, or python3's own).
    #[arg(long)]
    pub sys_prefix: bool,
    /// Below this directory: DIR/bin, DIR/share/forklab, DIR/share/jupyter/kernels.
    #[arg(long, value_name = "DIR")]
    pub prefix: Option<PathBuf>,
}

/// The places of one installation, all absolute.
#[derive(Debug, Clone)]
pub struct Places {
    /// Below which everything stands (but a person's own kernelspec, which follows Jupyter's rules).
    pub prefix: PathBuf,
    /// The binary.
    pub binary: PathBuf,
    /// Forklab's own directory: library, template, record.
    pub data: PathBuf,
    /// The kernelspec's directory.
    pub kernelspec: PathBuf,
}

impl Places {
    /// The places for a target.
    ///
    /// # Errors
    /// [`InstallError::Missing`] when the environment does not say where the person's home or the
    /// Python environment is.
    pub fn find(target: &Target) -> Result<Self, InstallError> {
        if let Some(prefix) = &target.prefix {
            let prefix = std::path::absolute(prefix).map_err(InstallError::file("find", prefix))?;
            return Ok(Places::below(&prefix, None));
        }
        if target.sys_prefix {
            return Ok(Places::below(&sys_prefix()?, None));
        }
        let home = home()?;
        let kernels = jupyter_data(&home).join("kernels/forklab");
        Ok(Places::below(&home.join(".local"), Some(kernels)))
    }

    fn below(prefix: &Path, kernelspec: Option<PathBuf>) -> Self {
        Places {
            prefix: prefix.to_owned(),
            binary: prefix.join("bin/forklab"),
            data: prefix.join("share/forklab"),
            kernelspec: kernelspec.unwrap_or_else(|| prefix.join("share/jupyter/kernels/forklab")),
        }
    }

    /// The places of the installation that this executable is part of, if it stands in one.
    pub fn of_this_executable() -> Option<Self> {
        let executable = env::current_exe().ok()?;
        let prefix = executable.parent()?.parent()?;
        let mut places = Places::below(prefix, None);
        if let Some(data) = env::var_os("FORKLAB_DATA") {
            places.data = PathBuf::from(data);
        }
        let record = super::record::Record::load(&places).ok()?;
        if let Some(spec) = record.files.iter().find(|file| file.ends_with("kernel.json")) {
            places.kernelspec = spec.parent()?.to_owned();
        }
        Some(places)
    }

    /// The program of the far side.
    pub fn cells(&self) -> PathBuf {
        self.data.join("forklab-cells")
    }

    /// The sources of the library for cells.
    pub fn library(&self) -> PathBuf {
        self.data.join("library")
    }

    /// The build directory in which that library is compiled.
    pub fn template(&self) -> PathBuf {
        self.data.join("template")
    }

    /// The list of what has been installed.
    pub fn record(&self) -> PathBuf {
        self.data.join("installed.json")
    }

    /// Held while an installation is under way.
    pub(super) fn lock(&self) -> PathBuf {
        self.data.join("installed.lock")
    }
}

fn home() -> Result<PathBuf, InstallError> {
    env::home_dir()
        .filter(|home| home.is_absolute())
        .ok_or_else(|| InstallError::Missing("there is no home directory: set HOME, or say --prefix DIR".to_owned()))
}

/// Jupyter's directory for a person's data, as `jupyter_core.paths.jupyter_data_dir` finds it.
fn jupyter_data(home: &Path) -> PathBuf {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("JUPYTER_DATA_DIR")
        .or_else(|| variable("XDG_DATA_HOME").map(|data| data.join("jupyter")))
        .unwrap_or_else(|| home.join(".local/share/jupyter"))
}

fn sys_prefix() -> Result<PathBuf, InstallError> {
    for name in ["VIRTUAL_ENV", "CONDA_PREFIX"] {
        if let Some(prefix) = env::var_os(name).filter(|value| !value.is_empty()) {
            return Ok(PathBuf::from(prefix));
        }
    }
    let output = Command::new("python3").args(["-c", "import sys; print(sys.prefix)"]).output();
    match output {
        Ok(output) if output.status.success() => {
            Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim_end_matches('\n')))
        }
        _ => Err(InstallError::Missing(
            "python3 was not found: activate the Python environment, or say --prefix DIR".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_holds_everything() -> Result<(), InstallError> {
        let target = Target { prefix: Some(PathBuf::from("/opt/two words")), ..Target::default() };
        let places = Places::find(&target)?;
        assert_eq!(places.binary, Path::new("/opt/two words/bin/forklab"));
        assert_eq!(places.kernelspec, Path::new("/opt/two words/share/jupyter/kernels/forklab"));
        assert_eq!(places.template(), Path::new("/opt/two words/share/forklab/template"));
        Ok(())
    }
}
