use std::slice;

use super::*;
use crate::organization::{Access, Purpose, Resource, label::Label};

mod explanation;
mod labels;
mod limits;
mod oracle;

const WORKER: &str = "spiffe://kodo.test/ns/kodo/sa/worker";
const OPERATOR: &str = "spiffe://kodo.test/ns/kodo-admin/sa/operator";
const ACTIONS: [Action; 9] = [
    Action::GetToken,
    Action::Register,
    Action::Get,
    Action::List,
    Action::Update,
    Action::Rotate,
    Action::Revoke,
    Action::Suspend,
    Action::Resume,
];
/// Of organizations without labels.
const NONE: Labels = Labels::NONE;

fn domain() -> TrustDomain {
    TrustDomain::new("kodo.test").expect("a trust domain")
}

fn parse(text: &str) -> Result<Policy, String> {
    Policy::parse(text, &[domain()])
}

fn caller(id: &str) -> SpiffeId {
    SpiffeId::new(id).expect("a SPIFFE ID")
}

fn organization(id: &str) -> OrganizationId {
    OrganizationId::parse(id).expect("an id")
}

fn labels(texts: &[&str]) -> Labels {
    let labels = texts
        .iter()
        .map(|text| Label::parse(text).expect("a label"));
    Labels::new(labels).expect("few")
}

fn wanted(resource: &Resource, purpose: Option<Purpose>) -> Wanted<'_> {
    Wanted {
        resource,
        purpose,
        access: Access::Application,
        job_runs: &|| false,
    }
}

/// A policy of one grant.
fn granted(caller: &str, action: &str, organizations: &str) -> Policy {
    let resources = match action {
        "get_token" => "resources = [\"graph\"]",
        _ => "",
    };
    let text = format!(
        "[[grant]]\ncallers = [\"{caller}\"]\nactions = [\"{action}\"]\norganizations = [{organizations}]\n{resources}\n"
    );
    parse(&text).expect("parses")
}

/// The refusal of a policy whose grant has these lines.
#[track_caller]
fn refused(grant: &str, line: usize, says: &str) {
    let error = parse(grant).expect_err("refused");
    assert!(
        error.contains(&format!("line {line}")) && error.contains(says),
        "{error}"
    );
}

#[test]
fn managing_the_store_is_granted_for_everything_or_not_at_all() {
    let policy = |organizations: &str| {
        let text = format!(
            "[[grant]]\ncallers = [\"spiffe://kodo.test/a\"]\nactions = [\"manage_store\"]\n\
             organizations = {organizations}\n"
        );
        Policy::parse(&text, &[domain()])
    };
    let granted = policy("[\"*\"]").expect("parses");
    let caller = |name: &str| SpiffeId::new(format!("spiffe://kodo.test/{name}")).expect("an id");
    assert_eq!(granted.check_any(&caller("a"), Action::ManageStore), Ok(()));
    let denied = granted.check_any(&caller("b"), Action::ManageStore);
    assert_eq!(denied, Err(Denied::Action));
    for organizations in ["[]", "[\"contoso\"]", "[\"c*\"]", "[\"*\", \"contoso\"]"] {
        let error = policy(organizations).expect_err("refused");
        assert!(error.starts_with("line 2: `manage_store`"), "{error}");
    }
}

#[test]
fn without_grants_nobody_may_do_anything() {
    for text in ["", "# only a comment", "grant = []"] {
        let policy = parse(text).expect("parses");
        for action in ACTIONS {
            assert_eq!(
                policy.check(&caller(WORKER), action, &organization("contoso"), &NONE),
                Err(Denied::Organization)
            );
            assert_eq!(
                policy.check_any(&caller(WORKER), action),
                Err(Denied::Action)
            );
        }
    }
}

#[test]
fn what_a_caller_is_told_depends_on_how_far_its_grants_go() {
    let policy = parse(
        r#"
[[grant]]
callers = ["spiffe://kodo.test/ns/kodo/sa/worker"]
actions = ["get_token"]
organizations = ["contoso", "fabrikam-*"]
resources = ["graph", "exchange"]

[[grant]]
callers = ["spiffe://kodo.test/ns/kodo/sa/worker", "spiffe://kodo.test/ns/kodo-admin/*"]
actions = ["get", "list"]
organizations = ["*"]
"#,
    )
    .expect("parses");
    let token = |id, name, resource| {
        let wanted = wanted(&resource, None);
        policy.check_token(&caller(id), &organization(name), wanted, &NONE)
    };
    let sharepoint = || Resource::SharePoint(Some("contoso.sharepoint.com".into()));
    assert_eq!(token(WORKER, "contoso", Resource::Graph), Ok(()));
    assert_eq!(token(WORKER, "fabrikam-eu", Resource::Exchange), Ok(()));
    assert_eq!(
        token(WORKER, "contoso", sharepoint()),
        Err(Denied::Resource)
    );
    assert_eq!(
        token(WORKER, "contoso", Resource::AzureAdGraph),
        Err(Denied::Resource)
    );
    // Known by the second grant, which has no tokens.
    assert_eq!(
        token(WORKER, "northwind", Resource::Graph),
        Err(Denied::Action)
    );
    assert_eq!(
        token(OPERATOR, "contoso", Resource::Graph),
        Err(Denied::Action)
    );
    let nobody = "spiffe://kodo.test/ns/other/sa/worker";
    assert_eq!(
        token(nobody, "contoso", Resource::Graph),
        Err(Denied::Organization)
    );
    let check = |action| policy.check(&caller(OPERATOR), action, &organization("contoso"), &NONE);
    assert_eq!(check(Action::Get), Ok(()));
    assert_eq!(check(Action::Revoke), Err(Denied::Action));
    assert_eq!(
        policy.check_any(&caller(OPERATOR), Action::List),
        Ok(()),
        "the grant's organizations do not matter"
    );
    assert_eq!(
        policy.check_any(&caller(OPERATOR), Action::Register),
        Err(Denied::Action)
    );
}

