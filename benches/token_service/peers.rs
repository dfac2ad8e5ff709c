//! The broker beside what somebody would use instead, each at its best: the same load, by turns.

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

use kodo_broker::pb::v1::Resource;

use crate::{
    Failure,
    broker::Broker,
    call::Target,
    compare::{Rounds, interleaved},
    floor,
    load::Load,
    program::Program,
    site::{Site, Store},
    table::{MEASURED, Table, measured, ratio},
};

mod etcd;
mod msal;
mod oidc_provider;
mod openbao;

const ORGANIZATIONS: usize = 1000;
const LOADS: [Load; 2] = [
    Load {
        connections: 8,
        in_flight: 32,
    },
    Load {
        connections: 1,
        in_flight: 1,
    },
];

/// A server of somebody else's, and what is asked of it.
struct Peer {
    _program: Program,
    target: Target,
}

pub(crate) async fn measure(site: &Site, rounds: Rounds) -> Result<(), Failure> {
    let mut broker = Broker::start(site, "broker", Store::Memory)?;
    broker.register(site, ORGANIZATIONS).await?;
    let ours = broker.target(site, broker.organizations(), Resource::Graph);
    let (_stock, stock) = floor::start_stock(site, &ours).await?;
    let token = crate::broker::probe(&ours).await?.access_token;
    let peers = [
        openbao::start(site, &token, openbao::Audit::Off).await?,
        openbao::start(site, &token, openbao::Audit::File).await?,
        etcd::start(site, &token).await?,
        oidc_provider::start(site).await?,
    ];
    let targets: Vec<_> = [ours, stock]
        .into_iter()
        .chain(peers.iter().map(|peer| peer.target.clone()))
        .collect();
    let mut table = Table::new(
        ["connections × in flight", "server"]
            .into_iter()
            .chain(MEASURED)
            .chain(["broker's calls/s are ×", "its CPU is ×"]),
    );
    for load in LOADS {
        let series = tokio::task::block_in_place(|| interleaved(&targets, load, rounds))?;
        for (target, peer) in targets.iter().zip(&series) {
            let ratios = [
                ratio(series[0].over(peer, |sample| sample.rate)),
                ratio(peer.over(&series[0], |sample| sample.cpu)),
            ];
            let cells = [load.to_string(), target.name.clone()];
            table.row(cells.into_iter().chain(measured(peer)).chain(ratios));
        }
    }
    table.print(&format!(
        "Warm GetToken of {ORGANIZATIONS} organizations, and its peers"
    ));
    msal::measure(site)
}

/// A program of a peer.
fn installed(path: &str) -> Result<PathBuf, Failure> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if path.exists() {
        return Ok(path);
    }
    Err(format!("{} is missing; run benches/peers/install", path.display()).into())
}

/// An address that nobody listens at.
fn free_address() -> Result<SocketAddr, Failure> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
