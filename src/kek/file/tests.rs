use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::*;

/// Keys in base64, each of one byte repeated.
const A: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
const B: &str = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";
const C: &str = "AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=";

struct Folder(tempfile::TempDir);

impl Folder {
    fn with(content: &str) -> Self {
        let folder = Self(tempfile::tempdir().expect("a folder"));
        folder.write(content);
        folder
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("kek")
    }

    fn write(&self, content: &str) {
        fs::write(self.file(), content).expect("writes");
        self.set_mode(0o600);
    }

    fn set_mode(&self, mode: u32) {
        fs::set_permissions(self.file(), fs::Permissions::from_mode(mode)).expect("sets the mode");
    }
}

fn id(base64: &str) -> KekId {
    FileKey::new(key_from_base64(base64.as_bytes()).expect("a key")).current()
}

fn refusal(content: &str) -> String {
    let error = KeyFile::open(&Folder::with(content).file()).expect_err("refused");
    error.to_string()
}

/// Lets `follow` look at the file once.
async fn look(keys: &KeyFile) {
    let _ = tokio::time::timeout(POLL_INTERVAL / 2, keys.follow()).await;
}

#[test]
fn only_a_file_closed_to_others_is_read() {
    let folder = Folder::with(A);
    for mode in [0o600, 0o400, 0o440, 0o640] {
        folder.set_mode(mode);
        assert!(KeyFile::open(&folder.file()).is_ok(), "{mode:o}");
    }
    for mode in [0o644, 0o604, 0o620, 0o610, 0o777] {
        folder.set_mode(mode);
        let error = KeyFile::open(&folder.file()).expect_err("refused");
        assert!(error.to_string().contains("chmod"), "{mode:o}: {error}");
    }
}

#[test]
fn a_malformed_key_is_refused_by_its_line_without_showing_it() {
    for bad in [
        "c2hvcnQ=",
        "not base64 at all",
        "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB",
        "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE",
        "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE= # mine",
    ] {
        let error = refusal(&format!("{A}\n\n{bad}\n"));
        assert!(
            error.contains("line 3") && error.contains("openssl rand"),
            "{error}"
        );
        assert!(!error.contains(bad), "{error}");
    }
    assert!(refusal("# none\n\n").contains("holds no key"));
    assert!(refusal(&"#\n".repeat(2049)).contains("is longer than 4096 bytes"));
}

#[test]
fn a_key_that_stands_twice_and_one_too_many_are_refused() {
    let error = refusal(&format!("{A}\n{B}\n# again\n{A}\n"));
    assert!(error.contains("line 4"), "{error}");
    let many = |count: usize| -> String {
        let keys = (0..count).map(|byte| BASE64_STANDARD.encode([byte as u8; 32]) + "\n");
        keys.collect()
    };
    assert!(KeyFile::open(&Folder::with(&many(KEYS_MAX)).file()).is_ok());
    let error = refusal(&many(KEYS_MAX + 1));
    assert!(error.contains("more than 16 keys"), "{error}");
}

#[tokio::test]
async fn the_first_key_encrypts_and_all_of_them_open() {
    let folder = Folder::with(&format!("# new\r\n  {B}  \r\n\r\n# old\n{A}"));
    let keys = KeyFile::open(&folder.file()).expect("opens");
    assert_eq!(keys.current(), id(B));
    let dek = SymmetricKey::new(vec![9; 32]).expect("32 bytes");
    for kek in [id(A), id(B)] {
        assert!(keys.opens(&kek));
        let wrapped = keys.wrap_dek(&kek, &dek, b"place").await.expect("wraps");
        let opened = keys.unwrap_dek(&kek, &wrapped, b"place").await;
        assert_eq!(opened.expect("opens").expose(), dek.expose());
        let other = if kek == id(A) { id(B) } else { id(A) };
        let confused = keys.unwrap_dek(&other, &wrapped, b"place").await;
        assert!(matches!(confused, Err(Error::DoesNotOpen)));
    }
    assert!(!keys.opens(&id(C)));
    let unknown = keys.unwrap_dek(&id(C), b"", b"place").await;
    assert!(matches!(unknown, Err(Error::UnknownKek(named)) if named == id(C)));
}

#[tokio::test(start_paused = true)]
async fn a_key_is_prepared_activated_and_taken_out_without_a_restart() {
    let folder = Folder::with(A);
    let keys = KeyFile::open(&folder.file()).expect("opens");
    for (content, current, opens) in [
        (format!("{A}\n{B}\n"), id(A), [true, true]),
        (format!("{B}\n{A}\n"), id(B), [true, true]),
        (format!("{B}\n"), id(B), [false, true]),
    ] {
        folder.write(&content);
        look(&keys).await;
        assert_eq!(keys.current(), current);
        assert_eq!([keys.opens(&id(A)), keys.opens(&id(B))], opens);
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_cannot_be_used_leaves_the_keys_read_before() {
    let folder = Folder::with(&format!("{A}\n{B}\n"));
    let keys = KeyFile::open(&folder.file()).expect("opens");
    let unchanged = async |keys: &KeyFile| {
        look(keys).await;
        assert_eq!(ids(&keys.keys()), [id(A), id(B)]);
    };
    for bad in ["", "half a k", &format!("{C}\n{C}\n"), &"#\n".repeat(4096)] {
        folder.write(bad);
        unchanged(&keys).await;
    }
    folder.write(C);
    folder.set_mode(0o644);
    unchanged(&keys).await;
    fs::remove_file(folder.file()).expect("removes");
    unchanged(&keys).await;
    folder.write(C);
    look(&keys).await;
    assert_eq!(ids(&keys.keys()), [id(C)]);
}

#[tokio::test(start_paused = true)]
async fn the_file_is_looked_at_again_and_again() {
    let folder = Folder::with(A);
    let keys = Arc::new(KeyFile::open(&folder.file()).expect("opens"));
    let changed = async {
        for (content, kek) in [(B, id(B)), (C, id(C)), (A, id(A))] {
            folder.write(content);
            tokio::time::sleep(2 * POLL_INTERVAL).await;
            assert_eq!(keys.current(), kek);
        }
    };
    tokio::select! {
        () = changed => {}
        () = keys.follow() => {}
    }
}

/// As Kubernetes mounts a secret: the file is a link through `..data`, which is put elsewhere at once.
#[tokio::test(start_paused = true)]
async fn a_mounted_secret_is_read_anew_when_its_link_moves() {
    let folder = tempfile::tempdir().expect("a folder");
    let put = |version: &str, content: &str| {
        let at = folder.path().join(version);
        fs::create_dir(&at).expect("a folder");
        fs::write(at.join("kek"), content).expect("writes");
        fs::set_permissions(at.join("kek"), fs::Permissions::from_mode(0o440)).expect("sets it");
        symlink(version, folder.path().join("..new")).expect("links");
        fs::rename(folder.path().join("..new"), folder.path().join("..data")).expect("renames");
    };
    put("..1", A);
    let file = folder.path().join("kek");
    symlink("..data/kek", &file).expect("links");
    let keys = KeyFile::open(&file).expect("opens");
    assert_eq!(keys.current(), id(A));
    put("..2", &format!("{B}\n{A}\n"));
    look(&keys).await;
    assert_eq!(keys.current(), id(B));
}
