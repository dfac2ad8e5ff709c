use super::*;

#[test]
fn the_text_has_every_figure_with_its_labels() {
    let metrics = Metrics::new();
    metrics.token_handed_out(Cache::Hit, Duration::from_micros(20));
    metrics.token_handed_out(Cache::Miss, Duration::from_millis(120));
    metrics.called("GetToken", "ORGANIZATION_NOT_FOUND");
    metrics.called("ListOrganizations", "OK");
    metrics.connections.inc();
    metrics.gauge("tokens", "Tokens in memory", || 42);
    let text = metrics.text();
    for line in [
        r#"kodo_broker_calls_total{rpc="GetToken",outcome="OK"} 2"#,
        r#"kodo_broker_calls_total{rpc="GetToken",outcome="ORGANIZATION_NOT_FOUND"} 1"#,
        r#"kodo_broker_calls_total{rpc="ListOrganizations",outcome="OK"} 1"#,
        r#"kodo_broker_get_token_duration_seconds_count{source="hit"} 1"#,
        r#"kodo_broker_get_token_duration_seconds_bucket{le="0.25",source="miss"} 1"#,
        "kodo_broker_connections 1",
        "kodo_broker_tokens 42",
        "# EOF",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line} is not in\n{text}"
        );
    }
}
