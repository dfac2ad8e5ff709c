//! Whatever happens to the files of a store: a broker has all of it, or is told why not.

use std::{
    collections::BTreeMap,
    fs, panic,
    path::{Path, PathBuf},
    sync::{Arc, Once},
    thread,
    time::Duration,
};

use kodo_broker::{
    credential::Credential,
    kek::local::FileKey,
    organization::{ClientId, Cloud, OrganizationId, TenantId},
    secret::{ClientSecret, SymmetricKey},
    store::{Error, Key, Store as _, Transaction, Write, sled::SledStore},
    vault::{self, NewOrganization, PAGE_MAX, Vault},
};
use tempfile::TempDir;
use tokio::{
    task::yield_now,
    time::{Instant, timeout},
};

use crate::{is_long_run, numbers::Numbers, report, seed};

const SEED: u64 = 0x6461_6d61_6765;
const TRIALS: u64 = 1000;
const TRIALS_LONG: u64 = 5000;
const ORGANIZATIONS: usize = 60;
/// How long a look may take.
const LOOK_MAX: Duration = Duration::from_secs(30);
const GUID: &str = "8d7f1c1e-0c5e-4a5c-9d6a-3f1f6f0f9b1a";

/// The revision of each organization.
type Content = BTreeMap<String, u64>;

/// A store that nobody has open, with its latest anchor.
struct Site {
    /// As it is, and as it was some changes before.
    latest: TempDir,
    older: TempDir,
    anchor: String,
    content: Content,
}

fn keys() -> Arc<FileKey> {
    Arc::new(FileKey::new(
        SymmetricKey::new(vec![1; 32]).expect("32 bytes"),
    ))
}

async fn open_store(directory: &Path) -> Result<SledStore, Error> {
    loop {
        match SledStore::open(directory).await {
            // Whoever had it before has not let go of it yet.
            Err(Error::InUse(_)) => yield_now().await,
            opened => return opened,
        }
    }
}

async fn open(directory: &Path) -> Result<Vault, vault::Error> {
    let store = open_store(directory).await?;
    Vault::open(Arc::new(store), keys()).await
}

fn copy(from: &Path, to: &Path) {
    for (name, file) in files(from) {
        let to = to.join(name);
        fs::create_dir_all(to.parent().expect("is in a folder")).expect("makes it");
        fs::copy(file, to).expect("copies");
    }
    fs::create_dir_all(to.join("blobs")).expect("makes it");
}

/// The files of a store by their names, without its lock and the room that it keeps.
fn files(directory: &Path) -> BTreeMap<PathBuf, PathBuf> {
    let mut found = BTreeMap::new();
    let mut folders = vec![directory.to_owned()];
    while let Some(folder) = folders.pop() {
        for item in fs::read_dir(folder).expect("a folder") {
            let path = item.expect("readable").path();
            let name = path.strip_prefix(directory).expect("below it").to_owned();
            if path.is_dir() {
                folders.push(path);
            } else if name
                .extension()
                .is_none_or(|kind| kind != "lock" && kind != "reserve")
            {
                found.insert(name, path);
            }
        }
    }
    found
}

impl Site {
    async fn new() -> Self {
        let (latest, older) = (folder(), folder());
        let mut content = Content::new();
        let vault = open(latest.path()).await.expect("a new store");
        for number in 0..ORGANIZATIONS {
            let id = format!("organization-{number}");
            let revision = register(&vault, &id).await;
            content.insert(id, revision);
        }
        drop(vault);
        drop(open(latest.path()).await.expect("opens"));
        copy(latest.path(), older.path());
        let vault = open(latest.path()).await.expect("opens");
        for id in content
            .keys()
            .take(ORGANIZATIONS / 2)
            .cloned()
            .collect::<Vec<_>>()
        {
            content.insert(id.clone(), rotate(&vault, &id).await);
        }
        let anchor = vault.anchor();
        drop(vault);
        drop(open(latest.path()).await.expect("opens"));
        Self {
            latest,
            older,
            anchor,
            content,
        }
    }

    /// Everything, or why there is not everything.
    async fn look(&self, directory: &Path) -> Result<(), String> {
        let text = |error: vault::Error| error.to_string();
        let vault = open(directory).await.map_err(text)?;
        vault.check_anchor(Some(&self.anchor)).map_err(text)?;
        let mut found = Content::new();
        let mut next = None;
        loop {
            let page = vault.list(next, PAGE_MAX).await.map_err(text)?;
            let listed = page.organizations.into_iter();
            found.extend(listed.map(|one| (one.id.as_str().to_owned(), one.revision)));
            next = page.next;
            if next.is_none() {
                break;
            }
        }
        assert_eq!(
            found, self.content,
            "rows are missing or old, and nobody says so"
        );
        Ok(())
    }

