//! Which room of the crate knows which.

use std::collections::{BTreeMap, BTreeSet};

use super::{assert_none, source::Source, sources};

/// Every room with the rooms that it names. A row here is a decision: `src/lib.rs` has the picture.
const ARROWS: &[(&str, &str)] = &[
    ("anchor", "private_file vault"),
    (
        "app",
        "anchor audit authz clock config entra hex jobs kek lockdown metrics organization registration rpc store telemetry tls token vault",
    ),
    ("audit", "clock config hex private_file sealed secret"),
    ("authz", "organization"),
    ("cli", "client clock pb"),
    ("client", "clock pb secret"),
    ("clock", ""),
    ("config", "organization"),
    ("credential", "malformed secret"),
    (
        "dev",
        "app cli clock config lockdown sealed simulator telemetry",
    ),
    ("entra", "clock config credential organization secret"),
    ("healthcheck", ""),
    ("hex", ""),
    ("jobs", "clock organization vault"),
    ("kek", "config hex private_file sealed secret"),
    ("lockdown", ""),
    ("main", "app cli dev healthcheck lockdown"),
    ("malformed", ""),
    ("metrics", ""),
    ("organization", "credential malformed"),
    ("pb", ""),
    ("private_file", ""),
    (
        "registration",
        "clock credential entra organization token vault",
    ),
    (
        "rpc",
        "audit authz clock config credential entra hex jobs malformed metrics organization pb registration secret tls token vault",
    ),
    ("sealed", "secret"),
    ("secret", ""),
    ("simulator", "clock secret"),
    ("store", "config"),
    ("telemetry", "config"),
    ("tls", "config private_file"),
    ("token", "clock credential entra organization secret vault"),
    (
        "vault",
        "credential hex kek organization sealed secret store",
    ),
];

type Arrows = BTreeMap<String, BTreeSet<String>>;

/// Who names whom. `lib.rs` names everything and is left out.
fn drawn(sources: &[Source]) -> Arrows {
    let mut arrows = Arrows::new();
    for source in sources.iter().filter(|source| !source.room().is_empty()) {
        let targets = arrows.entry(source.room().to_owned()).or_default();
        let paths = source.paths().into_iter().map(|named| named.path);
        let ours = paths.filter(|path| path[0] == "crate" && path.len() > 1);
        targets.extend(
            ours.map(|path| path[1].clone())
                .filter(|room| room != source.room()),
        );
    }
    arrows
}

fn differences(drawn: &Arrows, table: &[(&str, &str)]) -> Vec<String> {
    let table: BTreeMap<_, BTreeSet<_>> = table
        .iter()
        .map(|(room, known)| {
            (
                *room,
                known.split(' ').filter(|word| !word.is_empty()).collect(),
            )
        })
        .collect();
    let mut complaints = Vec::new();
    for (room, known) in drawn {
        let Some(allowed) = table.get(room.as_str()) else {
            complaints.push(format!("`{room}` is not in the table"));
            continue;
        };
        let known: BTreeSet<_> = known.iter().map(String::as_str).collect();
        for other in known.difference(allowed) {
            complaints.push(format!(
                "`{room}` names `{other}`, which the table does not allow"
            ));
        }
        for other in allowed.difference(&known) {
            complaints.push(format!(
                "`{room}` no longer names `{other}`: strike it from the table"
            ));
        }
    }
    complaints
}

/// Rooms from which a way leads back to themselves.
fn circles(arrows: &Arrows) -> Vec<String> {
    let mut left = arrows.clone();
    // Who knows nobody that is left is in no circle.
    loop {
        let free: Vec<_> = left
            .iter()
            .filter(|(_, known)| known.iter().all(|other| !left.contains_key(other)))
            .map(|(room, _)| room.clone())
            .collect();
        if free.is_empty() {
            return left.into_keys().collect();
        }
        left.retain(|room, _| !free.contains(room));
    }
}

#[test]
fn arrows_between_rooms_are_those_of_the_table() {
    assert_none(&differences(&drawn(&sources()), ARROWS));
}

#[test]
fn arrows_run_one_way() {
    assert_none(&circles(&drawn(&sources())));
}

#[test]
fn app_is_known_to_main_and_dev_only_and_rpc_to_app_only() {
    let known_by = |wanted: &str| -> Vec<_> {
        ARROWS
            .iter()
            .filter(|(_, known)| known.split(' ').any(|room| room == wanted))
            .map(|(room, _)| *room)
            .collect()
    };
    assert_eq!(known_by("app"), ["dev", "main"]);
    assert_eq!(known_by("rpc"), ["app"]);
    assert_eq!(known_by("pb"), ["cli", "client", "rpc"]);
}

#[test]
fn client_and_command_line_know_nothing_of_the_server() {
    for (room, known) in ARROWS
        .iter()
        .filter(|(room, _)| ["cli", "client"].contains(room))
    {
        for other in known.split(' ') {
            assert!(
                ["client", "clock", "pb", "secret"].contains(&other),
                "{room} names {other}"
            );
        }
    }
}

#[test]
fn an_arrow_too_many_or_too_few_or_backwards_is_found() {
    let sources = [
        ("src/a.rs", "use crate::b::B;"),
        ("src/b.rs", "fn f() { crate::c::g() }"),
        ("src/c/d.rs", "use super::super::a;"),
    ];
    let drawn = drawn(&sources.map(|(file, text)| Source::parse(file, text)));
    let table: &[(&str, &str)] = &[("a", "b"), ("b", "c"), ("c", "a")];
    assert_none(&differences(&drawn, table));
    assert_eq!(
        differences(&drawn, &[("a", "b"), ("b", ""), ("c", "a")]).len(),
        1
    );
    assert_eq!(
        differences(&drawn, &[("a", "b c"), ("b", "c"), ("c", "a")]).len(),
        1
    );
    assert_eq!(differences(&drawn, &[("a", "b"), ("b", "c")]).len(), 1);
    assert_eq!(circles(&drawn), ["a", "b", "c"]);
}
