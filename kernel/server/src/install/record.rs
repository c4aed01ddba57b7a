//! The list of what an installation has put where: `installed.json` in its data directory.
//! It is what `uninstall` goes by; what is not in it is not ours.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::InstallError;
use super::places::Places;

/// What has been installed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// The version that was installed last.
    pub version: String,
    /// What the template was built from, as one hash; empty when it has to be built.
    pub stamp: String,
    /// The files.
    pub files: Vec<PathBuf>,
    /// The directories that were not there before.
    pub directories: Vec<PathBuf>,
}

impl Record {
    /// The record of an installation; an empty one where nothing is installed.
    ///
    /// # Errors
    /// [`InstallError::File`] when it cannot be read or is not ours.
    pub fn load(places: &Places) -> Result<Self, InstallError> {
        let path = places.record();
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| InstallError::file("read", &path)(error.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Record::default()),
            Err(error) => Err(InstallError::file("read", &path)(error)),
        }
    }

    /// Writes the record, by a rename: an interrupted installation must not lose what it knows.
    ///
    /// # Errors
    /// [`InstallError::File`].
    pub fn save(&mut self, places: &Places) -> Result<(), InstallError> {
        self.version = env!("CARGO_PKG_VERSION").to_owned();
        self.files.sort();
        self.files.dedup();
        self.directories.sort();
        self.directories.dedup();
        let path = places.record();
        let fresh = path.with_extension("json.new");
        let text = serde_json::to_string_pretty(self).expect("the record has text keys only");
        fs::write(&fresh, text).map_err(InstallError::file("write", &fresh))?;
        fs::rename(&fresh, &path).map_err(InstallError::file("write", &path))
    }

    /// Notes a file as installed.
    pub fn note_file(&mut self, path: &Path) {
        if !self.files.iter().any(|file| file == path) {
            self.files.push(path.to_owned());
        }
    }
}
