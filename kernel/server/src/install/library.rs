//! The sources of the library for cells: carried in this binary, laid out for cargo.

use std::fs;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::places::Places;
use super::record::Record;
use super::toolchain::Toolchain;
use super::{InstallError, write_if_changed};

mod carried {
    include!(concat!(env!("OUT_DIR"), "/library.rs"));
}

/// Writes the sources. A file that is there already keeps its time of change, by which cargo knows
/// that nothing has to be compiled. Files of an older version that are no more are removed.
///
/// # Errors
/// [`InstallError::File`].
pub fn write(places: &Places, record: &mut Record) -> Result<(), InstallError> {
    let root = places.library();
    for (name, text) in carried::FILES {
        write_if_changed(&root.join(name), text.as_bytes(), 0o644, record)?;
    }
    let stale = |file: &Path| {
        file.strip_prefix(&root).is_ok_and(|inside| !carried::FILES.iter().any(|(name, _)| Path::new(name) == inside))
    };
    for file in record.files.iter().filter(|file| stale(file)) {
        // Gone already is as good.
        fs::remove_file(file).ok();
    }
    record.files.retain(|file| !stale(file));
    Ok(())
}

/// One hash of all that the template is built from: the sources, the compiler, and the binary,
/// which builds it and is part of how cells are compiled.
///
/// # Errors
/// [`InstallError::File`] when the binary cannot be read.
pub fn stamp(toolchain: &Toolchain, binary: &Path) -> Result<String, InstallError> {
    let mut hash = Sha256::new();
    for (name, text) in carried::FILES {
        for part in [name, text] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
    }
    hash.update(toolchain.verbose_version.as_bytes());
    hash.update(toolchain.bin.as_os_str().as_encoded_bytes());
    hash.update(fs::read(binary).map_err(InstallError::file("read", binary))?);
    Ok(hex::encode(hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifests_stand_for_themselves() {
        let manifests: Vec<_> = carried::FILES.iter().filter(|(name, _)| name.ends_with("Cargo.toml")).collect();
        assert_eq!(manifests.len(), 3);
        for (name, text) in manifests {
            assert!(!text.contains("workspace = true"), "{name} inherits from a workspace:\n{text}");
        }
        let sources = carried::FILES.iter().filter(|(name, _)| name.ends_with("src/lib.rs")).count();
        assert_eq!(sources, 3);
    }
}
