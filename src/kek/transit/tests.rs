use std::time::Duration;

use super::*;

mod server;

use server::{Fault, Server, TOKEN};

const AAD: &[u8] = b"place";

fn dek() -> SymmetricKey {
    SymmetricKey::new(b"canary-key-canary-key-canary-key".to_vec()).expect("32 bytes")
}

/// A provider that is open, with a key that it has wrapped.
struct Fixture {
    server: Server,
    transit: Transit,
    kek_id: KekId,
    wrapped: Vec<u8>,
}

impl Fixture {
    async fn new() -> Self {
        let server = Server::start().await;
        let config = server.config();
        Self::with(server, &config).await
    }

    async fn with(server: Server, config: &TransitConfig) -> Self {
        let transit = Transit::open(config).await.expect("opens");
        let kek_id = transit.current();
        let wrapped = transit.wrap_dek(&kek_id, &dek(), AAD).await.expect("wraps");
        server.asked();
        Self {
            server,
            transit,
            kek_id,
            wrapped,
        }
    }

    async fn unwrap(&self) -> Result<(), Error> {
        let opened = self.transit.unwrap_dek(&self.kek_id, &self.wrapped, AAD);
        assert_eq!(opened.await?.expose(), dek().expose());
        Ok(())
    }
}

/// Moves the clock, with nothing under way.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

fn unavailable(outcome: Result<impl Sized, Error>) -> String {
    match outcome {
        Err(error @ Error::Unavailable { .. }) => told(&error),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("a success"),
    }
}

fn unusable(outcome: Result<impl Sized, Error>) -> String {
    match outcome {
        Err(error @ Error::Unusable { .. }) => told(&error),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("a success"),
    }
}

/// An error as anybody may see it.
fn told(error: &Error) -> String {
    let told = format!("{error} {error:?}");
    let base64 = BASE64_STANDARD.encode(dek().expose());
    for secret in ["canary", "header.payload", &base64[..20]] {
        assert!(!told.contains(secret), "{told}");
    }
    told
}

#[tokio::test]
async fn a_key_opens_only_where_it_was_wrapped_for() {
    for derived in [false, true] {
        let server = Server::start().await;
        server.state().derived = derived;
        let config = server.config();
        let fixture = Fixture::with(server, &config).await;
        fixture.unwrap().await.expect("opens");
        assert!(fixture.wrapped.starts_with(b"vault:v1:"));
        let moved = fixture
            .transit
            .unwrap_dek(&fixture.kek_id, &fixture.wrapped, b"elsewhere");
        assert!(matches!(moved.await, Err(Error::DoesNotOpen)));
        for odd in [b"".as_slice(), b"vault:v2:AAAA", b"vault:v1", b"\xff"] {
            let odd = fixture.transit.unwrap_dek(&fixture.kek_id, odd, AAD).await;
            assert!(matches!(odd, Err(Error::DoesNotOpen)));
        }
        let seen = fixture.server.state().seen.clone();
        assert_eq!(seen.len(), 2, "what is no ciphertext is not sent");
        for request in seen {
            assert!(request.head.contains("x-vault-namespace: team"));
            assert!(request.head.contains("x-vault-request: true"));
            let (aad, context) = (&request.body["associated_data"], &request.body["context"]);
            assert!(aad.as_str().is_some_and(|aad| aad.len() == 44));
            assert_eq!(context == aad, derived);
            assert_eq!(context.is_null(), !derived);
        }
    }
}

#[tokio::test]
async fn a_new_version_wraps_and_the_old_one_opens() {
    let fixture = Fixture::new().await;
    fixture.server.state().versions.push(1_700_000_100);
    fixture.transit.keep_up().await.expect("keeps up");
    let new = fixture.transit.current();
    assert!(new.as_str().ends_with(":v2"));
    assert!(fixture.transit.opens(&fixture.kek_id) && fixture.transit.opens(&new));
    fixture.unwrap().await.expect("opens");
    // Whoever asked for the current one before wraps under what it has bound the key to.
    for (id, front) in [(&new, "vault:v2:"), (&fixture.kek_id, "vault:v1:")] {
        let wrapped = fixture
            .transit
            .wrap_dek(id, &dek(), AAD)
            .await
            .expect("wraps");
        assert!(wrapped.starts_with(front.as_bytes()));
    }
}

