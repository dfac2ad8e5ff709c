//! Which grant decides.

use super::{
    explain::{Case, CaseText, Considered, Short},
    *,
};

/// A case as somebody types it, with the parts of a token that there are.
fn case(organization: &str, labels: &[&str], action: &str, token: &[&str]) -> Case {
    let part = |number| token.get(number).map(|text: &&str| (*text).to_owned());
    let text = CaseText {
        caller: WORKER.to_owned(),
        action: action.to_owned(),
        organization: organization.to_owned(),
        labels: labels.iter().map(|label| (*label).to_owned()).collect(),
        resource: part(0),
        purpose: part(1),
        access: part(2),
        job_runs: false,
    };
    text.parse().expect("a case")
}

/// What a policy file says is what an explanation says, and that is what is decided.
#[test]
fn an_explanation_names_the_grant_that_decides_or_what_each_lacks() {
    let policy = parse(
        r#"[[grant]]
callers = ["spiffe://kodo.test/ns/kodo/sa/worker"]
actions = ["get_token"]
organizations = ["eu-*"]
labels = ["msp=nw"]
resources = ["graph"]
purposes = ["backup"]

[[grant]]
callers = ["spiffe://kodo.test/ns/kodo/*", "spiffe://kodo.test/ns/kodo/sa/worker"]
actions = ["get"]
organizations = ["*"]
"#,
    )
    .expect("parses");
    let case = |organization: &str, labels: &[&str], action: &str, token: &[&str]| {
        policy.explain(&case(organization, labels, action, token))
    };
    for (explained, first, second) in [
        (
            case("eu-1", &["msp=nw"], "get_token", &["graph"]),
            Ok(()),
            Err(Short::Actions),
        ),
        (
            case("eu-1", &["msp=nw"], "get_token", &["graph", "restore"]),
            Err(Short::Purposes),
            Err(Short::Actions),
        ),
        (
            case(
                "eu-1",
                &["msp=nw"],
                "get_token",
                &["graph", "backup", "delegated"],
            ),
            Err(Short::Access),
            Err(Short::Actions),
        ),
        (
            case("eu-1", &["msp=nw"], "get_token", &["exchange"]),
            Err(Short::Resources),
            Err(Short::Actions),
        ),
        (
            case("eu-1", &["msp=x"], "get", &[]),
            Err(Short::Labels),
            Ok(()),
        ),
        (
            case("us-1", &[], "get", &[]),
            Err(Short::Organizations),
            Ok(()),
        ),
        (
            case("eu-1", &["msp=nw"], "revoke", &[]),
            Err(Short::Actions),
            Err(Short::Actions),
        ),
    ] {
        let expected = [(1, first), (9, second)].map(|(line, says)| Considered { line, says });
        assert_eq!(explained.grants, expected);
        let granted = first.is_ok() || second.is_ok();
        assert_eq!(explained.decision.is_ok(), granted, "{explained:?}");
    }
}

#[test]
fn a_case_that_is_none_is_refused_with_the_part_that_is_wrong() {
    let wrong = |change: fn(&mut CaseText), says: &str| {
        let mut text = CaseText {
            caller: WORKER.to_owned(),
            action: "get".to_owned(),
            organization: "contoso".to_owned(),
            ..CaseText::default()
        };
        change(&mut text);
        let error = text.parse().expect_err("is none");
        assert!(error.contains(says), "{error}");
    };
    wrong(|text| text.caller = "worker".to_owned(), "`worker`");
    wrong(|text| text.action = "fly".to_owned(), "fly");
    wrong(|text| text.organization = "Contoso".to_owned(), "`Contoso`");
    wrong(|text| text.labels = vec!["msp".to_owned()], "`msp`");
    wrong(|text| text.resource = Some("graph".to_owned()), "belong to");
    wrong(
        |text| text.action = "get_token".to_owned(),
        "with a resource",
    );
}
