//! What Prometheus reads.

use kodo_broker::pb::v1::Resource;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{CONTOSO, Fixture, SECRET, Setup, request, token};

/// One request over a connection of its own, and the whole answer.
async fn ask(fixture: &Fixture, line: &str) -> String {
    let connected = TcpStream::connect(fixture.metrics_address()).await;
    let mut connection = connected.expect("it is served");
    let head = format!("{line} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    connection.write_all(head.as_bytes()).await.expect("sends");
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.expect("text");
    answer
}

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
    let answer = ask(&fixture, "GET /metrics").await;
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
async fn nothing_else_is_served_beside_the_figures() {
    let setup = Setup::new().server("metrics_listen = \"127.0.0.1:0\"");
    let fixture = setup.start().await;
    let elsewhere = ask(&fixture, "GET /").await;
    assert!(elsewhere.starts_with("HTTP/1.1 404 "), "{elsewhere}");
    let posted = ask(&fixture, "POST /metrics").await;
    assert!(posted.starts_with("HTTP/1.1 405 "), "{posted}");
}
