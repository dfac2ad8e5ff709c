//! etcd: the token as a value, read without consensus (`serializable`, its fastest way) over gRPC and
//! mutual TLS.

use std::{process::Command, sync::Arc};

use http::Request;
use prost::Message;

use super::{Peer, free_address, installed};
use crate::{
    Failure,
    broker::{frame, grpc},
    call::{Answer, Calls, Protocol, Target, once},
    program::Program,
    site::Site,
};

const KEY: &[u8] = b"tokens/organization-0/graph";

/// Of `etcdserverpb`, what is needed here.
#[derive(Message)]
struct PutRequest {
    #[prost(bytes, tag = "1")]
    key: Vec<u8>,
    #[prost(bytes, tag = "2")]
    value: Vec<u8>,
}

#[derive(Message)]
struct RangeRequest {
    #[prost(bytes, tag = "1")]
    key: Vec<u8>,
    #[prost(bool, tag = "7")]
    serializable: bool,
}

#[derive(Message)]
struct RangeResponse {
    #[prost(message, repeated, tag = "2")]
    kvs: Vec<KeyValue>,
}

#[derive(Message)]
struct KeyValue {
    #[prost(bytes, tag = "5")]
    value: Vec<u8>,
}

pub(super) async fn start(site: &Site, token: &str) -> Result<Peer, Failure> {
    let (address, peers) = (free_address()?, free_address()?);
    let mut command = Command::new(installed(".lab/peers/etcd/usr/bin/etcd")?);
    command
        .arg("--data-dir")
        .arg(site.path("etcd"))
        .arg(format!("--listen-client-urls=https://{address}"))
        .arg(format!("--advertise-client-urls=https://{address}"))
        .arg(format!("--listen-peer-urls=http://{peers}"))
        .arg(format!("--initial-advertise-peer-urls=http://{peers}"))
        .arg(format!("--initial-cluster=default=http://{peers}"))
        .args(["--client-cert-auth", "--logger=zap", "--log-level=info"]);
    for (option, file) in [
        ("--cert-file", "server.crt"),
        ("--key-file", "server.key"),
        ("--trusted-ca-file", "ca.pem"),
    ] {
        command.arg(option).arg(site.path(file));
    }
    let ready = |line: &str| line.contains("serving client traffic").then_some(());
    let (program, ()) = Program::start(command, "", ready)?;
    let target = |head: Request<()>, body, length| Target {
        name: "etcd, serializable".to_owned(),
        process: program.id(),
        address,
        tls: site.worker.clone(),
        protocol: Protocol::Http2,
        calls: Arc::new(Calls {
            head,
            bodies: vec![body],
            answer: Answer::Grpc(length),
        }),
    };
    let put = PutRequest {
        key: KEY.into(),
        value: token.into(),
    };
    once(&target(grpc("etcdserverpb.KV/Put"), frame(&put), 6..=1024)).await?;
    let range = RangeRequest {
        key: KEY.into(),
        serializable: true,
    };
    // The value, and at most 200 bytes beside it.
    let length = token.len()..=token.len() + 200;
    let target = target(grpc("etcdserverpb.KV/Range"), frame(&range), length);
    let answer = RangeResponse::decode(once(&target).await?.slice(5..))?;
    if answer.kvs.len() != 1 || answer.kvs[0].value != token.as_bytes() {
        return Err("etcd does not answer with the token".into());
    }
    Ok(Peer {
        _program: program,
        target,
    })
}
