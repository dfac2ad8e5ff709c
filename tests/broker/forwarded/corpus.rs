//! Headers as proxies, clients and forgers write them, each with what they must come to. They are put
//! together from parts of which that is known, so nothing here reads a header.

use crate::support::pki;

use super::{LINKERD, XFCC};

/// The proxy's own id.
pub(super) const PROXY: &str = "spiffe://kodo.test/broker";

/// A request's headers, and the caller that they name.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) headers: Vec<(&'static str, Vec<u8>)>,
    pub(super) caller: Option<String>,
}

impl Case {
    fn of(header: &'static str, value: impl Into<Vec<u8>>, caller: Option<&str>) -> Self {
        Self {
            headers: vec![(header, value.into())],
            caller: caller.map(str::to_owned),
        }
    }
}

/// What the proxy adds for `worker`, with what it may be configured to tell of a certificate.
fn own_elements() -> Vec<String> {
    let uri = pki::spiffe_id("worker");
    let by =
        format!("By={PROXY};Hash=468ed33be74eee6556d90c0149c1309e9ba61d6425303443c0748a02dd8de688");
    vec![
        format!("{by};URI={uri}"),
        format!("{by};Subject=\"\";URI={uri}"),
        format!("{by};Subject=\"CN=worker,O=Kodo\\, Inc.;URI=x\";URI={uri}"),
        format!("{by};URI={uri};DNS=worker.kodo.svc;DNS=worker"),
    ]
}

/// What a client may have sent, to which a proxy that appends adds its element, and whether that is
/// well-formed, and not in the proxy's name.
fn sent() -> Vec<(String, bool)> {
    let (admin, by) = (pki::spiffe_id("admin"), format!("By={PROXY}"));
    let well_formed = [
        format!("By=spiffe://x;URI={admin}"),
        format!("By=spiffe://x;Hash=00;URI={admin},By={admin};Hash=00;URI={admin}"),
        format!("URI={admin};Subject=\"\""),
        format!("Subject=\"a,{by};URI={admin}\""),
        format!("Subject=\"a\\\",{by};URI={admin}\""),
        format!("Subject=\"\\\\\";URI={admin}"),
        format!("uri={admin};URI={admin}"),
        "Cert=\"-----BEGIN%20CERTIFICATE-----%0A\";Chain=\"\"".to_owned(),
        "Hash=".to_owned(),
        "DNS=%22;DNS=%2C".to_owned(),
        "Unknown=x".to_owned(),
    ];
    let refused = [
        String::new(),
        // The proxy's own name, which nobody else writes.
        format!("{by};URI={admin}"),
        format!("{by};Hash=00;URI={admin},By=spiffe://x"),
        format!("By=spiffe://x;{by};URI={admin}"),
        format!("URI={admin};Subject=\""),
        format!("{by};URI={admin};Subject=\""),
        format!("{by};URI={admin};Subject=\"\\"),
        format!("{by};URI={admin};Subject=\"\\\""),
        format!("{by};URI={admin};Subject=\"a\"b"),
        format!("{by};URI={admin};Subject=\"\"\""),
        format!("{by};URI={admin};Subject=a\""),
        format!("{by};URI={admin};Subject=\\\""),
        format!("{by};URI={admin};\""),
        format!("{by};URI={admin};"),
        format!("{by};URI={admin},"),
        format!("{by};;URI={admin}"),
        format!("{by}, URI={admin}"),
        format!("{by}; URI={admin}"),
        format!("{by};URI ={admin}"),
        format!("{by};=URI;URI={admin}"),
        format!("{by};URI:{admin}"),
        admin,
        "\\".to_owned(),
    ];
    let of = |worth: bool| move |sent: String| (sent, worth);
    let refused = refused.into_iter().map(of(false));
    well_formed
        .into_iter()
        .map(of(true))
        .chain(refused)
        .collect()
}

