//! What callers may take.

use super::*;

#[test]
fn limits_are_those_of_the_caller_itself_then_of_the_longest_path_then_of_all() {
    let text = r#"
[limits]
calls_per_second = 100
organizations_per_hour = 50

[[caller_limits]]
callers = ["spiffe://kodo.test/*"]
calls_per_second = 10

[[caller_limits]]
callers = ["spiffe://kodo.test/ns/kodo/*", "spiffe://kodo.test/ns/kodo-admin/*"]
calls_per_second = 20
calls_under_way = 2

[[caller_limits]]
callers = ["spiffe://kodo.test/ns/kodo/sa/worker"]
organizations_per_hour = 7
"#;
    let plain = "[limits]\ncalls_under_way = 3\n";
    for (id, expected) in [
        (WORKER, [Some(100), None, Some(7)]),
        (OPERATOR, [Some(20), Some(2), Some(50)]),
        (
            "spiffe://kodo.test/ns/kodo/sa/worker-2",
            [Some(20), Some(2), Some(50)],
        ),
        ("spiffe://kodo.test/ns/kod", [Some(10), None, Some(50)]),
    ] {
        let policy = LivePolicy::new(parse(text).expect("parses"));
        let caller = Caller::new(caller(id), &policy.current());
        let number = |limit: Option<std::num::NonZeroU32>| limit.map(std::num::NonZeroU32::get);
        let numbers = |limits: Limits| {
            [
                number(limits.calls_per_second),
                number(limits.calls_under_way),
                number(limits.organizations_per_hour),
            ]
        };
        assert_eq!(numbers(policy.limits_of(&caller)), expected, "{id}");
        // After the policy was exchanged, too.
        policy.replace(parse(plain).expect("parses"));
        assert_eq!(numbers(policy.limits_of(&caller)), [None, Some(3), None]);
    }
    for (text, line, says) in [
        ("[limits]\ncalls_per_second = 0\n", 2, "nonzero"),
        ("[limits]\ncalls = 1\n", 2, "unknown"),
        (
            "[[caller_limits]]\ncallers = [\"spiffe://evil/*\"]\n",
            2,
            "outside",
        ),
        (
            "[[caller_limits]]\ncallers = [\"spiffe://kodo.test/a/*\",\n\"spiffe://kodo.test/a/*\"]\n",
            3,
            "already",
        ),
        (
            "[[caller_limits]]\ncallers = [\"spiffe://kodo.test/a\"]\n[[caller_limits]]\ncallers = [\"spiffe://kodo.test/a\"]\n",
            4,
            "already",
        ),
    ] {
        refused(text, line, says);
    }
}