#[tokio::test]
async fn a_kek_that_is_not_known_is_asked_for_once_in_a_while() {
    let fixture = Fixture::new().await;
    fixture.server.state().versions.push(1_700_000_100);
    let newer = Transit::open(&fixture.server.config()).await;
    let newer = newer.expect("opens").current();
    fixture.server.asked();
    let unwrap = |id: KekId, wrapped: &'static [u8]| {
        let transit = &fixture.transit;
        async move { transit.unwrap_dek(&id, wrapped, AAD).await.map(|_| ()) }
    };
    assert!(!fixture.transit.opens(&newer));
    // Just opened: what there is, is known.
    assert!(matches!(
        unwrap(newer.clone(), b"vault:v2:a|b").await,
        Err(Error::UnknownKek(_))
    ));
    assert_eq!(fixture.server.asked(), 0);
    pass(REFRESH_PAUSE).await;
    unwrap(newer, b"vault:v2:a|b")
        .await
        .expect_err("no ciphertext of ours");
    assert_eq!(
        fixture.server.asked(),
        2,
        "for the versions, and to decrypt"
    );
    let other = KekId::parse("transit-0123456789abcdef:v2").expect("an id");
    let foreign = KekId::parse("file-0123456789abcdef").expect("an id");
    for id in [other.clone(), other, foreign] {
        assert!(matches!(
            unwrap(id, b"vault:v2:a|b").await,
            Err(Error::UnknownKek(_))
        ));
    }
    assert_eq!(fixture.server.asked(), 0);
}