/// URIs that are no SPIFFE ID of a workload in the trust domain.
pub(super) fn bad_uris() -> Vec<&'static str> {
    vec![
        "spiffe://",
        "spiffe:///worker",
        "spiffe://kodo.test",
        "spiffe://kodo.test/",
        "spiffe://kodo.test/worker/",
        "spiffe://kodo.test//worker",
        "spiffe://kodo.test/ns//worker",
        "spiffe://kodo.test/./worker",
        "spiffe://kodo.test/../worker",
        "spiffe://kodo.test/worker?x",
        "spiffe://kodo.test/worker?",
        "spiffe://kodo.test/worker#x",
        "spiffe://kodo.test/worker#",
        "spiffe://user@kodo.test/worker",
        "spiffe://user:word@kodo.test/worker",
        "spiffe://kodo.test:8443/worker",
        "SPIFFE://kodo.test/worker",
        "Spiffe://kodo.test/worker",
        "spiffe://KODO.test/worker",
        "spiffe://kodo.TEST/worker",
        "spiffe://kodo.test/w%6frker",
        "spiffe://kodo.test/worker%00",
        "spiffe://kodo%2etest/worker",
        "spiffe://kodo.test/*",
        "spiffe://*/worker",
        "spiffe://kodo.test/w:orker",
        "spiffe://kodo.test/wo~rker",
        "spiffe://kodo.test/wo'rker",
        "http://kodo.test/worker",
        "https://kodo.test/worker",
        "spiffes://kodo.test/worker",
        "spiffe:kodo.test/worker",
        "spiffe:/kodo.test/worker",
        "urn:spiffe:kodo.test",
        "kodo.test/worker",
        "/worker",
        "worker",
        "spiffe://another.test/worker",
        "spiffe://kodo.test.evil/worker",
        "spiffe://kodo.test./worker",
        "spiffe://sub.kodo.test/worker",
        "spiffe://kodo.tes/worker",
        "spiffe://kodo.test2/worker",
        "spiffe://kodo-test/worker",
        "spiffe://kodo_test/worker",
        "spiffe://test/kodo.test/worker",
        "spiffe://127.0.0.1/worker",
    ]
}

/// Last elements of which the proxy would write none.
fn bad_elements() -> Vec<String> {
    let worker = pki::spiffe_id("worker");
    let by = format!("By={PROXY}");
    let mut elements = vec![
        format!("URI={worker}"),
        format!("By=;URI={worker}"),
        format!("By={worker};URI={worker}"),
        format!("{by}/x;URI={worker}"),
        format!("{by}%20;URI={worker}"),
        format!("By=SPIFFE://kodo.test/broker;URI={worker}"),
        format!("By=spiffe://KODO.test/broker;URI={worker}"),
        format!("{by};By=spiffe://x;URI={worker}"),
        format!("By=spiffe://x;{by};URI={worker}"),
        format!("{by};{by};URI={worker}"),
        format!("Hash={by};URI={worker}"),
        format!("Subject=\"{by}\";URI={worker}"),
        by.clone(),
        format!("{by};URI="),
        format!("{by};URI=\"\""),
        format!("{by};Subject=\"URI={worker}\""),
        format!("{by};Subject=URI={worker}"),
        format!("{by};DNS={worker}"),
        format!("{by};URL={worker}"),
        format!("{by};URI={worker};URI={worker}"),
        format!("{by};URI={worker};URI={}", pki::spiffe_id("admin")),
        format!("{by};URI={worker};uri={}", pki::spiffe_id("admin")),
        format!("{by};URI=;URI={worker}"),
        format!("{by};URI={worker}\\"),
        format!("{by};URI={worker} "),
        format!(" {by};URI={worker}"),
        format!("{by};URI={worker};"),
        format!("{by};URI={worker},"),
        format!("{by};URI=\"{worker}"),
        format!("{by};URI={worker}\""),
    ];
    let bad = bad_uris().into_iter();
    elements.extend(bad.map(|uri| format!("{by};Hash=00;URI={uri}")));
    elements
}

