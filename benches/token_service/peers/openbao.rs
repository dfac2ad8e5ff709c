//! OpenBao: the token as a secret in KV version 2, in memory, read over HTTP/2 and mutual TLS.

use std::{fs, process::Command, sync::Arc};

use http::Request;
use serde_json::{Value, json};

use super::{Peer, free_address, installed};
use crate::{
    Failure,
    call::{Answer, Calls, Protocol, Target, once},
    program::Program,
    site::Site,
};

const ROOT_TOKEN: &str = "root";
const PATH: &str = "https://localhost/v1/secret/data/token";
/// Lengths of an answer that are not nothing.
const ANY: std::ops::RangeInclusive<usize> = 1..=64 * 1024;

/// Whether each request is written to a file, as the broker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Audit {
    Off,
    File,
}

pub(super) async fn start(site: &Site, token: &str, audit: Audit) -> Result<Peer, Failure> {
    let name = match audit {
        Audit::Off => "OpenBao KV v2",
        Audit::File => "OpenBao KV v2, audit",
    };
    let (plain, address) = (free_address()?, free_address()?);
    let folder = site.folder().display();
    let log = site.path("openbao-audit.log");
    let mut configuration = format!(
        r#"
listener "tcp" {{
  address                            = "{address}"
  tls_cert_file                      = "{folder}/server.crt"
  tls_key_file                       = "{folder}/server.key"
  tls_client_ca_file                 = "{folder}/ca.pem"
  tls_require_and_verify_client_cert = true
}}
"#
    );
    if audit == Audit::File {
        configuration += &format!(
            "audit \"file\" \"to-file\" {{\n  options {{\n    file_path = \"{}\"\n  }}\n}}\n",
            log.display()
        );
    }
    let file = format!("openbao-{audit:?}.hcl");
    site.write(&file, configuration)?;
    let mut command = Command::new(installed(".lab/peers/bao")?);
    command
        .args(["server", "-dev", "-dev-no-store-token"])
        .arg(format!("-dev-root-token-id={ROOT_TOKEN}"))
        .arg(format!("-dev-listen-address={plain}"))
        .arg(format!("-config={}", site.path(&file).display()));
    let ready = |line: &str| line.starts_with("Root Token:").then_some(());
    let (program, ()) = Program::start(command, "", ready)?;
    let target = |head: Request<()>, body: String, answer| Target {
        name: name.to_owned(),
        process: program.id(),
        address,
        tls: site.worker.clone(),
        protocol: Protocol::Http2,
        calls: Arc::new(Calls {
            head,
            bodies: vec![body.into()],
            answer: Answer::Http(answer),
        }),
    };
    let request = |method: &str| {
        let request = Request::builder().method(method).uri(PATH);
        request.header("x-vault-token", ROOT_TOKEN).body(())
    };
    let secret = json!({"data": {"token": token}}).to_string();
    once(&target(request("POST")?, secret, ANY)).await?;
    let read = request("GET")?;
    let answer = once(&target(read.clone(), String::new(), ANY)).await?;
    if serde_json::from_slice::<Value>(&answer)?["data"]["data"]["token"] != token {
        return Err("OpenBao does not answer with the token".into());
    }
    if audit == Audit::File && fs::metadata(&log)?.len() == 0 {
        return Err("OpenBao writes no audit log".into());
    }
    // The id of the request is in it, and as long in each.
    let target = target(read, String::new(), answer.len()..=answer.len());
    Ok(Peer {
        _program: program,
        target,
    })
}