#[test]
fn a_path_ends_at_a_slash() {
    let below = |pattern: &str, id: &str| {
        let policy = granted(pattern, "get", "\"*\"");
        policy
            .check(&caller(id), Action::Get, &organization("contoso"), &NONE)
            .is_ok()
    };
    for (pattern, id, expected) in [
        ("spiffe://kodo.test/ns/kodo/*", WORKER, true),
        ("spiffe://kodo.test/ns/kodo/*", OPERATOR, false),
        (
            "spiffe://kodo.test/ns/kodo/*",
            "spiffe://kodo.test/ns/kodo-evil/sa/worker",
            false,
        ),
        (
            "spiffe://kodo.test/ns/kodo/*",
            "spiffe://kodo.test/ns/kodo",
            false,
        ),
        (
            "spiffe://kodo.test/ns/kodo/*",
            "spiffe://kodo.test/ns/KODO/sa/worker",
            false,
        ),
        (
            "spiffe://kodo.test/ns/kodo/*",
            "spiffe://kodo.test/x/ns/kodo/sa/worker",
            false,
        ),
        (
            "spiffe://kodo.test/ns/kodo/*",
            "spiffe://kodo.test.evil/ns/kodo/sa/worker",
            false,
        ),
        ("spiffe://kodo.test/*", WORKER, true),
        (
            "spiffe://kodo.test/*",
            "spiffe://kodo.test.evil/ns/kodo",
            false,
        ),
        (
            "spiffe://kodo.test/*",
            "spiffe://evil/kodo.test/ns/kodo",
            false,
        ),
        (WORKER, WORKER, true),
        (WORKER, "spiffe://kodo.test/ns/kodo/sa/worker-2", false),
        (WORKER, "spiffe://kodo.test/ns/kodo/sa/worker/x", false),
        (WORKER, "spiffe://kodo.test/ns/kodo/sa/work", false),
        (WORKER, "spiffe://other.test/ns/kodo/sa/worker", false),
    ] {
        assert_eq!(below(pattern, id), expected, "{pattern} {id}");
    }
}

#[test]
fn a_pattern_of_organizations_is_an_id_or_the_beginning_of_one() {
    let covers = |pattern: &str, id: &str| {
        let policy = granted(WORKER, "get", &format!("\"{pattern}\""));
        policy
            .check(&caller(WORKER), Action::Get, &organization(id), &NONE)
            .is_ok()
    };
    for (pattern, id, expected) in [
        ("contoso", "contoso", true),
        ("contoso", "contoso-2", false),
        ("contoso", "contos", false),
        ("contoso*", "contoso", true),
        ("contoso*", "contoso-evil", true),
        ("contoso-*", "contoso", false),
        ("contoso-*", "contoso-eu", true),
        ("contoso-*", "contosoeu", false),
        ("contoso-*", "x-contoso-eu", false),
        ("*", "x", true),
    ] {
        assert_eq!(covers(pattern, id), expected, "{pattern} {id}");
    }
}

#[test]
fn a_malformed_pattern_is_refused_with_its_line() {
    for bad in [
        "",
        "**",
        "*-eu",
        "con*oso",
        "contoso**",
        "Contoso",
        "-contoso",
        "contoso-",
        "-*",
        "contoso ",
        "contoso.com",
        "köln",
        "?",
        "a,b",
    ] {
        let grant = format!(
            "[[grant]]\ncallers = [\"{WORKER}\"]\nactions = [\"get\"]\norganizations = [\n  \"good\",\n  \"{bad}\",\n]\n"
        );
        refused(&grant, 6, &format!("`{bad}`"));
    }
}

