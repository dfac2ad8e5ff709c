//! Jobs on the command line: a worker reaches an organization only while one runs.

use crate::{
    command_line::{json, register},
    program::Ended,
    site::Site,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_gets_tokens_while_a_job_runs_that_a_scheduler_has_told_of() {
    let site = Site::new().await;
    let policy = std::fs::read_to_string(site.path("policy.toml")).expect("it is there");
    let policy = policy
        .replace("resources = ", "job_grant = \"required\"\nresources = ")
        .replace("\"manage_store\"", "\"manage_jobs\"");
    site.write("policy.toml", policy);
    let serving = site.serve().await;
    register(&site, "contoso");
    let get = |job: &[&str]| -> Ended {
        let line = [&["token", "get", "contoso", "graph"][..], job].concat();
        site.call("worker", &line)
    };
    let refused = get(&[]).expect_code(5);
    assert!(refused.err.contains("job grant"), "{}", refused.err);
    let worker = site
        .call("worker", &["-o", "json", "whoami"])
        .expect_code(0);
    let worker = json(&worker.out)["spiffe_id"].clone();
    let create = |lasts: &str| {
        let worker = worker.as_str().expect("a text");
        let line = [
            "-o",
            "json",
            "job",
            "create",
            "contoso",
            "nightly-7",
            "--workers",
            worker,
        ];
        let line = [&line[..], &["--resource", "graph", "--for", lasts]].concat();
        site.call("admin", &line)
    };
    // More than a day.
    let refused = create("25h").expect_code(3);
    assert!(refused.err.contains("end_time"), "{}", refused.err);
    let created = json(&create("2h").expect_code(0).out);
    assert_eq!(created[0]["job_id"], "nightly-7");
    assert_eq!(created[0]["resources"][0], "graph");
    assert_eq!(created[0]["purpose"], "backup");
    for (job, code) in [
        (&[][..], 0),
        (&["--job", "nightly-7"], 0),
        (&["--job", "nightly-8"], 5),
        (&["--purpose", "restore"], 5),
        (&["--job", "no job id"], 3),
    ] {
        get(job).expect_code(code);
    }
    let listed = site.call("admin", &["-o", "json", "job", "list", "contoso"]);
    assert_eq!(json(&listed.expect_code(0).out), created);
    let table = site
        .call("admin", &["job", "list", "contoso"])
        .expect_code(0);
    assert!(table.out.contains("nightly-7"), "{}", table.out);
    let id = created[0]["job_grant_id"].as_str().expect("a text");
    for said in ["ended\n", "had ended before\n"] {
        let revoked = site.call("admin", &["job", "revoke", "contoso", id]);
        assert_eq!(revoked.expect_code(0).out, said);
    }
    get(&["--job", "nightly-7"]).expect_code(5);
    // Whoever may not tell of jobs.
    site.call("worker", &["job", "list", "contoso"])
        .expect_code(5);
    serving.stop();
}
