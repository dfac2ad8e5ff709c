//! The floor: what anyone would write with tonic. The default runtime, tonic's own TLS with client
//! certificates, one answer for everybody.

use std::{fs, net::SocketAddr, path::Path, pin::Pin};

use kodo_broker::pb::v1::{
    GetTokenRequest, GetTokenResponse, ReportTokenRequest, ReportTokenResponse, WatchTokenRequest,
    WatchTokenResponse,
    token_service_server::{TokenService, TokenServiceServer},
};
use prost::Message as _;
use tokio_stream::Stream;
use tonic::{
    Request, Response, Status,
    transport::{Certificate, Identity, Server, ServerTlsConfig, server::TcpIncoming},
};

use crate::Failure;

/// How its only line of output begins.
pub(crate) const SERVING: &str = "serving at ";
/// The answer that it gives, encoded.
pub(crate) const ANSWER: &str = "answer.bin";

#[derive(Debug)]
struct Stock(GetTokenResponse);

#[tonic::async_trait]
impl TokenService for Stock {
    async fn get_token(
        &self,
        _: Request<GetTokenRequest>,
    ) -> Result<Response<GetTokenResponse>, Status> {
        Ok(Response::new(self.0.clone()))
    }

    type WatchTokenStream = Pin<Box<dyn Stream<Item = Result<WatchTokenResponse, Status>> + Send>>;

    async fn watch_token(
        &self,
        _: Request<WatchTokenRequest>,
    ) -> Result<Response<Self::WatchTokenStream>, Status> {
        Err(Status::unimplemented("nobody watches the floor"))
    }

    async fn report_token(
        &self,
        _: Request<ReportTokenRequest>,
    ) -> Result<Response<ReportTokenResponse>, Status> {
        Err(Status::unimplemented("nobody reports to the floor"))
    }
}

/// Serves until it is killed.
#[tokio::main]
pub(crate) async fn serve(folder: &Path) -> Result<(), Failure> {
    let read = |name: &str| fs::read(folder.join(name));
    let answer = GetTokenResponse::decode(read(ANSWER)?.as_slice())?;
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(read("server.crt")?, read("server.key")?))
        .client_ca_root(Certificate::from_pem(read("ca.pem")?));
    // As `serve(address)` does it, only that the port is a free one.
    let incoming =
        TcpIncoming::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?.with_nodelay(Some(true));
    println!("{SERVING}{}", incoming.local_addr()?);
    Server::builder()
        .tls_config(tls)?
        .add_service(TokenServiceServer::new(Stock(answer)))
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}
