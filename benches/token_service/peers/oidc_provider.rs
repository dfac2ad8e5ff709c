//! oidc-provider: a token server that signs each token anew (RS256). It is the one that the tests use,
//! over HTTP/1.1 and TLS without client certificates, which is its fastest way.

use std::{process::Command, sync::Arc};

use http::Request;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Peer, installed};
use crate::{
    Failure,
    call::{Answer, Calls, Protocol, Target, once},
    program::Program,
    site::{CLIENT_SECRET, Site},
};

const RESOURCE: &str = "https://graph.microsoft.com";

pub(super) async fn start(site: &Site) -> Result<Peer, Failure> {
    installed("tests/real/node_modules/oidc-provider")?;
    let (tenant, client_id) = (Uuid::new_v4(), Uuid::new_v4());
    let configuration = json!({
        "certificate_file": site.path("server.crt"),
        "key_file": site.path("server.key"),
        "tenant": tenant.to_string(),
        "domain": "contoso.onmicrosoft.com",
        "resources": [RESOURCE],
    });
    let client = json!({"client": {
        "client_id": client_id.to_string(),
        "client_secret": CLIENT_SECRET,
        "token_endpoint_auth_method": "client_secret_post",
        "grant_types": ["client_credentials"],
        "response_types": [],
        "redirect_uris": [],
    }});
    let mut command = Command::new("node");
    command
        .arg("authority.mjs")
        .current_dir(installed("tests/real")?);
    let port = |line: &str| {
        let answer: Value = serde_json::from_str(line).ok()?;
        u16::try_from(answer["port"].as_u64()?).ok()
    };
    let (program, port) = Program::start(command, &format!("{configuration}\n{client}\n"), port)?;
    let body = format!(
        "grant_type=client_credentials&client_id={client_id}&client_secret={CLIENT_SECRET}\
         &scope={RESOURCE}/.default"
    );
    let head = Request::post(format!("/{tenant}/oauth2/v2.0/token"))
        .header("host", format!("127.0.0.1:{port}"))
        .header("content-type", "application/x-www-form-urlencoded")
        .body(())?;
    let mut target = Target {
        name: "oidc-provider, RS256".to_owned(),
        process: program.id(),
        address: ([127, 0, 0, 1], port).into(),
        tls: site.worker.clone(),
        protocol: Protocol::Http1,
        calls: Arc::new(Calls {
            head: head.clone(),
            bodies: vec![body.clone().into()],
            answer: Answer::Http(1..=64 * 1024),
        }),
    };
    let answer = once(&target).await?;
    let token: Value = serde_json::from_slice(&answer)?;
    if token["access_token"]
        .as_str()
        .is_none_or(|token| token.matches('.').count() != 2)
    {
        return Err("oidc-provider does not answer with a JWT".into());
    }
    target.calls = Arc::new(Calls {
        head,
        bodies: vec![body.into()],
        answer: Answer::Http(answer.len() - 8..=answer.len() + 8),
    });
    Ok(Peer {
        _program: program,
        target,
    })
}