#[test]
fn a_caller_that_nobody_can_be_is_refused_with_its_line() {
    for (bad, says) in [
        (
            "spiffe://other.test/ns/kodo/sa/worker",
            "outside the trust domain",
        ),
        ("spiffe://other.test/*", "outside the trust domain"),
        ("spiffe://kodo.test.evil/ns/*", "outside the trust domain"),
        ("spiffe://sub.kodo.test/ns/*", "outside the trust domain"),
        ("https://kodo.test/ns/kodo", "no SPIFFE ID"),
        ("kodo.test/ns/kodo", "no SPIFFE ID"),
        ("ns/kodo", "no SPIFFE ID"),
        ("", "no SPIFFE ID"),
        ("*", "no SPIFFE ID"),
        ("/*", "no SPIFFE ID"),
        ("spiffe://*", "no SPIFFE ID"),
        ("spiffe:///ns/kodo", "no SPIFFE ID"),
        ("spiffe://kodo.test/ns/ko*", "no SPIFFE ID"),
        ("spiffe://kodo.test/*/sa/worker", "no SPIFFE ID"),
        ("spiffe://kodo.test/ns/kodo/", "no SPIFFE ID"),
        ("spiffe://kodo.test/ns//kodo", "no SPIFFE ID"),
        ("spiffe://kodo.test/ns/../kodo", "no SPIFFE ID"),
        ("spiffe://kodo.test/ns/kodo//*", "no SPIFFE ID"),
        ("spiffe://kodo.test/ns/k%6fdo", "no SPIFFE ID"),
        ("spiffe://kodo.test:443/ns/kodo", "no SPIFFE ID"),
        ("spiffe://user@kodo.test/ns/kodo", "no SPIFFE ID"),
        // Identities of workloads have a path.
        ("spiffe://kodo.test", "has no path"),
    ] {
        let grant = format!(
            "# policy\n\n[[grant]]\ncallers = [\n  \"{WORKER}\",\n  \"{bad}\",\n]\nactions = [\"get\"]\norganizations = [\"*\"]\n"
        );
        refused(&grant, 6, says);
    }
}

#[test]
fn resources_belong_to_get_token_and_to_nothing_else() {
    let grant = |actions: &str, rest: &str| {
        format!(
            "[[grant]]\ncallers = [\"{WORKER}\"]\nactions = [{actions}]\norganizations = [\"*\"]\n{rest}\n"
        )
    };
    refused(&grant("\"get_token\"", ""), 2, "`resources`");
    refused(&grant("\"get_token\"", "resources = []"), 2, "`resources`");
    refused(
        &grant("\"get\"", "resources = [\"graph\"]"),
        2,
        "`resources`",
    );
    let both = grant("\"get_token\", \"get\"", "resources = [\"graph\"]");
    assert!(parse(&both).is_ok());
}

#[test]
fn unknown_and_missing_keys_are_refused_with_their_line() {
    let start = format!("[[grant]]\ncallers = [\"{WORKER}\"]\n");
    let rest = "actions = [\"get\"]\norganizations = [\"*\"]\n";
    let whole = format!("{start}{rest}");
    assert!(parse(&whole).is_ok());
    refused(&format!("{whole}resource = [\"graph\"]\n"), 5, "unknown");
    refused(&format!("{whole}deny = true\n"), 5, "unknown");
    refused(&format!("{whole}[[deny]]\n"), 5, "unknown");
    refused(&format!("{whole}[[grants]]\n"), 5, "unknown");
    refused(&start, 1, "missing");
    refused(
        &whole.replace("\"get\"", "\"get\", \"delete\""),
        3,
        "delete",
    );
    refused(&whole.replace("\"get\"", "\"GET\""), 3, "GET");
    refused(&whole.replace("\"get\"", "\"*\""), 3, "`*`");
    refused(&whole.replace("[\"get\"]", "\"get\""), 3, "invalid type");
    refused(&format!("{whole}resources = [\"teams\"]\n"), 5, "teams");
    refused(&format!("{whole}actions = [\"list\"]\n"), 5, "duplicate");
    refused("[[grant]\n", 1, "");
}

#[test]
fn the_policies_that_we_ship_say_what_they_should() {
    let shipped = [
        include_str!("../../deploy/policy.toml"),
        include_str!("../../deploy/kustomize/base/policy.toml"),
    ];
    let example = TrustDomain::new("kodo.example").expect("a trust domain");
    let worker = caller("spiffe://kodo.example/ns/kodo/sa/backup-worker");
    let operator = caller("spiffe://kodo.example/ns/kodo-admin/sa/operator");
    let contoso = organization("contoso");
    for text in shipped {
        let policy = Policy::parse(text, slice::from_ref(&example)).expect("parses");
        for action in ACTIONS {
            let for_tokens = action == Action::GetToken;
            let allowed = |caller| policy.check(caller, action, &contoso, &NONE).is_ok();
            assert_eq!(allowed(&worker), for_tokens, "{action:?}");
            assert_eq!(allowed(&operator), !for_tokens, "{action:?}");
        }
        let token = |resource| {
            let wanted = wanted(&resource, None);
            policy.check_token(&worker, &contoso, wanted, &NONE)
        };
        assert_eq!(token(Resource::Graph), Ok(()));
        assert_eq!(token(Resource::Exchange), Ok(()));
        assert_eq!(token(Resource::SharePoint(None)), Ok(()));
        assert_eq!(token(Resource::AzureAdGraph), Err(Denied::Resource));
        assert!(
            Policy::parse(text, &[domain()]).is_err(),
            "of another domain"
        );
    }
}
