//! What keeping credentials costs: stores that are opened, changes that are acknowledged, keys that are
//! re-wrapped.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use kodo_broker::{
    client::{ConnectionConfig, Operator},
    credential::Credential,
    kek::file::KeyFile,
    organization::{ClientId, Cloud, OrganizationId, TenantId, label::Labels},
    pb::{admin::v1::RewrapKeysRequest, v1::Resource},
    secret::ClientSecret,
    store::{self, sled::SledStore},
    vault::{NewOrganization, Vault},
};
use tokio::{task::JoinSet, time::Instant};
use uuid::Uuid;

use crate::{
    Failure,
    broker::{Broker, Organization, probe},
    compare::Rounds,
    load::{self, Load, Timing},
    site::{CLIENT_SECRET, KEK, NEW_KEK, Site, Store},
    table::Table,
};

/// What a fill has under way at once, to fill the groups of the store's writer.
const AT_ONCE: usize = 512;
/// For how long changes are counted.
const COUNTED: Duration = Duration::from_secs(3);
/// What a store keeps free for a full disk is nobody's record.
const RESERVE: &str = "kodo-broker.reserve";
/// Organizations that are asked for while keys are re-wrapped.
const ASKED: usize = 100;
/// For how long that is measured before.
const QUIET: Duration = Duration::from_secs(3);
const LOAD: Load = Load {
    connections: 8,
    in_flight: 32,
};

/// Organizations of one tenant, registered without asking Entra.
#[derive(Clone, Copy)]
struct Fill {
    tenant: Uuid,
    client_id: Uuid,
}

pub(crate) async fn measure(site: &Site, sizes: &[usize], rounds: Rounds) -> Result<(), Failure> {
    let (tenant, client_id) = site.add_tenant("custody");
    let fill = Fill { tenant, client_id };
    open(site, fill, sizes).await?;
    commits(site, fill).await?;
    let largest = sizes.iter().copied().filter(|size| *size <= 100_000).max();
    if let Some(size) = largest {
        rewrap(site, size, rounds).await?;
    }
    Ok(())
}

async fn open(site: &Site, fill: Fill, sizes: &[usize]) -> Result<(), Failure> {
    let mut table = Table::new([
        "organizations",
        "on disk, each",
        "opened and checked in",
        "start to first token",
        "again, after kill -9",
    ]);
    for &size in sizes {
        let name = name(size);
        let directory = site.path(&format!("{name}-data"));
        let vault = Arc::new(open_vault(site, &directory).await?);
        let mut registering = JoinSet::new();
        for number in 0..size {
            if registering.len() == AT_ONCE
                && let Some(registered) = registering.join_next().await
            {
                registered??;
            }
            let vault = vault.clone();
            registering.spawn(async move { fill.register(&vault, number).await });
        }
        while let Some(registered) = registering.join_next().await {
            registered??;
        }
        close(site, &name, vault)?;
        let began = Instant::now();
        let vault = Arc::new(open_vault(site, &directory).await?);
        let opened = began.elapsed();
        close(site, &name, vault)?;
        let first = first_token(site, &name, 0).await?;
        let again = first_token(site, &name, 1).await?;
        table.row([
            size.to_string(),
            format!("{} B", bytes(&directory)? / size as u64),
            seconds(opened),
            seconds(first),
            seconds(again),
        ]);
    }
    table.print("Stores of some sizes, manifest and anchor checked before anything is served");
    Ok(())
}

/// Starts a broker on a store, and asks it for the token of an organization that nobody has asked for.
async fn first_token(site: &Site, name: &str, number: usize) -> Result<Duration, Failure> {
    let began = Instant::now();
    let broker = Broker::start(site, name, Store::Sled)?;
    let organization = Organization {
        id: id(number),
        tenant: Uuid::nil(),
    };
    probe(&broker.target(site, &[organization], Resource::Graph)).await?;
    Ok(began.elapsed())
}

/// Acknowledged registrations, and what the disk alone does.
async fn commits(site: &Site, fill: Fill) -> Result<(), Failure> {
    let mut table = Table::new(["writers", "acknowledged/s", "÷ fdatasync alone"]);
    let alone = fdatasyncs(&site.path("floor"))?;
    table.row([
        "fdatasync of 4 KiB".to_owned(),
        format!("{alone:.0}"),
        "1.00".to_owned(),
    ]);
    for writers in [1, 64] {
        let directory = site.path(&format!("commits-{writers}"));
        let vault = Arc::new(open_vault(site, &directory).await?);
        let mut tasks = JoinSet::new();
        let began = Instant::now();
        for writer in 0..writers {
            let vault = vault.clone();
            tasks.spawn(async move {
                let mut done = 0_u32;
                while began.elapsed() < COUNTED {
                    let number = writer * 10_000_000 + done as usize;
                    fill.register(&vault, number).await?;
                    done += 1;
                }
                Ok::<_, Failure>(done)
            });
        }
        let mut done = 0;
        while let Some(counted) = tasks.join_next().await {
            done += counted??;
        }
        let rate = f64::from(done) / began.elapsed().as_secs_f64();
        table.row([
            writers.to_string(),
            format!("{rate:.0}"),
            format!("{:.2}", rate / alone),
        ]);
    }
    table.print("Registrations acknowledged, each on the disk");
    Ok(())
}

