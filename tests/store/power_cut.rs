//! A power cut takes what was not synced, in any order and by halves, and nothing else.
//!
//! One run's calls to the disk are recorded. An image is what a disk may hold after a cut at some
//! point of the record: of each file what was synced before, any sectors of what was written since,
//! and a beginning of what happened to the names since the folder was synced, as a journal keeps it.

use std::{collections::BTreeMap, fs, path::Path};

use tokio::time::Instant;

use crate::{
    faults::read,
    is_long_run,
    load::{self, Counts},
    numbers::Numbers,
    report,
    role::{Line, Role, lines},
    seed, shim,
};

const SEED: u64 = 0x706f_7765;
const IMAGES: u64 = 500;
const IMAGES_LONG: u64 = 2000;
/// What a disk writes whole, in bytes.
const SECTOR: usize = 512;
/// Enough to fill more than one of sled's segments, and to open what was written before.
const ROLE: Role = Role {
    writers: 8,
    commits: 15,
    largest: 64 * 1024,
    opens: 3,
};

/// A line of the record that `disk.c` makes.
#[derive(Clone)]
enum Call {
    Create,
    Write(usize, Vec<u8>),
    Truncate(usize),
    Sync,
    Rename(String),
    Unlink,
    Said(String),
}

fn calls(mut record: &[u8]) -> Vec<(String, Call)> {
    fn take<'a>(record: &mut &'a [u8], length: usize) -> &'a [u8] {
        let (taken, rest) = record.split_at(length);
        *record = rest;
        taken
    }
    fn number(record: &mut &[u8]) -> usize {
        u64::from_ne_bytes(take(record, 8).try_into().expect("8 bytes")) as usize
    }
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    let mut calls = Vec::new();
    while !record.is_empty() {
        let kind = take(&mut record, 1)[0];
        let length = u16::from_ne_bytes(take(&mut record, 2).try_into().expect("2 bytes"));
        let path = text(take(&mut record, length.into()));
        let offset = number(&mut record);
        let length = number(&mut record);
        let call = match kind {
            b'C' => Call::Create,
            b'W' => Call::Write(offset, take(&mut record, length).to_vec()),
            b'T' => Call::Truncate(offset),
            b'S' => Call::Sync,
            b'R' => Call::Rename(text(take(&mut record, length))),
            b'U' => Call::Unlink,
            b'A' => Call::Said(text(take(&mut record, length))),
            other => panic!("no record: {other}"),
        };
        calls.push((path, call));
    }
    calls
}

/// One file: what is on the disk for certain, and what is on its way there.
#[derive(Default)]
struct File {
    synced: Vec<u8>,
    pending: Vec<Call>,
}

/// A change of names.
enum Name {
    Link(String, usize),
    Unlink(String),
    Rename(String, String),
}

#[derive(Default)]
struct Disk {
    files: Vec<File>,
    /// As the process sees them.
    names: BTreeMap<String, usize>,
    synced_names: BTreeMap<String, usize>,
    pending_names: Vec<Name>,
}

fn apply_name(names: &mut BTreeMap<String, usize>, change: &Name) {
    match change {
        Name::Link(path, file) => drop(names.insert(path.clone(), *file)),
        Name::Unlink(path) => drop(names.remove(path)),
        Name::Rename(from, to) => {
            if let Some(file) = names.remove(from) {
                names.insert(to.clone(), file);
            }
        }
    }
}

fn apply_whole(bytes: &mut Vec<u8>, call: &Call) {
    match call {
        Call::Write(offset, data) => {
            let end = offset + data.len();
            bytes.resize(bytes.len().max(end), 0);
            bytes[*offset..end].copy_from_slice(data);
        }
        Call::Truncate(length) => bytes.resize(*length, 0),
        _ => unreachable!("only these are pending"),
    }
}

/// Whole, not at all, or any of its sectors.
fn apply_torn(bytes: &mut Vec<u8>, call: &Call, numbers: &mut Numbers) {
    match (numbers.below(3), call) {
        (0, _) => {}
        (1, Call::Write(offset, data)) => {
            for (number, sector) in data.chunks(SECTOR).enumerate() {
                if numbers.below(2) == 0 {
                    let part = Call::Write(offset + number * SECTOR, sector.to_vec());
                    apply_whole(bytes, &part);
                }
            }
        }
        _ => apply_whole(bytes, call),
    }
}

impl Disk {
    fn change_names(&mut self, change: Name) {
        apply_name(&mut self.names, &change);
        self.pending_names.push(change);
    }

