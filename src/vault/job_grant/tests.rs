use super::*;
use crate::{
    store::Store as _,
    vault::tests::{Fixture, HOUR, entries, holds, id, now, put, reopen},
};

fn grant(vault: &Vault, organization: &str, number: u32) -> JobGrant {
    let organization = id(organization);
    JobGrant {
        id: vault.job_grant_id(&organization, &format!("request-{number}")),
        organization,
        job_id: JobId::parse(&format!("canary-job-{number}")).expect("an id"),
        workers: Workers::parse("spiffe://kodo.test/canary/*").expect("workers"),
        resources: vec![Resource::Graph, Resource::SharePoint(None)],
        purpose: Purpose::Restore,
        create_time: now(),
        end_time: now() + HOUR,
    }
}

#[tokio::test]
async fn job_grants_outlive_a_restart_and_not_their_end() {
    let fixture = Fixture::with(&["contoso", "fabrikam"]).await;
    let vault = &fixture.vault;
    let mut kept = [("contoso", 1), ("contoso", 2), ("fabrikam", 1)]
        .map(|(organization, number)| grant(vault, organization, number));
    kept[1].end_time = now() + 2 * HOUR;
    for grant in &kept {
        assert!(vault.keep_job_grant(grant).await.expect("keeps"));
        assert!(!vault.keep_job_grant(grant).await.expect("is there"));
    }
    let by_id = |mut grants: Vec<JobGrant>| {
        grants.sort_by_key(|grant| grant.id);
        grants
    };
    let again = reopen(&fixture.store, 1).await.expect("opens");
    let found = again.job_grants(now()).await.expect("reads");
    assert_eq!(by_id(found), by_id(kept.to_vec()));
    again
        .drop_job_grant(&id("fabrikam"), kept[2].id)
        .await
        .expect("deletes");
    let later = again.job_grants(now() + HOUR).await.expect("reads");
    assert_eq!(later, [kept[1].clone()]);
    // What has ended was deleted.
    let rows = entries(&fixture.store).await;
    let rows = rows
        .iter()
        .filter(|(key, _)| key.as_bytes().starts_with(JOB_GRANTS));
    assert_eq!(rows.count(), 1);
}

#[tokio::test]
async fn a_job_grant_tells_nothing_and_opens_at_its_place_only() {
    let fixture = Fixture::with(&["contoso", "fabrikam"]).await;
    let vault = &fixture.vault;
    let grant = grant(vault, "contoso", 1);
    vault.keep_job_grant(&grant).await.expect("keeps");
    let own = at(&vault.root.index(&grant.organization), grant.id);
    let value = fixture
        .store
        .get(&own)
        .await
        .expect("reads")
        .expect("is kept")
        .value;
    for canary in [&b"canary"[..], b"contoso"] {
        assert!(!holds(own.as_bytes(), canary) && !holds(&value, canary));
    }
    for foreign in [
        at(&vault.root.index(&id("fabrikam")), grant.id),
        at(&vault.root.index(&grant.organization), JobGrantId([7; 16])),
    ] {
        put(&fixture.store, &foreign, &value).await;
        let found = vault.job_grants(now()).await;
        assert!(matches!(found, Err(Error::Corrupt(_))), "{found:?}");
        let writes = vec![Write::Delete(foreign)];
        let compares = vec![];
        let gone = Transaction { compares, writes };
        fixture.store.commit(gone).await.expect("deletes");
    }
    for bit in 0..value.len() * 8 {
        let mut changed = value.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        put(&fixture.store, &own, &changed).await;
        vault.job_grants(now()).await.expect_err("was changed");
    }
    put(&fixture.store, &own, &value).await;
    assert_eq!(vault.job_grants(now()).await.expect("reads"), [grant]);
}
