//! `whoami`: who the caller is to the broker.

use serde::Serialize;

use super::{Console, Options, Output, connection, error::Error, name, table::Table};
use crate::{client::who_am_i, pb::v1::WhoAmIResponse};

/// The caller in JSON: the fields of the contract.
#[derive(Serialize)]
struct CallerView {
    spiffe_id: String,
    source: String,
    grants: Vec<GrantView>,
}

#[derive(Serialize)]
struct GrantView {
    line: u32,
    text: String,
}

pub(super) async fn run(options: &Options, console: &mut Console<'_>) -> Result<(), Error> {
    let caller = who_am_i(&connection(options)?).await?;
    write(options.output, caller, console)
}

fn write(output: Output, caller: WhoAmIResponse, console: &mut Console<'_>) -> Result<(), Error> {
    let view = CallerView {
        source: name::identity_source(caller.source),
        spiffe_id: caller.spiffe_id,
        grants: caller
            .grants
            .into_iter()
            .map(|grant| GrantView {
                line: grant.line,
                text: grant.text,
            })
            .collect(),
    };
    match output {
        Output::Json => console.json(&view),
        Output::Table | Output::Token => table(&view).write(console.out).map_err(Error::Io),
    }
}

fn table(view: &CallerView) -> Table {
    let mut table = Table::default();
    table.push(["caller", &view.spiffe_id]);
    table.push(["on the word of", &view.source]);
    for grant in &view.grants {
        table.push([&format!("policy line {}", grant.line), &grant.text]);
    }
    if view.grants.is_empty() {
        table.push(["policy", "no grant names this caller"]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::v1::{CallerGrant, IdentitySource};

    fn written(output: Output, grants: Vec<CallerGrant>) -> String {
        let caller = WhoAmIResponse {
            spiffe_id: "spiffe://kodo.test/worker".into(),
            source: IdentitySource::Xfcc.into(),
            grants,
        };
        let mut out = Vec::new();
        let mut console = Console {
            input: &mut std::io::empty(),
            out: &mut out,
            err: &mut std::io::sink(),
        };
        write(output, caller, &mut console).expect("a buffer takes everything");
        String::from_utf8(out).expect("text")
    }

    fn grant() -> CallerGrant {
        CallerGrant {
            line: 7,
            text: "get_token of *: graph".into(),
        }
    }

    #[test]
    fn the_table_has_a_line_for_each_grant() {
        assert_eq!(
            written(Output::Table, vec![grant()]),
            "caller          spiffe://kodo.test/worker\n\
             on the word of  xfcc\n\
             policy line 7   get_token of *: graph\n"
        );
        let nothing = written(Output::Table, Vec::new());
        assert!(
            nothing.ends_with("policy          no grant names this caller\n"),
            "{nothing}"
        );
    }

    #[test]
    fn json_has_the_fields_of_the_contract() {
        let json = written(Output::Json, vec![grant()]);
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(json["spiffe_id"], "spiffe://kodo.test/worker");
        assert_eq!(json["source"], "xfcc");
        assert_eq!(json["grants"][0]["line"], 7);
    }
}
