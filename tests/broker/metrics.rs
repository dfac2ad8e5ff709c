//! What Prometheus reads.

use kodo_broker::pb::v1::Resource;

use crate::support::{CONTOSO, SECRET, Setup, request, token};

#[tokio::test]
async fn calls_are_counted_by_outcome_and_never_by_customer() {
    let setup = Setup::new().server("metrics_listen = \"127.0.0.1:0\"");
    let fixture = setup.start().await;
    fixture
        .register("contoso", CONTOSO, request::secret(SECRET))
        .await;
    let worker = fixture.worker();
    for _ in 0..3 {
        token(&worker, "contoso", Resource::Graph)
            .await
            .expect("a token");
    }
    token(&worker, "contoso", Resource::Exchange)
        .await
        .expect("a token");
    token(&worker, "unknown", Resource::Graph)
        .await
        .expect_err("unknown");
    let answer = fixture.ask_metrics("GET /metrics").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(
        answer.contains("content-type: application/openmetrics-text"),
        "{answer}"
    );
    for line in [
        r#"kodo_broker_calls_total{rpc="RegisterOrganization",outcome="OK"} 1"#,
        r#"kodo_broker_calls_total{rpc="GetToken",outcome="OK"} 4"#,
        r#"kodo_broker_calls_total{rpc="GetToken",outcome="ORGANIZATION_NOT_FOUND"} 1"#,
        r#"kodo_broker_get_token_duration_seconds_count{source="hit"} 3"#,
        r#"kodo_broker_get_token_duration_seconds_count{source="miss"} 1"#,
        "kodo_broker_tokens 2",
    ] {
        assert!(
            answer.contains(&format!("{line}\n")),
            "{line} is not in\n{answer}"
        );
    }
    assert!(answer.ends_with("# EOF\n"), "{answer}");
    for word in ["contoso", "unknown", "spiffe", "worker"] {
        assert!(!answer.contains(word), "{word}");
    }
}

#[tokio::test]
async fn lines_of_the_audit_log_that_no_collector_took_are_counted() {
    // Nobody listens there once it is known.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = nobody.local_addr().expect("is bound");
    drop(nobody);
    let audit = format!("[audit]\nfile = \"{{folder}}/audit.log\"\nsyslog = \"{address}\"\n");
    let setup = Setup::new().server("metrics_listen = \"127.0.0.1:0\"");
    let fixture = setup.config(&audit).start().await;
    let refused = token(&fixture.worker(), "unknown", Resource::Graph).await;
    refused.expect_err("unknown");
    // The line that opens the log, and that of the call.
    let none = "kodo_broker_audit_not_copied 0\n";
    while fixture.ask_metrics("GET /metrics").await.contains(none) {}
    let answer = fixture.ask_metrics("GET /metrics").await;
    assert!(answer.contains("kodo_broker_audit_not_copied "), "{answer}");
}

#[tokio::test]
async fn nothing_else_is_served_beside_the_figures() {
    let setup = Setup::new().server("metrics_listen = \"127.0.0.1:0\"");
    let fixture = setup.start().await;
    let elsewhere = fixture.ask_metrics("GET /").await;
    assert!(elsewhere.starts_with("HTTP/1.1 404 "), "{elsewhere}");
    let posted = fixture.ask_metrics("POST /metrics").await;
    assert!(posted.starts_with("HTTP/1.1 405 "), "{posted}");
}
