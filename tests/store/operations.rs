//! What an operator does, on a disk that fails: register, rotate, revoke, re-wrap and back up, each told
//! as done or as refused, and nothing else.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use kodo_broker::{
    credential::Credential,
    kek::file::KeyFile,
    organization::{ClientId, Cloud, Organization, OrganizationId, State, TenantId, label::Labels},
    secret::ClientSecret,
    store::memory::MemoryStore,
    vault::{
        NewOrganization, Vault,
        backup::{Backup, restore},
    },
};

use crate::role::{self, say};

/// The KEK that the store was made under, and the one that its keys are re-wrapped under.
const OLD: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const NEW: &str = "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=";
const GUID: &str = "6babcaad-604b-40ac-a9d7-9fd97c0b779f";
/// Organizations that are there before.
const OLDER: [&str; 3] = ["rotated", "revoked", "left-alone"];

/// What is done, in this order.
pub(crate) const STEPS: [&str; 6] = ["open", "register", "rotate", "revoke", "rewrap", "backup"];

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn id(name: &str) -> OrganizationId {
    OrganizationId::parse(name).expect("an id")
}

/// Different for each organization and version.
fn secret(name: &str, version: u64) -> String {
    format!("{name}~{version}~0123456789abcdefghijklmnop")
}

fn credential(name: &str, version: u64) -> Credential {
    Credential::ClientSecret {
        value: ClientSecret::new(secret(name, version)),
        expires: None,
    }
}

/// Opens the vault of a store, with all keys or with the older one alone.
async fn open(directory: &Path, keks: &[&str]) -> Result<Vault, String> {
    let file = directory.with_file_name("kek");
    write_private(&file, keks.join("\n").as_bytes()).expect("a key file");
    let keys = KeyFile::open(&file).expect("keys");
    let store = role::open(directory)
        .await
        .map_err(|error| error.to_string())?;
    let vault = Vault::open(Arc::new(store), Arc::new(keys)).await;
    vault.map_err(|error| error.to_string())
}

fn write_private(file: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = File::options();
    options.create(true).truncate(true).write(true).mode(0o600);
    options.open(file)?.write_all(bytes)
}

async fn register(vault: &Vault, name: &str) -> Result<Organization, String> {
    let credential = credential(name, 1);
    let new = NewOrganization {
        id: id(name),
        display_name: name.to_owned(),
        tenant_id: TenantId::parse(GUID).expect("a GUID"),
        cloud: Cloud::Global,
        client_id: ClientId::parse(GUID).expect("a GUID"),
        sharepoint_root_host: None,
        sharepoint_hosts: vec![],
        labels: Labels::NONE,
    };
    let organization = new.registered(&credential, now());
    let mark = vault.mark(name, b"");
    let registered = vault.register(organization, credential, mark).await;
    registered.map_err(|error| error.to_string())
}

/// Makes the store that all runs begin with.
pub(crate) async fn prepare(directory: &Path) {
    let vault = open(directory, &[OLD]).await.expect("opens");
    for name in OLDER {
        register(&vault, name).await.expect("registers");
    }
}

/// The role: does everything once.
pub(crate) async fn operate(directory: &Path) {
    say("sent 0 1");
    let vault = match open(directory, &[NEW, OLD]).await {
        Ok(vault) => vault,
        Err(error) => return say(&format!("refused {error}")),
    };
    say("ack 0 1");
    for (number, step) in STEPS.iter().enumerate().skip(1) {
        say(&format!("sent {number} 1"));
        match take(&vault, directory, step).await {
            Ok(()) => say(&format!("ack {number} 1")),
            Err(error) => say(&format!("refused {step}: {error}")),
        }
        // Whatever is read meanwhile is right, or an error.
        for name in OLDER {
            let _ = state(&vault, name).await;
        }
    }
}