    /// Does the same harm again and again, each time elsewhere, and looks what comes of it.
    async fn suffer(&self, what: &str, harm: impl Fn(&mut Numbers, &Path)) {
        let began = Instant::now();
        let trials = if is_long_run() { TRIALS_LONG } else { TRIALS };
        let (mut intact, mut refused) = (0, BTreeMap::<String, u64>::new());
        for trial in 0..trials {
            let seed = seed(SEED) ^ (trial << 20) ^ what.len() as u64;
            let directory = folder();
            copy(self.latest.path(), directory.path());
            harm(&mut Numbers(seed), directory.path());
            let looked = timeout(LOOK_MAX, self.look(directory.path())).await;
            let looked = looked.unwrap_or_else(|_| panic!("{what}, seed {seed:#x}: it hangs"));
            match looked {
                Ok(()) => intact += 1,
                Err(reason) => {
                    assert!(reason.len() > 20, "{what}, seed {seed:#x}: {reason}");
                    // Without the folder, which is another one each time.
                    let reason = reason.replace(&directory.path().display().to_string(), "…");
                    let reason = reason.chars().take(90).collect();
                    *refused.entry(reason).or_default() += 1;
                }
            }
        }
        let took = began.elapsed().as_secs();
        report(&format!(
            "damage: {trials} × {what}: {intact} intact, {} refused, 0 silent, {took} s",
            trials - intact
        ));
        for (reason, count) in refused {
            report(&format!("damage:   {count:>4} × {reason}"));
        }
    }
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

async fn register(vault: &Vault, id: &str) -> u64 {
    let credential = secret();
    let new = NewOrganization {
        id: OrganizationId::parse(id).expect("an id"),
        display_name: "Customer".repeat(20),
        tenant_id: TenantId::parse(GUID).expect("a GUID"),
        cloud: Cloud::Global,
        client_id: ClientId::parse(GUID).expect("a GUID"),
        sharepoint_root_host: None,
        sharepoint_hosts: Vec::new(),
        labels: Default::default(),
    };
    let organization = new.registered(&credential, std::time::SystemTime::UNIX_EPOCH);
    let mark = vault.mark(id, b"");
    let registered = vault.register(organization, credential, mark).await;
    registered.expect("registers").revision
}

async fn rotate(vault: &Vault, id: &str) -> u64 {
    let (mark, time) = (vault.mark("rotate", b""), std::time::SystemTime::UNIX_EPOCH);
    let id = OrganizationId::parse(id).expect("an id");
    let rotated = vault.rotate(&id, 1, secret(), mark, time).await;
    rotated.expect("rotates").revision
}

fn secret() -> Credential {
    Credential::ClientSecret {
        value: ClientSecret::new("a client secret of nobody".to_owned()),
        expires: None,
    }
}

/// One of the files, the log more often than the others, and its length.
fn some_file(numbers: &mut Numbers, directory: &Path) -> (PathBuf, u64) {
    let files: Vec<_> = files(directory).into_values().collect();
    let file = if numbers.below(2) == 0 {
        directory.join("db")
    } else {
        let at = numbers.below(files.len() as u64);
        files[usize::try_from(at).expect("few")].clone()
    };
    let length = fs::metadata(&file).expect("is there").len();
    (file, length)
}

/// What there is of a file before this place is zeros, mostly: places are drawn from what is written.
fn some_place(numbers: &mut Numbers, content: &[u8]) -> usize {
    let written = content.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1;
    usize::try_from(numbers.below(written as u64)).expect("a place")
}

fn change(file: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut content = fs::read(file).expect("reads");
    change(&mut content);
    fs::write(file, content).expect("writes");
}

/// sled's threads panic on some damage, by design; what they say would fill the output.
fn hush() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let loud = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let thread = thread::current();
            if thread.name().is_some_and(|name| name.contains("::")) {
                loud(info);
            }
        }));
    });
}

