use proptest::prelude::*;

use super::*;

fn of(header: &str) -> Result<String, Unidentified> {
    of_bytes(header.as_bytes())
}

fn of_bytes(header: &[u8]) -> Result<String, Unidentified> {
    let domains = ["cluster.local", "second.local"];
    let domains = domains.map(|name| TrustDomain::new(name).expect("a trust domain"));
    client(header, "linkerd", &domains).map(|id| id.to_string())
}

#[test]
fn a_service_account_has_the_id_that_others_give_it_too() {
    for (name, id) in [
        ("worker.kodo", "spiffe://cluster.local/ns/kodo/sa/worker"),
        ("a.b.c.kodo", "spiffe://cluster.local/ns/kodo/sa/a.b.c"),
        ("0.1", "spiffe://cluster.local/ns/1/sa/0"),
    ] {
        let header = format!("{name}.serviceaccount.identity.linkerd.cluster.local");
        assert_eq!(of(&header).as_deref(), Ok(id));
    }
    let second = "worker.kodo.serviceaccount.identity.linkerd.second.local";
    assert_eq!(
        of(second).as_deref(),
        Ok("spiffe://second.local/ns/kodo/sa/worker")
    );
    for external in [
        "spiffe://cluster.local/vm/worker",
        "spiffe://second.local/vm/worker",
    ] {
        assert_eq!(of(external).as_deref(), Ok(external));
    }
}

#[test]
fn other_names_are_nobodys() {
    for bad in [
        "worker",
        "worker.kodo",
        "worker.serviceaccount.identity.linkerd.cluster.local",
        ".kodo.serviceaccount.identity.linkerd.cluster.local",
        "worker..serviceaccount.identity.linkerd.cluster.local",
        "a..b.kodo.serviceaccount.identity.linkerd.cluster.local",
        "-a.kodo.serviceaccount.identity.linkerd.cluster.local",
        "a-.kodo.serviceaccount.identity.linkerd.cluster.local",
        "Worker.kodo.serviceaccount.identity.linkerd.cluster.local",
        "worker.Kodo.serviceaccount.identity.linkerd.cluster.local",
        "worker_1.kodo.serviceaccount.identity.linkerd.cluster.local",
        "worker/x.kodo.serviceaccount.identity.linkerd.cluster.local",
        "worker.kodo.serviceAccount.identity.linkerd.cluster.local",
        "worker.kodo.pod.identity.linkerd.cluster.local",
        "*.kodo.serviceaccount.identity.linkerd.cluster.local",
    ] {
        assert_eq!(of(bad), Err(Unidentified::NoServiceAccount), "{bad}");
    }
    for long in [
        format!("{}.kodo", "a".repeat(254)),
        format!("worker.{}", "a".repeat(64)),
    ] {
        let header = format!("{long}.serviceaccount.identity.linkerd.cluster.local");
        assert_eq!(of(&header), Err(Unidentified::NoServiceAccount));
    }
    assert_eq!(of(""), Err(Unidentified::NoServiceAccount));
    assert_eq!(of(&"a".repeat(2049)), Err(Unidentified::LongHeader));
}

#[test]
fn other_meshes_are_foreign() {
    for foreign in [
        "worker.kodo.serviceaccount.identity.linkerd.cluster.local.evil",
        "worker.kodo.serviceaccount.identity.linkerd.other.local",
        "worker.kodo.serviceaccount.identity.linkerd",
        "worker.kodo.serviceaccount.identity.linkerd2.cluster.local",
        "worker.kodo.serviceaccount.identity.cluster.local",
        "worker.kodo.serviceaccount.identity..cluster.local",
        "worker.kodo.serviceaccount.identity.linkerd.cluster.local.",
        "worker.kodo.serviceaccount.identity.linkerd.CLUSTER.local",
        // The first of them counts, whatever comes after it.
        "a.b.serviceaccount.identity.x.worker.kodo.serviceaccount.identity.linkerd.cluster.local",
    ] {
        assert_eq!(
            of(foreign),
            Err(Unidentified::ForeignTrustDomain),
            "{foreign}"
        );
    }
    let foreign = of("spiffe://other.local/ns/kodo/sa/worker");
    assert_eq!(foreign, Err(Unidentified::ForeignTrustDomain));
    let none = of("spiffe://cluster.local");
    assert_eq!(none, Err(Unidentified::NoSpiffeId));
}

#[test]
fn several_values_in_one_are_none() {
    let own = "worker.kodo.serviceaccount.identity.linkerd.cluster.local";
    for joined in [
        format!("{own},{own}"),
        format!("{own}, {own}"),
        format!("{own};{own}"),
        format!("{own} "),
        format!("\"{own}\""),
    ] {
        assert!(of(&joined).is_err(), "{joined}");
    }
    for byte in (0..=32).chain(127..=255) {
        let header = [own.as_bytes(), &[byte]].concat();
        assert_eq!(of_bytes(&header), Err(Unidentified::Malformed), "{byte}");
    }
}

proptest! {
    #[test]
    fn two_names_are_never_one_caller(
        one in "[a-z0-9-]{1,4}(\\.[a-z0-9-]{1,4}){1,3}",
        other in "[a-z0-9-]{1,4}(\\.[a-z0-9-]{1,4}){1,3}",
    ) {
        let of = |name: &str| of(&format!("{name}.serviceaccount.identity.linkerd.cluster.local"));
        if let (Ok(first), Ok(second)) = (of(&one), of(&other)) {
            prop_assert_eq!(first == second, one == other);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes: Vec<u8>) {
        let _ = of_bytes(&bytes);
    }
}
