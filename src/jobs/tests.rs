use std::time::SystemTime;

use tokio::time::advance;

use super::*;
use crate::{
    kek::local::FileKey, organization::job::Workers, secret::SymmetricKey,
    store::memory::MemoryStore,
};

const HOUR: Duration = Duration::from_secs(3600);

async fn open(store: &Arc<MemoryStore>, clock: Clock) -> Jobs {
    let key = SymmetricKey::new(vec![1; 32]).expect("32 bytes");
    let vault = Vault::open(store.clone(), Arc::new(FileKey::new(key))).await;
    let jobs = Jobs::open(Arc::new(vault.expect("opens")), clock).await;
    jobs.expect("opens")
}

fn clock() -> Clock {
    Clock::starting_at(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000))
}

fn grant(jobs: &Jobs, organization: &str, number: usize, life: Duration) -> JobGrant {
    let organization = OrganizationId::parse(organization).expect("an id");
    let now = jobs.clock.now();
    JobGrant {
        id: jobs
            .vault
            .job_grant_id(&organization, &format!("request-{number}")),
        organization,
        job_id: JobId::parse(&format!("job-{number}")).expect("an id"),
        workers: Workers::parse("spiffe://kodo.test/worker/*").expect("workers"),
        resources: vec![Resource::Graph, Resource::SharePoint(None)],
        purpose: Purpose::Backup,
        create_time: now,
        end_time: now + life,
    }
}

fn covers(jobs: &Jobs, change: impl FnOnce(&mut [&str; 4])) -> bool {
    let mut words = ["spiffe://kodo.test/worker/1", "contoso", "graph", ""];
    change(&mut words);
    let [worker, organization, resource, job_id] = words;
    let id = SpiffeId::new(worker).expect("an id");
    let resource = match resource {
        "graph" => Resource::Graph,
        "host" => Resource::SharePoint(Some("contoso-my.sharepoint.com".into())),
        _ => Resource::Exchange,
    };
    jobs.cover(&Asked {
        worker: (&id, worker),
        organization: &OrganizationId::parse(organization).expect("an id"),
        resource: &resource,
        purpose: Some(Purpose::Backup),
        job_id: JobId::parse(job_id).ok().as_ref(),
    })
}

#[tokio::test(start_paused = true)]
async fn a_job_covers_its_workers_organization_resources_purpose_and_time() {
    let (store, clock) = (Arc::default(), clock());
    let jobs = open(&store, clock).await;
    assert!(!covers(&jobs, |_| ()));
    jobs.create(grant(&jobs, "contoso", 1, HOUR))
        .await
        .expect("is taken down");
    let again = open(&store, clock).await;
    for jobs in [&jobs, &again] {
        assert!(covers(jobs, |_| ()));
        assert!(covers(jobs, |asked| asked[2] = "host"));
        assert!(covers(jobs, |asked| asked[3] = "job-1"));
        assert!(!covers(jobs, |asked| asked[0] = "spiffe://kodo.test/workers/1"));
        assert!(!covers(jobs, |asked| asked[1] = "fabrikam"));
        assert!(!covers(jobs, |asked| asked[2] = "exchange"));
        assert!(!covers(jobs, |asked| asked[3] = "job-2"));
    }
    advance(HOUR - Duration::from_millis(1)).await;
    assert!(covers(&jobs, |_| ()) && covers(&again, |_| ()));
    advance(Duration::from_millis(1)).await;
    assert!(!covers(&jobs, |_| ()) && !covers(&again, |_| ()));
    assert_eq!(open(&store, clock).await.organizations(), 0);
    jobs.sweep().await.expect("sweeps");
    assert_eq!(jobs.organizations(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_ended_is_over_at_once_and_after_a_restart() {
    let (store, clock) = (Arc::default(), clock());
    let jobs = open(&store, clock).await;
    let one = jobs
        .create(grant(&jobs, "contoso", 1, HOUR))
        .await
        .expect("is taken down");
    let two = jobs
        .create(grant(&jobs, "contoso", 2, HOUR))
        .await
        .expect("is taken down");
    assert_eq!(jobs.list(&one.organization), [one.clone(), two.clone()]);
    assert!(jobs.end(&one.organization, one.id).await.expect("ends"));
    assert!(
        !jobs
            .end(&one.organization, one.id)
            .await
            .expect("has ended")
    );
    assert!(!covers(&jobs, |asked| asked[3] = "job-1"));
    assert!(covers(&jobs, |asked| asked[3] = "job-2"));
    let again = open(&store, clock).await;
    assert_eq!(again.list(&one.organization), [two]);
}

#[tokio::test(start_paused = true)]
async fn a_request_is_done_once_and_an_organization_has_a_bounded_number() {
    let (store, clock) = (Arc::default(), clock());
    let jobs = open(&store, clock).await;
    let first = jobs
        .create(grant(&jobs, "contoso", 0, HOUR))
        .await
        .expect("is taken down");
    advance(Duration::from_secs(60)).await;
    let mut same = (*first).clone();
    same.create_time = clock.now();
    assert_eq!(jobs.create(same.clone()).await.expect("is answered"), first);
    same.purpose = Purpose::Restore;
    let reused = jobs.create(same).await;
    assert!(matches!(reused, Err(Error::RequestIdReused)), "{reused:?}");
    for number in 1..GRANTS_MAX {
        jobs.create(grant(&jobs, "contoso", number, HOUR))
            .await
            .expect("is taken down");
    }
    let more = jobs.create(grant(&jobs, "contoso", GRANTS_MAX, HOUR)).await;
    assert!(matches!(more, Err(Error::TooMany)), "{more:?}");
    jobs.create(grant(&jobs, "fabrikam", 1, HOUR))
        .await
        .expect("another organization");
    // What has ended takes no room, and its request id may come again.
    advance(HOUR).await;
    jobs.create(grant(&jobs, "contoso", 0, HOUR))
        .await
        .expect("is taken down");
    assert_eq!(open(&store, clock).await.list(&first.organization).len(), 1);
}
