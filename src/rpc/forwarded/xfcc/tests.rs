use proptest::prelude::*;

use super::*;

const WORKER: &str = "spiffe://kodo.test/ns/kodo/sa/worker";
const ADMIN: &str = "spiffe://kodo.test/ns/kodo/sa/admin";
const PROXY: &str = "spiffe://kodo.test/ns/kodo/sa/broker";

fn of(header: &str) -> Result<&str, Unidentified> {
    client(header.as_bytes(), Some(PROXY))
}

/// What Envoy itself adds for the worker.
fn own() -> String {
    format!("By={PROXY};Hash=ab12;URI={WORKER}")
}

#[test]
fn the_last_element_names_the_client() {
    let own = own();
    for before in [
        "",
        "By=spiffe://x;URI=spiffe://kodo.test/ns/kodo/sa/admin,",
        "URI=spiffe://kodo.test/ns/kodo/sa/admin,",
        "Subject=\"CN=a,O=b;c=\\\"d\\\"\",",
        "Subject=\"\",DNS=,Hash=1,",
        "Subject=\"CN=Doe\\, John\\\\\",",
        "uri=a;uri=b;by=c,",
        "Cert=\"-----BEGIN%20CERTIFICATE-----%0A\";Chain=\"%0A\",",
        "URI=https://a.test/?b=c&d=e,",
    ] {
        assert_eq!(of(&format!("{before}{own}")), Ok(WORKER), "{before}");
    }
    for element in [
        format!("By={PROXY};Hash=1;Subject=\"\";URI={WORKER};DNS=a;DNS=b"),
        format!("By={PROXY};Hash=1;Subject=\"CN=a;URI={ADMIN}\";URI={WORKER}"),
        format!("By={PROXY};Hash=1;Subject=\"CN=a,URI={ADMIN}\";URI={WORKER}"),
        format!("BY={PROXY};HASH=1;uRI={WORKER}"),
        format!("By=\"{PROXY}\";URI=\"{WORKER}\""),
        format!("URI={WORKER};By={PROXY}"),
    ] {
        assert_eq!(of(&element), Ok(WORKER), "{element}");
    }
}

#[test]
fn what_is_left_open_swallows_nothing() {
    // As a client sends it to a proxy that appends: its own subject may be shown, or be empty.
    let appended = [
        own(),
        format!("By={PROXY};Hash=1;Subject=\"\";URI={WORKER}"),
        format!("By={PROXY};Hash=1;Subject=\"CN=worker\";URI={WORKER}"),
        format!("By={PROXY};Hash=1;Subject=\"\\,;URI={ADMIN}\";URI={WORKER}"),
    ];
    let opened = [
        "Subject=\"",
        "Subject=\"\\",
        "Subject=\"\\\"",
        "Subject=\"a",
        "Subject=\"a\"b",
        "\"",
        "Subject=a\"",
        "Subject=\\",
        "Subject=\"\"\"",
    ];
    for own in &appended {
        for open in opened {
            for start in [
                format!("URI={ADMIN};"),
                format!("By={PROXY};URI={ADMIN};"),
                String::new(),
            ] {
                let header = format!("{start}{open},{own}");
                assert_eq!(of(&header), Err(Unidentified::Malformed), "{header}");
            }
        }
    }
}

#[test]
fn what_is_not_written_as_envoy_writes_it_names_nobody() {
    let own = own();
    for bad in [
        String::new(),
        ",".into(),
        ";".into(),
        "=".into(),
        "By".into(),
        WORKER.into(),
        format!(",{own}"),
        format!("{own},"),
        format!("{own};"),
        format!(";{own}"),
        format!("a,{own}"),
        format!("=a,{own}"),
        format!("a=b,,{own}"),
        format!("a=b;,{own}"),
        format!("a=b;;c=d,{own}"),
        format!("a=b, {own}"),
        format!(" {own}"),
        format!("{own} "),
        format!("a b=c,{own}"),
        format!("a-b=c,{own}"),
        format!("{own};Subject=\"a\"b"),
        format!("{own};Subject=\"a\" "),
        format!("{own};Subject=\""),
        format!("{own};Subject=\"\\\""),
        format!("{own};DNS=a\\"),
        format!("{own};DNS=a\"b\""),
    ] {
        assert_eq!(of(&bad), Err(Unidentified::Malformed), "{bad}");
    }
    for byte in (0..=31).chain(127..=255) {
        let mut header = format!("Subject=\"a\",{own}").into_bytes();
        header[9] = byte;
        let named = client(&header, None);
        assert_eq!(named, Err(Unidentified::Malformed), "{byte}");
    }
}

