//! Puts the sources of the library that cells import into the binary, so that `forklab install`
//! can lay them out anywhere: without this repository, without its workspace.
//!
//! Writes `library.rs`, a table of file name and text. The manifests in it stand for themselves:
//! what they inherit from the workspace is written out.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

/// The crates of the library: the folder under `kernel/` (and in the installed library) and the package.
const CRATES: &[(&str, &str)] = &[("forklab", "forklab"), ("record", "forklab-record"), ("sys", "forklab-sys")];

fn main() {
    let kernel = PathBuf::from(variable("CARGO_MANIFEST_DIR")).join("..");
    let workspace_file = kernel.join("../Cargo.toml");
    let workspace = read_table(&workspace_file);
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={}", workspace_file.display());
    let mut table = String::from("pub static FILES: &[(&str, &str)] = &[\n");
    for (folder, _) in CRATES {
        let root = kernel.join(folder).canonicalize().expect("the library's crates stand beside this one");
        let manifest_file = root.join("Cargo.toml");
        let manifest = standalone(read_table(&manifest_file), &workspace);
        println!("cargo::rerun-if-changed={}", manifest_file.display());
        println!("cargo::rerun-if-changed={}", root.join("src").display());
        let name = format!("{folder}/Cargo.toml");
        writeln!(table, "    ({name:?}, {manifest:?}),").expect("a String takes everything");
        let mut sources = Vec::new();
        collect(&root.join("src"), &mut sources);
        sources.sort();
        for source in sources {
            let inside = source.strip_prefix(&root).expect("it was found below the root");
            let name = format!("{folder}/{}", inside.display());
            writeln!(table, "    ({name:?}, include_str!({source:?})),").expect("a String takes everything");
        }
    }
    table.push_str("];\n");
    let target = PathBuf::from(variable("OUT_DIR")).join("library.rs");
    fs::write(&target, table).expect("cargo's output directory is writable");
}

fn variable(name: &str) -> String {
    std::env::var(name).expect("cargo sets it for build scripts")
}

fn read_table(file: &Path) -> Table {
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("cannot read {}: {error}", file.display()));
    text.parse().unwrap_or_else(|error| panic!("{} is not TOML: {error}", file.display()))
}

/// The sources below a directory. Binaries (`src/bin`, `main.rs`) are not part of a library.
fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
    let entries =
        fs::read_dir(directory).unwrap_or_else(|error| panic!("cannot list {}: {error}", directory.display()));
    for entry in entries {
        let path = entry.expect("a directory that opens can be listed").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if path.is_dir() && name != "bin" {
            collect(&path, found);
        } else if path.is_file() && name != "main.rs" && !name.starts_with('.') {
            found.push(path);
        }
    }
}

/// A crate's manifest with everything that it inherits written out, and without what only this
/// repository's own build needs: lints, tests, binaries.
fn standalone(mut manifest: Table, workspace: &Table) -> String {
    let shared = workspace["workspace"].as_table().expect("it is the workspace's manifest");
    let package = manifest["package"].as_table_mut().expect("a manifest has a package");
    for (key, value) in package.iter_mut() {
        if inherits(value) {
            *value = shared["package"][key].clone();
        }
    }
    for automatic in ["autobins", "autotests", "autoexamples", "autobenches"] {
        package.insert(automatic.to_owned(), Value::Boolean(false));
    }
    for dropped in ["lints", "dev-dependencies", "bin", "test", "example", "bench"] {
        manifest.remove(dropped);
    }
    drop_optional(&mut manifest);
    if let Some(dependencies) = manifest.get_mut("dependencies").and_then(Value::as_table_mut) {
        for (name, dependency) in dependencies.iter_mut() {
            if inherits(dependency) {
                *dependency = resolved(name, dependency, &shared["dependencies"][name]);
            }
        }
    }
    // A workspace of its own: a Cargo.toml that stands somewhere above the installed library is none of ours.
    manifest.insert("workspace".to_owned(), Value::Table(Table::new()));
    manifest.to_string()
}

/// Takes out optional dependencies: cells use none of them, and resolving them costs the network.
fn drop_optional(manifest: &mut Table) {
    let Some(dependencies) = manifest.get_mut("dependencies").and_then(Value::as_table_mut) else { return };
    let optional = |value: &Value| value.get("optional").and_then(Value::as_bool) == Some(true);
    let dropped: Vec<String> =
        dependencies.iter().filter(|(_, value)| optional(value)).map(|(name, _)| name.clone()).collect();
    dependencies.retain(|_, value| !optional(value));
    let Some(features) = manifest.get_mut("features").and_then(Value::as_table_mut) else { return };
    for (_, parts) in features.iter_mut() {
        if let Value::Array(parts) = parts {
            // As `dep:name`, `name` or `name/feature`.
            let names = |part: &str| part.trim_start_matches("dep:").split(['/', '?']).next().map(str::to_owned);
            parts.retain(|part| !part.as_str().and_then(names).is_some_and(|name| dropped.contains(&name)));
        }
    }
}

fn inherits(value: &Value) -> bool {
    value.get("workspace").and_then(Value::as_bool) == Some(true)
}

/// The workspace's line for a dependency, with the features that the crate adds.
fn resolved(name: &str, own: &Value, shared: &Value) -> Value {
    if let Some((folder, _)) = CRATES.iter().find(|(_, package)| *package == name) {
        return Value::Table(Table::from_iter([("path".to_owned(), Value::String(format!("../{folder}")))]));
    }
    let mut result = match shared {
        Value::String(version) => Table::from_iter([("version".to_owned(), Value::String(version.clone()))]),
        Value::Table(table) => table.clone(),
        other => panic!("the workspace's line for {name} is neither a version nor a table: {other}"),
    };
    for (key, value) in own.as_table().expect("what inherits is a table") {
        match (key.as_str(), result.get_mut(key), value) {
            ("workspace", _, _) => {}
            ("features", Some(Value::Array(features)), Value::Array(more)) => features.extend(more.iter().cloned()),
            _ => {
                result.insert(key.clone(), value.clone());
            }
        }
    }
    Value::Table(result)
}
