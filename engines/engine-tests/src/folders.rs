//! Where files are: those of the crates that this package depends on, and those that it writes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Returns a folder of that name in the target directory of the program that runs.
///
/// # Panics
///
/// If the program is in no target directory of cargo's, or the folder cannot be made.
pub fn target(name: &str) -> PathBuf {
    let program = std::env::current_exe().expect("the system knows the program's path");
    let target = program
        .ancestors()
        .skip(1)
        .find(|folder| folder.join("CACHEDIR.TAG").exists())
        .unwrap_or_else(|| panic!("{} is in no target directory", program.display()));
    let folder = target.join("engine-tests").join(name);
    std::fs::create_dir_all(&folder)
        .unwrap_or_else(|error| panic!("cannot make {}: {error}", folder.display()));
    folder
}

/// Returns the folder `test_files` of the crate `datafusion-sqllogictest` that this package depends on: cargo knows it, and
/// downloads the crate if it is not there, since without the feature `slt` nothing has compiled it.
///
/// # Panics
///
/// If cargo does not know it, or cannot download it.
pub fn test_files() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["metadata", "--format-version", "1", "--all-features"])
            .args([
                "--manifest-path",
                concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
            ])
            .output()
            .expect("cargo runs");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let metadata: serde_json::Value =
            serde_json::from_slice(&output.stdout).expect("cargo's metadata is JSON");
        let packages = metadata["packages"].as_array().expect("it lists packages");
        let manifest = packages
            .iter()
            .find(|package| package["name"] == "datafusion-sqllogictest")
            .and_then(|package| package["manifest_path"].as_str())
            .expect("a feature of this package has datafusion-sqllogictest");
        Path::new(manifest).with_file_name("test_files")
    })
}
