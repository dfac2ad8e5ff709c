//! The disk that fails: `disk.c`, compiled once for each run.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use tempfile::TempDir;

/// The compiled library, and the folder that it is in.
static LIBRARY: LazyLock<(PathBuf, TempDir)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let library = folder.path().join("disk.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/store/disk.c");
    let output = Command::new("cc")
        .args(["-O1", "-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .arg("-ldl")
        .output()
        .expect("cc; tests/run installs it");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    (library, folder)
});

/// Has a command see files below `root` through the disk that fails.
pub(crate) fn put_under(command: &mut Command, root: &Path) {
    command
        .env("LD_PRELOAD", &LIBRARY.0)
        .env("KODO_DISK_ROOT", root);
}