#[tokio::test]
async fn no_damage_to_the_files_is_a_silent_loss() {
    hush();
    let site = Site::new().await;
    site.look(site.latest.path()).await.expect("is whole");
    let unharmed = folder();
    copy(site.latest.path(), unharmed.path());
    site.look(unharmed.path())
        .await
        .expect("a copy is whole, too");
    site.suffer("a flipped bit", |numbers, directory| {
        let (file, _) = some_file(numbers, directory);
        change(&file, |content| {
            let at = some_place(numbers, content);
            if let Some(byte) = content.get_mut(at) {
                *byte ^= 1 << numbers.below(8);
            }
        });
    })
    .await;
    site.suffer("a zeroed page", |numbers, directory| {
        let (file, _) = some_file(numbers, directory);
        change(&file, |content| {
            let at = some_place(numbers, content) / 4096 * 4096;
            let end = content.len().min(at + 4096);
            content[at..end].fill(0);
        });
    })
    .await;
    site.suffer("a truncated file", |numbers, directory| {
        let (file, length) = some_file(numbers, directory);
        let mut written = length;
        if file.ends_with("db") {
            let content = fs::read(&file).expect("reads");
            written = some_place(&mut Numbers(numbers.next()), &content) as u64;
        }
        let length = numbers.below(written.max(1));
        let open = fs::OpenOptions::new().write(true).open(&file);
        let cut = open.and_then(|file: fs::File| file.set_len(length));
        cut.expect("cuts");
    })
    .await;
    site.suffer("a missing file", |numbers, directory| {
        let (file, _) = some_file(numbers, directory);
        fs::remove_file(file).expect("removes");
    })
    .await;
    site.suffer("an older copy of some files", |numbers, directory| {
        let older = files(site.older.path());
        let all = numbers.below(4) == 0;
        for (name, file) in &older {
            if all || numbers.below(2) == 0 {
                fs::copy(file, directory.join(name)).expect("copies");
            }
        }
        if all {
            for (name, file) in files(directory) {
                if !older.contains_key(&name) {
                    fs::remove_file(file).expect("removes");
                }
            }
        }
    })
    .await;
}

/// The rows of a store, once as they are and once older, exchanged with each other and with the older.
#[tokio::test]
async fn no_exchanged_row_is_a_silent_loss() {
    hush();
    let site = Site::new().await;
    let older = rows(site.older.path()).await;
    let latest = rows(site.latest.path()).await;
    let trials = if is_long_run() { TRIALS_LONG } else { TRIALS };
    let mut numbers = Numbers(seed(SEED));
    let mut pick = |count: usize| usize::try_from(numbers.below(count as u64)).expect("few");
    let store = Arc::new(open_store(site.latest.path()).await.expect("opens"));
    let (mut refused, mut exchanged) = (0, 0);
    for trial in 0.. {
        if exchanged == trials {
            break;
        }
        let (one, other) = (pick(latest.len()), pick(latest.len()));
        let (one, mut value) = (latest[one].0.clone(), latest[other].1.clone());
        if trial % 2 == 0 {
            let old = older.iter().find(|(key, _)| *key == one);
            let Some((_, old)) = old else { continue };
            value.clone_from(old);
        }
        let right = latest
            .iter()
            .find(|(key, _)| *key == one)
            .expect("is there")
            .1
            .clone();
        if value == right {
            continue;
        }
        exchanged += 1;
        put(&store, &one, value).await;
        let vault = Vault::open(store.clone(), keys()).await;
        let looked = match vault {
            Ok(vault) => {
                let old = vault.check_anchor(Some(&site.anchor));
                old.and(vault.list(None, PAGE_MAX).await.map(|_| ()))
            }
            Err(error) => Err(error),
        };
        looked.expect_err("it is not as it was left");
        refused += 1;
        put(&store, &one, right).await;
    }
    let whole = Vault::open(store.clone(), keys()).await.expect("is whole");
    whole.check_anchor(Some(&site.anchor)).expect("is whole");
    report(&format!(
        "damage: {exchanged} × a row of another place or time: {refused} refused, 0 silent"
    ));
}

async fn rows(directory: &Path) -> Vec<(Key, Vec<u8>)> {
    let store = open_store(directory).await.expect("opens");
    let found = store.scan(b"", None, 1000).await.expect("reads");
    found
        .into_iter()
        .map(|(key, entry)| (key, entry.value))
        .collect()
}

async fn put(store: &SledStore, key: &Key, value: Vec<u8>) {
    let writes = vec![Write::Put(key.clone(), value)];
    let compares = Vec::new();
    let put = store.commit(Transaction { compares, writes }).await;
    put.expect("commits");
}