    fn apply(&mut self, path: &str, call: Call) {
        match call {
            Call::Create => {
                self.files.push(File::default());
                self.change_names(Name::Link(path.into(), self.files.len() - 1));
            }
            Call::Rename(to) => self.change_names(Name::Rename(path.into(), to)),
            Call::Unlink => self.change_names(Name::Unlink(path.into())),
            Call::Said(_) => {}
            // A folder: the store has no files in folders other than its own.
            Call::Sync if !self.names.contains_key(path) => {
                if path.ends_with("/blobs") {
                    return;
                }
                for change in self.pending_names.drain(..) {
                    apply_name(&mut self.synced_names, &change);
                }
            }
            Call::Sync => {
                let file = &mut self.files[self.names[path]];
                for call in file.pending.drain(..) {
                    apply_whole(&mut file.synced, &call);
                }
            }
            Call::Write(..) | Call::Truncate(_) => {
                self.files[self.names[path]].pending.push(call);
            }
        }
    }

    /// Writes the same once more where it stays: the first was changed as it was opened.
    fn keep(&self, mut numbers: Numbers, from: &str) -> String {
        let kept = tempfile::tempdir().expect("a folder").keep();
        self.cut(&mut numbers, from, &kept);
        kept.display().to_string()
    }

    /// Writes what may be left of `from` to `to`.
    fn cut(&self, numbers: &mut Numbers, from: &str, to: &Path) {
        fs::create_dir_all(to.join("blobs")).expect("a folder");
        let mut names = self.synced_names.clone();
        let kept = numbers.below(self.pending_names.len() as u64 + 1) as usize;
        for change in &self.pending_names[..kept] {
            apply_name(&mut names, change);
        }
        for (path, file) in names {
            let file = &self.files[file];
            let mut bytes = file.synced.clone();
            for call in &file.pending {
                apply_torn(&mut bytes, call, numbers);
            }
            let name = path.strip_prefix(from).expect("in the store's folder");
            fs::write(to.join(name.trim_start_matches('/')), bytes).expect("writes");
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost_to_a_power_cut() {
    let folder = tempfile::tempdir().expect("a folder");
    let directory = folder.path().join("store");
    let record = folder.path().join("record");
    let mut command = ROLE.command(&directory);
    shim::put_under(&mut command, &directory);
    command.env("KODO_DISK_LOG", &record);
    let mut child = command.spawn().expect("starts");
    let told: Vec<_> = lines(&mut child).collect();
    let output = child.wait_with_output().expect("ends");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        !told.iter().any(|line| matches!(line, Line::Refused(_))),
        "{told:?}"
    );
    let calls = calls(&fs::read(&record).expect("a record"));
    let sent: Counts = (0..ROLE.writers)
        .map(|writer| (writer, ROLE.commits * ROLE.opens))
        .collect();

    let images = if is_long_run() { IMAGES_LONG } else { IMAGES };
    let began = Instant::now();
    let seed = seed(SEED);
    let mut numbers = Numbers(seed);
    let mut cuts: Vec<_> = (0..images)
        .map(|_| numbers.below(calls.len() as u64 + 1) as usize)
        .collect();
    cuts.sort_unstable();
    let from = directory.to_str().expect("text").to_owned();
    let (mut disk, mut at, mut acknowledged) = (Disk::default(), 0, Counts::new());
    let (mut whole, mut failures) = (0, Vec::new());
    for (image, cut) in cuts.into_iter().enumerate() {
        while at < cut {
            let (path, call) = &calls[at];
            if let Call::Said(line) = call
                && let Ok(Line::Acknowledged(writer, count)) = line.trim().parse()
            {
                acknowledged.insert(writer, count);
            }
            disk.apply(path, call.clone());
            at += 1;
        }
        let image_folder = tempfile::tempdir().expect("a folder");
        let again = Numbers(numbers.0);
        disk.cut(&mut numbers, &from, image_folder.path());
        let name = format!("image {image}, cut before call {cut} of {}", calls.len());
        match read(image_folder.path(), ROLE) {
            Ok(found) => {
                load::compare(&found, &acknowledged, &sent, &name);
                whole += 1;
            }
            Err(reason) => {
                let kept = disk.keep(again, &from);
                failures.push(format!(
                    "{name}: {acknowledged:?}: {reason}; kept in {kept}"
                ));
            }
        }
    }
    report(&format!(
        "seed {seed:#x}: {images} power cuts in a record of {} calls, {whole} opened whole, {} refused, \
         in {:.0?}",
        calls.len(),
        failures.len(),
        began.elapsed()
    ));
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
