//! Grants that name labels and purposes.

use super::*;

#[test]
fn a_grant_by_labels_is_for_those_that_have_one_of_them() {
    let policy = parse(
        r#"
[[grant]]
callers = ["spiffe://kodo.test/ns/kodo-admin/sa/operator"]
actions = ["get"]
organizations = ["nw-*", "northwind"]
labels = ["msp=northwind", "msp=fabrikam"]
"#,
    )
    .expect("parses");
    for (id, labels, expected) in [
        ("nw-one", &["msp=northwind"][..], true),
        ("northwind", &["a=1", "msp=fabrikam", "z=1"], true),
        ("nw-one", &["msp=contoso"], false),
        ("nw-one", &["owner=northwind"], false),
        ("nw-one", &[], false),
        ("contoso", &["msp=northwind"], false),
    ] {
        let labels = super::labels(labels);
        let found = policy.check(&caller(OPERATOR), Action::Get, &organization(id), &labels);
        let denied = Err(Denied::Organization);
        assert_eq!(
            found,
            if expected { Ok(()) } else { denied },
            "{id} {labels:?}"
        );
    }
}

#[test]
fn a_grant_of_some_purposes_is_for_no_other() {
    let grant = |purposes: &str| {
        let text = format!(
            "[[grant]]\ncallers = [\"{WORKER}\"]\nactions = [\"get_token\"]\norganizations = [\"*\"]\nresources = [\"graph\"]\n{purposes}\n"
        );
        parse(&text).expect("parses")
    };
    let token = |policy: &Policy, resource: Resource, purpose| {
        let wanted = wanted(&resource, purpose);
        policy.check_token(&caller(WORKER), &organization("contoso"), wanted, &NONE)
    };
    let (backup, restore) = (Some(Purpose::Backup), Some(Purpose::Restore));
    let backups = grant("purposes = [\"backup\"]");
    assert_eq!(token(&backups, Resource::Graph, backup), Ok(()));
    assert_eq!(token(&backups, Resource::Graph, None), Ok(()));
    assert_eq!(
        token(&backups, Resource::Graph, restore),
        Err(Denied::Purpose)
    );
    assert_eq!(
        token(&backups, Resource::Exchange, restore),
        Err(Denied::Resource)
    );
    for any in [grant(""), grant("purposes = [\"restore\", \"backup\"]")] {
        assert_eq!(token(&any, Resource::Graph, backup), Ok(()));
        assert_eq!(token(&any, Resource::Graph, restore), Ok(()));
    }
}

#[test]
fn labels_and_purposes_that_mean_nothing_are_refused_with_their_line() {
    let grant = |action: &str, organizations: &str, rest: &str| {
        format!(
            "[[grant]]\ncallers = [\"{WORKER}\"]\nactions = [\"{action}\"]\norganizations = [\"{organizations}\"]\n{rest}\n"
        )
    };
    refused(&grant("get", "*", "labels = []"), 5, "`labels` are empty");
    refused(
        &grant("get", "*", "labels = [\n\"a=1\",\n\"msp\"]"),
        7,
        "`msp`",
    );
    refused(&grant("get", "*", "labels = [\"msp=*\"]"), 5, "`msp=*`");
    refused(
        &grant("get", "*", "purposes = [\"backup\"]"),
        5,
        "belongs to",
    );
    let token = |rest: &str| {
        grant(
            "get_token",
            "*",
            &format!("resources = [\"graph\"]\n{rest}"),
        )
    };
    refused(&token("purposes = []"), 6, "is empty");
    refused(&token("purposes = [\"audit\"]"), 6, "audit");
    refused(&token("access = []"), 6, "is empty");
    refused(&token("access = [\"user\"]"), 6, "user");
    refused(
        &grant("get", "*", "access = [\"delegated\"]"),
        5,
        "belongs to",
    );
    refused(
        &grant("manage_store", "*", "labels = [\"a=1\"]"),
        2,
        "`manage_store`",
    );
    refused(
        &grant("register", "*", "labels = [\"a=1\"]"),
        2,
        "ids of its own",
    );
    assert!(parse(&grant("register", "nw-*", "labels = [\"a=1\"]")).is_ok());
}

#[test]
fn who_may_by_labels_only_neither_takes_nor_gives_away() {
    let policy = parse(
        r#"
[[grant]]
callers = ["spiffe://kodo.test/msp/nw"]
actions = ["register", "update"]
organizations = ["nw-*"]
labels = ["msp=nw", "msp=nw2"]

[[grant]]
callers = ["spiffe://kodo.test/eu"]
actions = ["get"]
organizations = ["*"]
labels = ["region=eu"]

[[grant]]
callers = ["spiffe://kodo.test/all"]
actions = ["update"]
organizations = ["*"]
"#,
    )
    .expect("parses");
    let may = |name: &str, old: &[&str], new: &[&str]| {
        let id = caller(&format!("spiffe://kodo.test/{name}"));
        let change = [&labels(old), &labels(new)];
        policy.check_labels(&id, Action::Update, &organization("nw-one"), change)
    };
    for (old, new, allowed) in [
        (&["msp=nw"][..], &["msp=nw", "team=blue"][..], true),
        (&["msp=nw", "team=blue"], &["msp=nw"], true),
        (&["msp=nw"], &["msp=nw2"], true),
        (
            &["msp=nw", "region=eu"],
            &["msp=nw", "region=eu", "a=1"],
            true,
        ),
        // Given away, or made nobody's.
        (&["msp=nw"], &[], false),
        (&["msp=nw"], &["msp=contoso"], false),
        (&["msp=nw"], &["team=blue"], false),
        // Opened to others, or taken from them.
        (&["msp=nw"], &["msp=nw", "region=eu"], false),
        (&["msp=nw", "region=eu"], &["msp=nw", "region=us"], false),
        (&["msp=nw", "region=eu"], &["msp=nw"], false),
        // As at a registration.
        (&[], &["msp=nw"], true),
        (&[], &["msp=nw", "region=eu"], false),
        (&[], &["region=eu"], false),
        (&[], &[], false),
    ] {
        let expected = if allowed { Ok(()) } else { Err(Denied::Labels) };
        assert_eq!(may("msp/nw", old, new), expected, "{old:?} {new:?}");
        assert_eq!(may("all", old, new), Ok(()), "by the id");
        assert!(may("eu", old, new).is_err(), "another action");
    }
    let foreign = caller("spiffe://kodo.test/msp/nw");
    let change = [&NONE, &labels(&["msp=nw"])];
    let denied = policy.check_labels(&foreign, Action::Register, &organization("other"), change);
    assert_eq!(denied, Err(Denied::Organization));
}