/// How often a second 4 KiB can be appended and synced.
fn fdatasyncs(file: &Path) -> Result<f64, Failure> {
    let mut file = File::create(file)?;
    let (began, mut done) = (Instant::now(), 0_u32);
    while began.elapsed() < COUNTED {
        file.write_all(&[1; 4096])?;
        file.sync_data()?;
        done += 1;
    }
    Ok(f64::from(done) / began.elapsed().as_secs_f64())
}

/// Re-wraps all keys of a store while tokens are asked for.
async fn rewrap(site: &Site, size: usize, rounds: Rounds) -> Result<(), Failure> {
    let name = name(size);
    site.write("kek", format!("{NEW_KEK}\n{KEK}\n"))?;
    let broker = Broker::start(site, &name, Store::Sled)?;
    let ids: Vec<_> = (0..ASKED.min(size))
        .map(|number| Organization {
            id: id(number),
            tenant: Uuid::nil(),
        })
        .collect();
    let target = broker.target(site, &ids, Resource::Graph);
    let run = |measured| {
        let warm_up = rounds.timing.warm_up;
        let timing = Timing { warm_up, measured };
        tokio::task::block_in_place(|| load::run(&target, LOAD, timing))
    };
    // The first one gets the tokens.
    run(QUIET)?;
    let quiet = run(QUIET)?;
    let connection = ConnectionConfig::load(site.path(&format!("{name}-admin.toml")))?;
    let operator = Operator::connect(&connection).await?;
    let began = Instant::now();
    let mut walk = JoinSet::new();
    walk.spawn(async move {
        let mut messages = operator
            .rewrap_keys(RewrapKeysRequest {
                keys_per_second_max: 0,
            })
            .await?;
        while messages
            .message()
            .await?
            .is_some_and(|message| !message.finished)
        {}
        Ok::<_, Failure>(began.elapsed())
    });
    let mut busy = Vec::new();
    let took = loop {
        if let Some(ended) = walk.try_join_next() {
            break ended??;
        }
        let short = Timing {
            warm_up: Duration::ZERO,
            measured: Duration::from_millis(200),
        };
        busy.push(tokio::task::block_in_place(|| {
            load::run(&target, LOAD, short)
        })?);
    };
    busy.sort_by(|one, other| one.p99.total_cmp(&other.p99));
    let p99 = busy.get(busy.len() / 2).map_or(0.0, |sample| sample.p99);
    let rate = busy.iter().map(|sample| sample.rate).sum::<f64>() / busy.len().max(1) as f64;
    let mut table = Table::new(["", "seconds", "GetToken/s", "p99 µs"]);
    table.row([
        "before".to_owned(),
        String::new(),
        format!("{:.0}", quiet.rate),
        format!("{:.0}", quiet.p99),
    ]);
    table.row([
        format!("{size} organizations re-wrapped"),
        format!("{:.1}", took.as_secs_f64()),
        format!("{rate:.0}"),
        format!("{p99:.0}"),
    ]);
    table.print("Re-wrapping beside GetToken, every answer a token");
    Ok(())
}

impl Fill {
    async fn register(self, vault: &Vault, number: usize) -> Result<(), Failure> {
        let credential = Credential::ClientSecret {
            value: ClientSecret::new(CLIENT_SECRET.to_owned()),
            expires: None,
        };
        let new = NewOrganization {
            id: OrganizationId::parse(&id(number)).map_err(|error| error.to_string())?,
            display_name: format!("Organization {number}"),
            tenant_id: TenantId::parse(&self.tenant.to_string()).map_err(|e| e.to_string())?,
            cloud: Cloud::Global,
            client_id: ClientId::parse(&self.client_id.to_string()).map_err(|e| e.to_string())?,
            sharepoint_root_host: None,
            sharepoint_hosts: vec![],
            labels: Labels::NONE,
        };
        let organization = new.registered(&credential, SystemTime::UNIX_EPOCH);
        let mark = vault.mark(&id(number), b"");
        vault.register(organization, credential, mark).await?;
        Ok(())
    }
}

fn name(size: usize) -> String {
    format!("store-{size}")
}

fn id(number: usize) -> String {
    format!("organization-{number}")
}

async fn open_vault(site: &Site, directory: &Path) -> Result<Vault, Failure> {
    let keys = KeyFile::open(&site.path("kek"))?;
    // sled's threads may hold the files of the last one a moment longer.
    let store = loop {
        match SledStore::open(directory).await {
            Err(store::Error::InUse(_)) => tokio::task::yield_now().await,
            opened => break opened?,
        }
    };
    Ok(Vault::open(Arc::new(store), Arc::new(keys)).await?)
}

/// Leaves a store to a broker.
fn close(site: &Site, name: &str, vault: Arc<Vault>) -> Result<(), Failure> {
    site.write(&format!("{name}-data.anchor"), vault.anchor())?;
    drop(Arc::into_inner(vault).ok_or("the vault is in use")?);
    let log = File::open(site.path(&format!("{name}-data/db")))?;
    while log.try_lock().is_err() {
        std::thread::yield_now();
    }
    Ok(())
}

/// What the files of a store take, without the room that it keeps free.
fn bytes(directory: &Path) -> Result<u64, Failure> {
    let mut sum = 0;
    for file in fs::read_dir(directory)? {
        let file = file?;
        if file.file_name() != RESERVE && file.file_type()?.is_file() {
            sum += file.metadata()?.len();
        }
    }
    Ok(sum)
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}