/// The corpus of `x-forwarded-client-cert`.
pub(super) fn xfcc() -> Vec<Case> {
    let worker = pki::spiffe_id("worker");
    let mut cases = Vec::new();
    for own in own_elements() {
        cases.push(Case::of(XFCC, own.clone(), Some(&worker)));
        for (sent, is_well_formed) in sent() {
            let caller = is_well_formed.then_some(worker.as_str());
            cases.push(Case::of(XFCC, format!("{sent},{own}"), caller));
        }
        // As a proxy never sends it: it joins what it gets.
        let twice = Case {
            headers: vec![(XFCC, own.clone().into()), (XFCC, own.clone().into())],
            caller: None,
        };
        cases.push(twice);
        let long = format!("DNS={},{own}", "x".repeat(4096));
        cases.push(Case::of(XFCC, long, None));
        // A caller of another header has none.
        cases.push(Case::of(LINKERD, own.clone(), None));
        for bad in bad_elements() {
            // What came before does not stand in for it.
            cases.push(Case::of(XFCC, bad.clone(), None));
            let before = format!("By=spiffe://x;URI={worker}");
            cases.push(Case::of(XFCC, format!("{before},{bad}"), None));
        }
    }
    for byte in 0x80..=0xff {
        let own = own_elements().swap_remove(0).into_bytes();
        let header = [b"Subject=\"", &[byte][..], b"\",", &own].concat();
        cases.push(Case::of(XFCC, header, None));
    }
    cases.push(Case {
        headers: Vec::new(),
        caller: None,
    });
    cases
}

/// How this trust domain's service accounts end.
const AUTHORITY: &str = "serviceaccount.identity.linkerd.kodo.test";

/// Values that name no service account of the trust domain; `own` does.
fn bad_names(own: &str) -> Vec<String> {
    vec![
        String::new(),
        "worker".into(),
        format!("worker.{AUTHORITY}"),
        format!(".kodo.{AUTHORITY}"),
        format!("worker..{AUTHORITY}"),
        format!("-worker.kodo.{AUTHORITY}"),
        format!("Worker.kodo.{AUTHORITY}"),
        format!("wor_ker.kodo.{AUTHORITY}"),
        format!("worker/admin.kodo.{AUTHORITY}"),
        format!("*.kodo.{AUTHORITY}"),
        format!("{}.kodo.{AUTHORITY}", "a".repeat(254)),
        format!("worker.{}.{AUTHORITY}", "a".repeat(64)),
        format!("{own}."),
        format!("{own}.evil"),
        format!("{own},{own}"),
        format!("{own}, {own}"),
        format!("{own} x"),
        format!("\"{own}\""),
        own.to_uppercase(),
        own.replace("linkerd", "l5d"),
        own.replace("kodo.test", "cluster.local"),
        own.replace("serviceaccount", "pod"),
        own.replace("identity.", ""),
        "a".repeat(4096),
    ]
}

/// The corpus of `l5d-client-id`.
pub(super) fn linkerd() -> Vec<Case> {
    let own = format!("worker.kodo.{AUTHORITY}");
    let mut cases = vec![
        Case::of(
            LINKERD,
            own.clone(),
            Some("spiffe://kodo.test/ns/kodo/sa/worker"),
        ),
        Case::of(
            LINKERD,
            format!("a.b-c.ns-1.{AUTHORITY}"),
            Some("spiffe://kodo.test/ns/ns-1/sa/a.b-c"),
        ),
        Case::of(
            LINKERD,
            "spiffe://kodo.test/vm/worker",
            Some("spiffe://kodo.test/vm/worker"),
        ),
        Case {
            headers: vec![(LINKERD, own.clone().into()), (LINKERD, own.clone().into())],
            caller: None,
        },
        Case {
            headers: Vec::new(),
            caller: None,
        },
    ];
    // The other header beside it counts for nothing.
    cases.push(Case {
        headers: vec![
            (LINKERD, own.clone().into()),
            (XFCC, own_elements().swap_remove(0).into()),
        ],
        caller: Some("spiffe://kodo.test/ns/kodo/sa/worker".into()),
    });
    let bad = bad_names(&own).into_iter();
    cases.extend(bad.map(|bad| Case::of(LINKERD, bad, None)));
    cases.extend(
        bad_uris()
            .into_iter()
            .map(|uri| Case::of(LINKERD, uri, None)),
    );
    for element in own_elements() {
        cases.push(Case::of(LINKERD, element, None));
    }
    for byte in 0x80..=0xff {
        cases.push(Case::of(LINKERD, [own.as_bytes(), &[byte]].concat(), None));
    }
    cases
}