async fn take(vault: &Vault, directory: &Path, step: &str) -> Result<(), String> {
    let mark = vault.mark(step, b"");
    match step {
        "register" => register(vault, "new").await.map(drop),
        "rotate" => {
            let (id, credential) = (id("rotated"), credential("rotated", 2));
            let rotated = vault.rotate(&id, 1, credential, mark, now());
            rotated.await.map(drop).map_err(|error| error.to_string())
        }
        "revoke" => {
            let id = id("revoked");
            let revoked = vault.revoke_and_shred(&id, 1, mark, now());
            revoked.await.map(drop).map_err(|error| error.to_string())
        }
        "rewrap" => {
            let census = vault.rewrap(None, |_| {}).await;
            let census = census.map_err(|error| error.to_string())?;
            assert!(census.is_all_under(&vault.kek_id()), "{census:?}");
            Ok(())
        }
        "backup" => back_up(vault, &directory.join("a.backup")).await,
        other => panic!("no step: {other}"),
    }
}

async fn back_up(vault: &Vault, file: &Path) -> Result<(), String> {
    let told = |error: io::Error| error.to_string();
    let (mut backup, head) = Backup::begin(vault).await.map_err(|e| e.to_string())?;
    let mut to = File::create(file).map_err(told)?;
    to.write_all(&head.bytes).map_err(told)?;
    while let Some(piece) = backup.next().await.map_err(|error| error.to_string())? {
        to.write_all(&piece.bytes).map_err(told)?;
    }
    to.sync_all().map_err(told)
}

/// At which version an organization is, 0 once revoked; panics if what is stored cannot be.
async fn state(vault: &Vault, name: &str) -> Result<Option<u64>, String> {
    let found = vault.application(&id(name)).await;
    let Some(found) = found.map_err(|error| error.to_string())? else {
        return Ok(None);
    };
    let info = found.organization.credential.as_ref();
    match (found.organization.state, found.credential) {
        (State::Active, Some(Credential::ClientSecret { value, .. })) => {
            let version = info.expect("an active one has a credential").version;
            // Exposed: it is compared.
            assert_eq!(value.expose(), secret(name, version), "{name}");
            Ok(Some(version))
        }
        (State::Revoked { .. }, None) => Ok(Some(0)),
        other => panic!("{name}: {other:?}"),
    }
}

/// Looks at a store on a disk that is well: what was acknowledged is there.
///
/// # Errors
/// What is wrong.
pub(crate) async fn check(
    directory: &Path,
    acknowledged: impl Fn(&str) -> bool,
) -> Result<(), String> {
    let vault = open(directory, &[NEW, OLD]).await?;
    for (name, step, before, after) in [
        ("new", "register", None, Some(1)),
        ("rotated", "rotate", Some(1), Some(2)),
        ("revoked", "revoke", Some(1), Some(0)),
        ("left-alone", "open", Some(1), Some(1)),
    ] {
        let found = state(&vault, name).await?;
        if found != after && (found != before || acknowledged(step)) {
            return Err(format!("{name} is at {found:?}"));
        }
    }
    let census = vault.census().await.map_err(|error| error.to_string())?;
    if acknowledged("rewrap") && !census.is_all_under(&vault.kek_id()) {
        return Err(format!("keys are under an older KEK: {census:?}"));
    }
    if acknowledged("backup") {
        check_backup(directory, &vault).await?;
    }
    Ok(())
}

/// A backup that was told to be whole restores, and holds what the store does.
async fn check_backup(directory: &Path, vault: &Vault) -> Result<(), String> {
    let keys = KeyFile::open(&directory.with_file_name("kek")).expect("keys");
    let mut backup = File::open(directory.join("a.backup")).map_err(|error| error.to_string())?;
    let store = Arc::new(MemoryStore::default());
    let restored = restore(&mut backup, &*store, &keys, |_| {}).await;
    restored.map_err(|error| format!("the backup: {error}"))?;
    let restored = Vault::open(store, Arc::new(keys)).await;
    let restored = restored.map_err(|error| format!("the restored store: {error}"))?;
    for name in OLDER.iter().chain(&["new"]) {
        let (there, here) = (state(&restored, name).await?, state(vault, name).await?);
        if there != here {
            return Err(format!(
                "{name} is at {there:?} in the backup, at {here:?} here"
            ));
        }
    }
    fs::remove_file(directory.join("a.backup")).map_err(|error| error.to_string())
}
