//! What is made of an API's refusal of a token.

use super::*;
use crate::{
    entra::claims::ClaimsChallenge,
    token::report::{REPLACE_INTERVAL, Refused, Verdict},
};

const UNAUTHORIZED: Refused = Refused::Unauthorized(None);

fn challenge() -> ClaimsChallenge {
    // {"access_token":{"nbf":{"essential":true,"value":"1"}}}
    let text = "eyJhY2Nlc3NfdG9rZW4iOnsibmJmIjp7ImVzc2VudGlhbCI6dHJ1ZSwidmFsdWUiOiIxIn19fQ";
    ClaimsChallenge::parse(text).expect("a challenge")
}

impl Fixture {
    fn report(&self, fingerprint: &[u8; 32], refused: Refused) -> Verdict {
        self.cache.report(&graph("contoso"), fingerprint, refused)
    }
}

#[tokio::test(start_paused = true)]
async fn of_a_thousand_reports_of_one_token_the_first_has_it_replaced() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    let first = fixture.get("contoso").await.expect("a token");
    fixture.entra.hold();
    assert_eq!(
        fixture.report(&first.fingerprint, UNAUTHORIZED),
        Verdict::Replaced
    );
    for _ in 0..500 {
        let verdict = fixture.report(&first.fingerprint, UNAUTHORIZED);
        assert_eq!(verdict, Verdict::AlreadyReplaced);
    }
    fixture.entra.release();
    let second = fixture.get("contoso").await.expect("a token");
    assert_ne!(first.fingerprint, second.fingerprint);
    for _ in 0..500 {
        let verdict = fixture.report(&first.fingerprint, UNAUTHORIZED);
        assert_eq!(verdict, Verdict::AlreadyReplaced);
    }
    assert_eq!(fixture.entra.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_key_has_one_token_a_minute_replaced() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    for minute in 1..=3 {
        let token = fixture.get("contoso").await.expect("a token");
        let verdict = fixture.report(&token.fingerprint, UNAUTHORIZED);
        assert_eq!(verdict, Verdict::Replaced);
        let next = fixture.get("contoso").await.expect("a token");
        for second in 0..60 {
            let verdict = fixture.report(&next.fingerprint, UNAUTHORIZED);
            let left = REPLACE_INTERVAL - Duration::from_secs(second);
            assert_eq!(verdict, Verdict::TooSoon(left));
            assert!(fixture.get("contoso").await.is_ok(), "it is served on");
            advance(Duration::from_secs(1)).await;
        }
        assert_eq!(fixture.entra.calls(), minute + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_challenge_goes_to_entra_with_the_next_request_and_no_further() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    let token = fixture.get("contoso").await.expect("a token");
    fixture.report(&token.fingerprint, Refused::Unauthorized(Some(challenge())));
    fixture.get("contoso").await.expect("a token");
    advance(LIFE).await;
    fixture.get("contoso").await.expect("a token");
    let claims = fixture.entra.claims.lock().expect("no panic").clone();
    let sent = challenge().as_json().to_owned();
    assert_eq!(claims, [None, Some(sent), None]);
}

#[tokio::test(start_paused = true)]
async fn a_flight_that_does_not_know_of_the_challenge_is_flown_again() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    let token = fixture.get("contoso").await.expect("a token");
    advance(LIFE - MARGIN / 2).await;
    fixture.entra.hold();
    let caller = fixture.flying("contoso").await;
    let verdict = fixture.report(&token.fingerprint, Refused::Unauthorized(Some(challenge())));
    assert_eq!(verdict, Verdict::Replaced);
    fixture.entra.release();
    outcome(caller).await.expect("a token");
    let claims = fixture.entra.claims.lock().expect("no panic").clone();
    assert_eq!((claims.len(), claims[2].is_some()), (3, true));
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_still_the_best_there_is_while_entra_cannot_be_reached() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    let token = fixture.get("contoso").await.expect("a token");
    fixture.entra.will(&[Answer::Unreachable]);
    fixture.report(&token.fingerprint, UNAUTHORIZED);
    let again = fixture.get("contoso").await.expect("the same token");
    assert_eq!(again.fingerprint, token.fingerprint);
    advance(Duration::from_secs(3)).await;
    let next = fixture.get("contoso").await.expect("a token");
    assert_ne!(next.fingerprint, token.fingerprint);
}

#[tokio::test(start_paused = true)]
async fn reports_of_what_is_not_there_change_nothing() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    assert_eq!(
        fixture.report(&[7; 32], UNAUTHORIZED),
        Verdict::AlreadyReplaced
    );
    assert_eq!(fixture.cache.0.organizations.pin().len(), 0);
    let token = fixture.get("contoso").await.expect("a token");
    for refused in [UNAUTHORIZED, Refused::Forbidden] {
        let verdict = fixture.report(&[7; 32], refused);
        assert_eq!(verdict, Verdict::AlreadyReplaced);
    }
    advance(LIFE).await;
    let verdict = fixture.report(&token.fingerprint, UNAUTHORIZED);
    assert_eq!(verdict, Verdict::AlreadyReplaced, "it has ended");
    assert_eq!(fixture.entra.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_403_is_told_which_roles_are_missing_and_asks_entra_once_a_minute() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    // {"roles":["Mail.ReadWrite"]}
    fixture.entra.will(&[Answer::Text(
        "e30.eyJyb2xlcyI6WyJNYWlsLlJlYWRXcml0ZSJdfQ.sig",
    )]);
    let token = fixture.get("contoso").await.expect("a token");
    fixture.entra.hold();
    for _ in 0..100 {
        let verdict = fixture.report(&token.fingerprint, Refused::Forbidden);
        let Verdict::RolesMissing { missing, roles } = verdict else {
            panic!("{verdict:?}");
        };
        assert_eq!(
            (missing.len(), roles.as_slice()),
            (5, &["Mail.ReadWrite".to_owned()][..])
        );
        assert!(fixture.get("contoso").await.is_ok(), "it is served on");
    }
    fixture.entra.called(2).await;
    fixture.entra.release();
    fixture.landed().await;
    assert_eq!(fixture.entra.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_403_to_a_token_that_is_opaque_tells_nothing_of_roles() {
    let fixture = Fixture::new(10, &["contoso"]).await;
    let token = fixture.get("contoso").await.expect("a token");
    let verdict = fixture.report(&token.fingerprint, Refused::Forbidden);
    assert_eq!(verdict, Verdict::RolesUnknown);
    assert_eq!(fixture.entra.calls(), 1);
}