#[test]
fn the_last_element_has_one_uri() {
    for element in [
        format!("By={PROXY}"),
        format!("By={PROXY};URI="),
        format!("By={PROXY};URI=\"\""),
        format!("By={PROXY};URI={WORKER};URI={ADMIN}"),
        format!("By={PROXY};URI={WORKER};URI={WORKER}"),
        format!("By={PROXY};URI={WORKER};uri={ADMIN}"),
        format!("By={PROXY};URI=;URI={WORKER}"),
        format!("URI={WORKER},By={PROXY}"),
        format!("By={PROXY};Subject=\"URI={WORKER}\""),
    ] {
        assert_eq!(
            of(&element),
            Err(Unidentified::NotOneForwardedUri),
            "{element}"
        );
    }
}

#[test]
fn the_last_element_is_by_the_proxy() {
    for element in [
        format!("URI={WORKER}"),
        format!("By=;URI={WORKER}"),
        format!("By=spiffe://kodo.test/ns/kodo/sa/another;URI={WORKER}"),
        format!("By={PROXY}/;URI={WORKER}"),
        format!("By={PROXY};By={PROXY};URI={WORKER}"),
        format!("By={PROXY};By=spiffe://x;URI={WORKER}"),
        format!("By=SPIFFE://kodo.test/ns/kodo/sa/broker;URI={WORKER}"),
        format!("By={PROXY};URI={WORKER},By=spiffe://x;URI={WORKER}"),
        format!("{},URI={WORKER}", own()),
        // Before the last one, it may be the last one's beginning: an id with a comma in it.
        format!("{},{}", own(), own()),
        format!("{},a=b,{}", own(), own()),
        format!("By={PROXY},{}", own()),
        format!("By=spiffe://x;By={PROXY},{}", own()),
        format!("By={PROXY};Hash=1;URI=spiffe://kodo.test/guest/,{}", own()),
    ] {
        assert_eq!(of(&element), Err(Unidentified::By), "{element}");
    }
    let anybody = format!("URI={WORKER}");
    assert_eq!(client(anybody.as_bytes(), None), Ok(WORKER));
    for before in ["a=b", "By=spiffe://x", &own()] {
        let header = format!("{before},{}", own());
        let named = client(header.as_bytes(), None);
        assert_eq!(named, Err(Unidentified::ManyElements), "{before}");
    }
    let twice = format!("By={PROXY};By={PROXY};URI={WORKER}");
    assert_eq!(client(twice.as_bytes(), None), Err(Unidentified::By));
}

#[test]
fn a_header_has_at_most_4096_bytes() {
    let own = own();
    let padded = |length: usize| format!("DNS={},{own}", "x".repeat(length - own.len() - 5));
    assert_eq!(padded(4096).len(), 4096);
    assert_eq!(of(&padded(4096)), Ok(WORKER));
    assert_eq!(of(&padded(4097)), Err(Unidentified::LongHeader));
}

/// What a client may have sent: of the characters that matter, and some that do not.
fn sent() -> impl Strategy<Value = String> {
    prop::collection::vec(
        prop::sample::select(vec![
            "URI=", "By=", "Subject=", "\"", "\\", ",", ";", "=", "\\\"", " ", "a", WORKER, ADMIN,
            PROXY,
        ]),
        0..12,
    )
    .prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn whatever_a_client_sends_the_proxy_has_the_last_word(sent in sent(), subject in "|[ -~]{0,8}") {
        // RFC 2253, as a certificate's subject is written.
        let mut escaped = String::new();
        for c in subject.chars() {
            if ",+\"\\<>;=#".contains(c) {
                escaped.push('\\');
            }
            escaped.push(c);
        }
        for own in [own(), format!("By={PROXY};Hash=1;Subject=\"{escaped}\";URI={WORKER}")] {
            prop_assert_eq!(of(&own), Ok(WORKER));
            let header = format!("{sent},{own}");
            match of(&header) {
                Ok(named) => prop_assert_eq!(named, WORKER),
                Err(error) => {
                    let claimed = sent.contains("By=") && error == Unidentified::By;
                    prop_assert!(claimed || error == Unidentified::Malformed, "{}", error);
                }
            }
        }
    }

    #[test]
    fn well_formed_elements_are_read_back(
        elements in prop::collection::vec(
            prop::collection::vec(("[A-Za-z]{1,6}", "[a-z:/.=]{0,12}|\"([a-z,;= ]|\\\\[\"\\\\,])*\""), 1..4),
            0..4,
        ),
    ) {
        let mut header = String::new();
        for element in &elements {
            let pairs: Vec<_> = element.iter().map(|(key, value)| format!("{key}={value}")).collect();
            header += &format!("{},", pairs.join(";"));
        }
        header += &own();
        prop_assert_eq!(of(&header), Ok(WORKER));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes: Vec<u8>) {
        let _ = client(&bytes, None);
    }
}
