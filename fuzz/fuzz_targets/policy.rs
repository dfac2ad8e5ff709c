//! The policy file: whatever it says, it is refused with a line or decides without a panic, and its
//! decisions are what its grants say one by one.
#![no_main]

use std::{slice, sync::LazyLock};

use kodo_broker::{
    authz::{
        Caller, LivePolicy, Policy, Wanted,
        explain::{CaseText, trust_domain},
    },
    config::Config,
};
use libfuzzer_sys::fuzz_target;

static EXAMPLE: LazyLock<Config> = LazyLock::new(|| {
    Config::parse(include_str!("../../deploy/broker.toml")).expect("the example is valid")
});

/// What is asked of every policy: callers, ids and labels that the corpus has.
const CALLERS: [&str; 3] = [
    "spiffe://kodo.example/ns/kodo/sa/backup-worker",
    "spiffe://kodo.example/ns/kodo-admin/sa/operator",
    "spiffe://kodo.example/a",
];
const ORGANIZATIONS: [&str; 3] = ["contoso", "northwind-1", "a"];
const CASES: [(&str, Option<&str>, Option<&str>); 4] = [
    ("get_token", Some("graph"), None),
    ("get_token", Some("sharepoint"), Some("restore")),
    ("register", None, None),
    ("manage_store", None, None),
];

fuzz_target!(|text: &str| {
    let _ = trust_domain(text);
    let policy = match Policy::parse(text, slice::from_ref(&EXAMPLE.identity.trust_domain)) {
        Ok(policy) => LivePolicy::new(policy),
        Err(reason) => {
            assert!(reason.contains("line"), "no place is told: {reason}");
            return;
        }
    };
    for caller in CALLERS {
        for organization in ORGANIZATIONS {
            for (action, resource, purpose) in CASES {
                let case = CaseText {
                    caller: caller.to_owned(),
                    action: action.to_owned(),
                    organization: organization.to_owned(),
                    labels: vec!["msp=northwind".to_owned()],
                    resource: resource.map(str::to_owned),
                    purpose: purpose.map(str::to_owned),
                    access: None,
                    job_runs: false,
                };
                let case = case.parse().expect("a case");
                let explained = policy.current().explain(&case);
                let any = explained.grants.iter().any(|grant| grant.says.is_ok());
                assert_eq!(explained.decision.is_ok(), any);
                let caller = Caller::new(case.caller.clone(), &policy.current());
                let _ = policy.limits_of(&caller);
                if let Some(resource) = &case.resource {
                    let purpose = case.purpose;
                    let wanted = Wanted {
                        resource,
                        purpose,
                        access: case.access,
                        job_runs: &|| false,
                    };
                    let decided =
                        policy.check_token_of(&caller, &case.organization, wanted, &case.labels);
                    assert_eq!(decided, explained.decision);
                }
            }
        }
    }
});
