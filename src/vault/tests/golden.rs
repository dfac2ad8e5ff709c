//! A whole store that another implementation made (`tests/real/golden.py`, on Python's `cryptography`), and
//! kept: it opens for ever.

use crate::{
    organization::{Purpose, Resource, job::JobGrantId},
    vault::{
        kept_token::tests::golden,
        tests::{Fixture, HOUR, id, now, reopen},
    },
};

#[tokio::test]
async fn a_store_with_records_of_format_2_and_a_job_grant_opens() {
    let store = golden(include_bytes!("golden-2.store")).await;
    let vault = reopen(&store, 1).await.expect("opens");
    let fixture = Fixture { store, vault };
    for (name, secret) in [("labelled", "golden~labelled"), ("plain", "golden~plain")] {
        assert_eq!(fixture.secret(name).await.as_deref(), Some(secret));
    }
    let labelled = fixture.vault.organization(&id("labelled")).await;
    let labelled = labelled.expect("reads").expect("is there");
    let labels: Vec<_> = labelled
        .labels
        .iter()
        .map(|label| (label.key(), label.value()))
        .collect();
    assert_eq!(labels, [("msp", "northwind"), ("tier", "gold")]);
    assert_eq!((labelled.revision, labelled.create_time), (3, now()));
    let grants = fixture.vault.job_grants(now()).await.expect("reads");
    let [grant] = grants.as_slice() else {
        panic!("{grants:?}")
    };
    assert_eq!(grant.organization, id("labelled"));
    assert_eq!(grant.id, JobGrantId(std::array::from_fn(|n| n as u8)));
    assert_eq!(grant.job_id.as_str(), "nightly-7");
    assert_eq!(grant.workers.text(), "spiffe://kodo.test/worker/*");
    assert_eq!(
        grant.resources,
        [Resource::Graph, Resource::SharePoint(None)]
    );
    assert_eq!(grant.purpose, Purpose::Restore);
    assert_eq!(grant.end_time, now() + HOUR);
}
