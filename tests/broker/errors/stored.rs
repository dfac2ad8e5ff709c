//! What may be found in a store that somebody damaged, or wrote to behind the broker's back.

use std::{sync::Arc, time::Duration};

use kodo_broker::{
    clock::Clock,
    config::KekConfig,
    credential::{self, Credential},
    kek,
    organization::{ClientId, Cloud, OrganizationId, TenantId},
    pb::v1::Resource,
    secret::PrivateKey,
    store::{Key, Store as _, Transaction, Write},
    vault::{NewOrganization, Vault},
};
use tonic::Status;

use super::cause::refusal;
use crate::support::{CONTOSO, Fixture, SECRET, Setup, request};

/// Where a wrapped key has the id of its KEK: after magic, format, generation and length.
const KEK_ID_AT: usize = 4 + 2 + 4 + 2;

pub(super) async fn under_another_kek() -> Status {
    damaged(b"k/", |wrapped| wrapped[KEK_ID_AT] = b'x').await
}

pub(super) async fn with_a_bit_flipped() -> Status {
    // A record is compared with the manifest when the broker starts; a key is opened when it is needed.
    damaged(b"k/", |wrapped| *wrapped.last_mut().expect("long") ^= 1).await
}

/// Registers an organization, changes what is stored under a prefix while no broker runs, and asks
/// for a token of it.
async fn damaged(prefix: &[u8], damage: impl FnOnce(&mut Vec<u8>)) -> Status {
    let mut fixture = on_disk().await;
    let store = fixture.open_store().await;
    let found = store.scan(prefix, None, 1).await.expect("reads");
    let (key, mut entry) = found.into_iter().next().expect("one is registered");
    damage(&mut entry.value);
    let transaction = Transaction {
        compares: Vec::new(),
        writes: vec![Write::Put(key, entry.value)],
    };
    store.commit(transaction).await.expect("commits");
    drop(store);
    fixture.start_broker().await;
    refusal(&fixture, Resource::Graph).await
}

/// A registered organization in a store, and no broker.
async fn on_disk() -> Fixture {
    let mut fixture = Setup::new().sled().start().await;
    fixture
        .register("contoso", CONTOSO, request::secret(SECRET))
        .await;
    fixture.stop_broker().await;
    fixture
}

/// Below the store's own interface, which cannot write such an entry: a kept token that a revocation
/// has to delete.
pub(super) async fn without_the_number_of_its_commit() -> Status {
    let mut fixture = on_disk().await;
    let key = {
        let store = fixture.open_store().await;
        let found = store.scan(b"t/", None, 1).await.expect("reads");
        found.into_iter().next().expect("one is kept").0
    };
    overwrite(&fixture, &key).await;
    fixture.start_broker().await;
    let revocation = request::revoke("contoso", 1);
    let refused = fixture.admin().revoke_organization(revocation).await;
    refused.expect_err("it cannot be carried out")
}

async fn overwrite(fixture: &Fixture, key: &Key) {
    let database = loop {
        let config = sled::Config::new().path(fixture.store_folder());
        match config.segment_size(256 * 1024).open() {
            // Its lock is given back some time after the last user was dropped; and a store that opens
            // beside this one may have set a fail point.
            Err(sled::Error::Io(_) | sled::Error::FailPoint) => tokio::task::yield_now().await,
            opened => break opened.expect("opens"),
        }
    };
    let records = database.open_tree("records").expect("opens");
    records.insert(key.as_bytes(), b"short").expect("writes");
    database.flush().expect("writes");
}

/// Only a defect of the broker stores such a key; here it is stored behind its back.
pub(super) async fn with_a_key_that_cannot_sign() -> Status {
    let mut fixture = Setup::new().sled().start().await;
    fixture.stop_broker().await;
    let store = Arc::new(fixture.open_store().await);
    let kek = KekConfig::File(fixture.kek_file().to_owned());
    let vault = Vault::open(store, kek::open(&kek).await.expect("a KEK"))
        .await
        .expect("opens");
    let now = Clock::system().now();
    let broken = Credential::Certificate(credential::Certificate {
        key: PrivateKey::new("no key at all".into()),
        der: b"no certificate".to_vec(),
        expires: now + Duration::from_secs(3600),
        key_bits: 2048,
    });
    let new = NewOrganization {
        id: OrganizationId::parse("contoso").expect("an id"),
        display_name: String::new(),
        tenant_id: TenantId::parse(&CONTOSO.tenant.to_string()).expect("a GUID"),
        cloud: Cloud::Global,
        client_id: ClientId::parse(&CONTOSO.client.to_string()).expect("a GUID"),
        sharepoint_root_host: None,
        sharepoint_hosts: Vec::new(),
        labels: Default::default(),
    };
    let mark = vault.mark("tests", b"");
    let organization = new.registered(&broken, now);
    vault
        .register(organization, broken, mark)
        .await
        .expect("stores");
    drop(vault);
    fixture.start_broker().await;
    refusal(&fixture, Resource::Graph).await
}