#[tokio::test]
async fn a_version_that_may_not_wrap_any_more_is_replaced_at_once() {
    let fixture = Fixture::new().await;
    fixture.server.state().versions.push(1_700_000_100);
    pass(REFRESH_PAUSE).await;
    let error = "requested version for encryption is less than the minimum encryption key version";
    fixture
        .server
        .fail([Fault::Answer(400, format!(r#"{{"errors":["{error}"]}}"#))]);
    let wrapped = fixture.transit.wrap_dek(&fixture.kek_id, &dek(), AAD).await;
    assert!(unavailable(wrapped).contains("version 1 may not encrypt"));
    let current = fixture.transit.current();
    assert!(current.as_str().ends_with(":v2"));
    let wrapped = fixture.transit.wrap_dek(&current, &dek(), AAD).await;
    wrapped.expect("wraps");
}

#[tokio::test]
async fn a_server_that_hangs_is_not_asked_by_all_at_once() {
    let fixture = Fixture::new().await;
    fixture.server.fail(std::iter::repeat_n(Fault::Hang, 500));
    let began = Instant::now();
    let calls = (0..300).map(|_| fixture.unwrap());
    let outcomes = futures_util::future::join_all(calls).await;
    // One deadline to wait for a turn, two for the tries.
    assert!(began.elapsed() < Duration::from_secs(10));
    let told: Vec<_> = outcomes.into_iter().map(unavailable).collect();
    let turned_away = told
        .iter()
        .filter(|told| told.contains("under way already"));
    assert_eq!(turned_away.count(), 300 - 64);
    assert_eq!(fixture.server.asked(), 2 * 64);
    fixture.server.state().faults.clear();
    fixture.unwrap().await.expect("opens again");
}

#[tokio::test]
async fn trouble_is_told_and_over_when_it_is_over() {
    let fixture = Fixture::new().await;
    let elsewhere = Server::start().await;
    let to = elsewhere.config().address;
    for (fault, expected, tries) in [
        (Fault::Hang, "no answer in time", 2),
        (Fault::Close, "the connection broke", 2),
        (
            Fault::Answer(500, "canary".into()),
            "it has failed (HTTP 500)",
            2,
        ),
        (
            Fault::Answer(503, r#"{"errors":["Vault is sealed"]}"#.into()),
            "sealed or in maintenance",
            2,
        ),
        (Fault::Answer(429, "canary".into()), "too many requests", 1),
        (Fault::Answer(412, String::new()), "behind the others", 1),
        (
            Fault::Redirect(to.join("/v1/transit/decrypt/broker").expect("a URL").into()),
            "redirects",
            1,
        ),
        (Fault::Huge(200_000), "too long", 2),
    ] {
        fixture.server.fail([fault.clone(), fault.clone()]);
        let error = unavailable(fixture.unwrap().await);
        assert!(error.contains(expected), "{fault:?}: {error}");
        assert!(error.contains("transit/broker at 127.0.0.1"), "{error}");
        assert_eq!(fixture.server.asked(), tries, "{fault:?}");
        fixture.server.state().faults.clear();
        fixture.unwrap().await.expect("opens again");
        fixture.server.asked();
    }
    assert_eq!(elsewhere.asked(), 0, "nobody follows");
}

#[tokio::test]
async fn trouble_of_one_request_is_not_noticed() {
    let fixture = Fixture::new().await;
    for fault in [Fault::Hang, Fault::Close, Fault::Answer(502, String::new())] {
        fixture.server.fail([fault]);
        fixture.unwrap().await.expect("opens");
        assert_eq!(fixture.server.asked(), 2);
    }
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_opens_nothing() {
    let fixture = Fixture::new().await;
    let short = BASE64_STANDARD.encode([7; 31]);
    for (status, body, expected) in [
        (200, String::new(), "no key"),
        (200, "canary".into(), "no key"),
        (200, r#"{"data":{"plaintext":"canary"}}"#.into(), "no key"),
        (
            200,
            format!(r#"{{"data":{{"plaintext":"{short}"}}}}"#),
            "no key",
        ),
        (204, String::new(), "HTTP 204"),
        (400, "canary".into(), "HTTP 400"),
        (400, r#"{"errors":["canary"]}"#.into(), "HTTP 400"),
        (404, r#"{"errors":[]}"#.into(), "no such key"),
        (
            400,
            r#"{"errors":["encryption key not found"]}"#.into(),
            "no such key",
        ),
    ] {
        fixture.server.fail([Fault::Answer(status, body.clone())]);
        let error = unusable(fixture.unwrap().await);
        assert!(error.contains(expected), "{status} {body}: {error}");
    }
    fixture.server.fail([Fault::Answer(
        200,
        r#"{"data":{"ciphertext":"vault:v2:AAAA"}}"#.into(),
    )]);
    let wrapped = fixture.transit.wrap_dek(&fixture.kek_id, &dek(), AAD).await;
    assert!(unusable(wrapped).contains("no ciphertext of that version"));
}

#[tokio::test]
async fn a_token_that_is_refused_is_exchanged_for_the_one_in_the_file() {
    let fixture = Fixture::new().await;
    fixture.server.state().tokens = vec!["s.canary-token-2".into()];
    // The same one is there still.
    assert!(unavailable(fixture.unwrap().await).contains("permission denied: the token in"));
    // However many ask: nobody looks again so soon.
    fixture.server.asked();
    unavailable(fixture.unwrap().await);
    assert_eq!(fixture.server.asked(), 1);
    fixture.server.put_token("s.canary-token-2");
    pass(Duration::from_secs(5)).await;
    fixture.server.asked();
    let together = tokio::join!(fixture.unwrap(), fixture.unwrap(), fixture.unwrap());
    together.0.and(together.1).and(together.2).expect("opens");
    let seen = fixture.server.state().seen.clone();
    let lookups = seen
        .iter()
        .filter(|request| request.line.contains("lookup-self"));
    assert_eq!(lookups.count(), 1, "one for all");
}

#[tokio::test]
async fn another_token_in_the_file_is_taken_before_the_old_one_ends() {
    let fixture = Fixture::new().await;
    fixture
        .server
        .state()
        .tokens
        .push("s.canary-token-2".into());
    fixture.server.put_token("s.canary-token-2");
    fixture.transit.keep_up().await.expect("keeps up");
    fixture.server.state().tokens.remove(0);
    fixture.server.asked();
    fixture.unwrap().await.expect("opens");
    assert_eq!(fixture.server.asked(), 1);
    for bad in ["", "two words", "\u{1}"] {
        fixture.server.put_token(bad);
        let error = fixture.transit.keep_up().await.expect_err("refused");
        assert!(matches!(error, Error::File { .. }), "{error:?}");
        fixture.unwrap().await.expect("the old one stays");
    }
    fixture.server.state().versions.push(1_700_000_100);
    fixture.transit.keep_up().await.expect_err("still refused");
    assert!(fixture.transit.current().as_str().ends_with(":v2"));
}

fn kubernetes(server: &Server) -> TransitConfig {
    server.put("jwt", "header.payload.signature");
    let folder = server.folder();
    server.config_with(&format!(
        "kubernetes = {{ role = \"broker\", jwt_file = \"{folder}/jwt\" }}"
    ))
}

fn lines(server: &Server) -> Vec<String> {
    let seen = std::mem::take(&mut server.state().seen);
    seen.into_iter().map(|request| request.line).collect()
}

#[tokio::test]
async fn a_login_is_renewed_at_half_of_its_life_and_repeated_at_its_end() {
    let server = Server::start().await;
    (server.state().lease, server.state().renewable) = (3600, true);
    let config = kubernetes(&server);
    let fixture = Fixture::with(server, &config).await;
    let server = &fixture.server;
    let kept = async |lease: u64| {
        server.state().lease = lease;
        fixture.transit.keep_up().await.expect("keeps up");
        let lines = lines(server);
        let renewed = lines.iter().any(|line| line.contains("renew-self"));
        (renewed, lines.iter().any(|line| line.contains("login")))
    };
    assert_eq!(kept(3600).await, (false, false), "nothing is due");
    let due = fixture.transit.login.due().expect("it ends");
    assert!(due <= Instant::now() + Duration::from_secs(1800));
    pass(Duration::from_secs(1801)).await;
    assert_eq!(kept(3600).await, (true, false));
    assert_eq!(kept(3600).await, (false, false), "renewed");
    pass(Duration::from_secs(1801)).await;
    assert_eq!(kept(1700).await, (true, true), "its end is near");
    server.state().renewable = false;
    pass(Duration::from_secs(1801)).await;
    assert_eq!(kept(3600).await, (true, false), "for the last time");
    pass(Duration::from_secs(1801)).await;
    assert_eq!(
        kept(3600).await,
        (false, true),
        "it says that it cannot be renewed"
    );
    // Taken away before its end.
    server.state().tokens.clear();
    fixture.unwrap().await.expect("opens with another one");
}

#[tokio::test]
async fn a_login_that_is_refused_is_told() {
    let server = Server::start().await;
    let config = kubernetes(&server);
    server.put("jwt", "another.payload.signature");
    let error = unavailable(Transit::open(&config).await);
    assert!(
        error.contains("auth/kubernetes as broker is refused (HTTP 403)"),
        "{error}"
    );
    server.put("jwt", "");
    let error = Transit::open(&config).await.expect_err("refused");
    assert!(matches!(error, Error::File { .. }), "{error:?}");
}

#[tokio::test]
async fn a_token_in_a_file_that_cannot_be_renewed_is_told_before_it_ends() {
    let server = Server::start().await;
    server.state().lease = 3600;
    let config = server.config();
    let fixture = Fixture::with(server, &config).await;
    pass(Duration::from_secs(1801)).await;
    let error = fixture
        .transit
        .keep_up()
        .await
        .expect_err("told")
        .to_string();
    assert!(error.contains("ends soon"), "{error}");
    fixture.unwrap().await.expect("it lives still");
}

#[tokio::test]
async fn a_server_that_does_not_bind_is_refused() {
    let server = Server::start().await;
    server.state().binds = false;
    let error = unusable(Transit::open(&server.config()).await);
    assert!(error.contains("associated_data"), "{error}");
}

#[tokio::test]
async fn a_configuration_that_cannot_be_meant_is_refused() {
    let server = Server::start().await;
    let refused = async |edit: &dyn Fn(&mut TransitConfig)| {
        let mut config = server.config();
        edit(&mut config);
        unusable(Transit::open(&config).await)
    };
    let url = |text: &str| text.parse().expect("a URL");
    for address in [
        "http://127.0.0.1:1",
        "https://me:pw@127.0.0.1:1",
        "https://127.0.0.1:1/?a=b",
    ] {
        let error = refused(&|config| config.address = url(address)).await;
        assert!(error.contains("kek.transit.address"), "{error}");
    }
    for odd in ["", "a b", "../sys", "a/../b", "k\u{e9}y", "a?b"] {
        refused(&|config| config.mount = odd.into()).await;
        refused(&|config| config.key = odd.into()).await;
    }
    let error = refused(&|config| config.token_file = None).await;
    assert!(error.contains("kek.transit.token_file"), "{error}");
    assert_eq!(server.asked(), 0, "nothing was sent");
}

#[tokio::test]
async fn a_server_that_another_ca_vouches_for_gets_no_token() {
    let server = Server::start().await;
    let other = Server::start().await;
    let mut config = server.config();
    config.ca_file = other.config().ca_file;
    let error = unavailable(Transit::open(&config).await);
    assert!(
        error.contains("no connection") && error.contains("certificate"),
        "{error}"
    );
    server.put("ca.pem", TOKEN);
    let error = Transit::open(&server.config()).await.expect_err("refused");
    assert!(told(&error).contains("holds no certificate"));
    assert_eq!(server.asked(), 0);
}
