//! Thousands of streams of tokens at once.

use std::fs;

use kodo_broker::pb::v1::{
    Resource, WatchTokenRequest, WatchTokenResponse, token_service_client::TokenServiceClient,
};
use tonic::{
    Streaming,
    transport::{Certificate, Channel, ClientTlsConfig, Identity},
};

use super::{
    command_line::register,
    site::{Serving, Site},
};

const STREAMS: usize = 5_000;
const CONNECTIONS: usize = 25;
/// What one stream may cost the broker, everything included. Unoptimized, its futures are larger.
const BYTES_MAX: usize = 12 * 1024;

async fn connect(site: &Site, serving: &Serving) -> Channel {
    let read = |name: &str| fs::read(site.path(name)).expect("a file of the site");
    let identity = Identity::from_pem(read("worker.crt"), read("worker.key"));
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(read("ca.pem")))
        .identity(identity);
    let endpoint = Channel::from_shared(format!("https://{}", serving.address));
    let endpoint = endpoint.expect("a URL").tls_config(tls);
    let channel = endpoint.expect("usable certificates").connect().await;
    channel.expect("connects")
}

/// Resident memory of the broker, in bytes.
fn resident(serving: &Serving) -> usize {
    let file = format!("/proc/{}/status", serving.process.id());
    let status = fs::read_to_string(file).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let mut words = line.expect("every process has it").split_whitespace();
    let kilobytes: usize = words.nth(1).and_then(|word| word.parse().ok()).expect("kB");
    kilobytes * 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_streams_cost_a_few_kilobytes_each_and_end_with_the_broker() {
    let site = Site::new().await;
    let serving = site.serve().await;
    register(&site, "contoso");
    let mut channels = Vec::new();
    for _ in 0..CONNECTIONS {
        channels.push(connect(&site, &serving).await);
    }
    let mut streams: Vec<Streaming<WatchTokenResponse>> = Vec::new();
    let mut before = 0;
    for number in 0..STREAMS + CONNECTIONS {
        // Once each connection has had one, what comes further is the streams' own.
        if number == CONNECTIONS {
            before = resident(&serving);
        }
        let mut client = TokenServiceClient::new(channels[number % CONNECTIONS].clone());
        let request = WatchTokenRequest {
            organization_id: "contoso".into(),
            resource: Resource::Graph.into(),
            ..Default::default()
        };
        let mut stream = client
            .watch_token(request)
            .await
            .expect("a stream")
            .into_inner();
        let first = stream.message().await.expect("no error");
        assert!(first.expect("the current token").token.is_some());
        streams.push(stream);
    }
    let each = resident(&serving).saturating_sub(before) / STREAMS;
    println_figure(each);
    assert!(each <= BYTES_MAX, "{each} bytes for each stream");
    serving.stop();
    for mut stream in streams {
        let end = stream.message().await.expect_err("the broker has stopped");
        assert_eq!(end.code(), tonic::Code::Unavailable, "{end:?}");
    }
}

#[expect(
    clippy::print_stdout,
    reason = "the figure is worth knowing when it holds, too"
)]
fn println_figure(bytes: usize) {
    println!("{bytes} bytes for each of {STREAMS} streams");
}
