//! A broker as a process of its own, with organizations whose tokens are in its cache.

use std::{net::SocketAddr, sync::Arc};

use http::Request;
use kodo_broker::{
    client::{ConnectionConfig, Operator},
    pb::{
        admin::v1::{
            ClientSecretCredential, Cloud, Credential, RegisterOrganizationRequest, credential,
        },
        v1::{GetTokenRequest, GetTokenResponse, Resource},
    },
};
use prost::{
    Message,
    bytes::{BufMut as _, Bytes, BytesMut},
};
use serde_json::Value;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::{
    Failure,
    call::{Answer, Calls, Protocol, Target, once},
    program::Program,
    site::{CLIENT_SECRET, Site, Store},
};

/// Registrations under way at once: as many requests as a broker has to Entra.
const REGISTRATIONS: usize = 64;
/// The tokens that are asked for are of this length, give or take.
pub(crate) const TOKEN_BYTES: std::ops::RangeInclusive<usize> = 1750..=1850;

/// A broker that serves.
#[derive(Debug)]
pub(crate) struct Broker {
    pub(crate) program: Program,
    address: SocketAddr,
    name: String,
    organizations: Vec<Organization>,
}

/// An organization of it.
#[derive(Clone, Debug)]
pub(crate) struct Organization {
    pub(crate) id: String,
    pub(crate) tenant: Uuid,
}

impl Broker {
    pub(crate) fn start(site: &Site, name: &str, store: Store) -> Result<Self, Failure> {
        let (program, address) = Program::start(site.broker(name, store)?, "", serving_address)?;
        let connection = format!(
            "endpoint = \"https://{address}\"\nca_file = \"ca.pem\"\n\
             certificate_file = \"admin.crt\"\nkey_file = \"admin.key\"\n"
        );
        site.write(&format!("{name}-admin.toml"), connection)?;
        Ok(Self {
            program,
            address,
            name: name.to_owned(),
            organizations: Vec::new(),
        })
    }

    pub(crate) fn organizations(&self) -> &[Organization] {
        &self.organizations
    }

    /// Registers organizations, each in a tenant of its own with a client secret. The token for Graph
    /// that proves the secret is in the cache then.
    pub(crate) async fn register(&mut self, site: &Site, count: usize) -> Result<(), Failure> {
        let connection = site.path(&format!("{}-admin.toml", self.name));
        let operator = Operator::connect(&ConnectionConfig::load(connection)?).await?;
        let mut registrations = JoinSet::new();
        let first = self.organizations.len();
        for number in first..first + count {
            if registrations.len() == REGISTRATIONS {
                self.organizations.extend(next(&mut registrations).await?);
            }
            let id = format!("organization-{number}");
            let (tenant, client_id) = site.add_tenant(&format!("{}-{number}", self.name));
            let request = RegisterOrganizationRequest {
                request_id: Uuid::new_v4().to_string(),
                organization_id: id.clone(),
                tenant: tenant.to_string(),
                cloud: Cloud::Global.into(),
                client_id: client_id.to_string(),
                credential: Some(Credential {
                    kind: Some(credential::Kind::ClientSecret(ClientSecretCredential {
                        value: CLIENT_SECRET.to_owned(),
                        expire_time: None,
                    })),
                }),
                ..Default::default()
            };
            let operator = operator.clone();
            registrations.spawn(async move {
                operator.register(request).await?;
                Ok(Organization { id, tenant })
            });
        }
        while let Some(organization) = next(&mut registrations).await? {
            self.organizations.push(organization);
        }
        Ok(())
    }

    /// Calls for tokens of organizations.
    pub(crate) fn target(
        &self,
        site: &Site,
        organizations: &[Organization],
        resource: Resource,
    ) -> Target {
        let ids = organizations
            .iter()
            .map(|organization| organization.id.as_str());
        Target {
            name: self.name.clone(),
            process: self.program.id(),
            address: self.address,
            tls: site.worker.clone(),
            protocol: Protocol::Http2,
            calls: Arc::new(get_token(ids, resource)),
        }
    }
}

async fn next(
    registrations: &mut JoinSet<Result<Organization, Failure>>,
) -> Result<Option<Organization>, Failure> {
    match registrations.join_next().await {
        Some(outcome) => Ok(Some(outcome??)),
        None => Ok(None),
    }
}

/// Calls of `GetToken`.
fn get_token<'a>(ids: impl Iterator<Item = &'a str>, resource: Resource) -> Calls {
    let body = |id: &str| {
        frame(&GetTokenRequest {
            organization_id: id.to_owned(),
            resource: resource.into(),
            ..Default::default()
        })
    };
    let head = grpc("kodo.broker.v1.TokenService/GetToken");
    Calls {
        head,
        bodies: ids.map(body).collect(),
        // The token, and at most 300 bytes beside it.
        answer: Answer::Grpc(*TOKEN_BYTES.start()..=TOKEN_BYTES.end() + 300),
    }
}

/// Asks once, and looks at the answer more closely than the load does.
pub(crate) async fn probe(target: &Target) -> Result<GetTokenResponse, Failure> {
    let answer = once(target).await?;
    let answer = GetTokenResponse::decode(answer.slice(5..))?;
    let length = answer.access_token.len();
    if !TOKEN_BYTES.contains(&length) {
        return Err(format!("the token has {length} bytes: change the roles in site.rs").into());
    }
    Ok(answer)
}

/// The head of a call of a gRPC method.
pub(crate) fn grpc(method: &str) -> Request<()> {
    Request::post(format!("https://localhost/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .expect("a method is a path")
}

/// A message as gRPC puts it into a body.
pub(crate) fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut body = BytesMut::with_capacity(5 + length);
    body.put_u8(0);
    body.put_u32(u32::try_from(length).expect("a small message"));
    message.encode(&mut body).expect("the buffer grows");
    body.freeze()
}

/// Where a broker serves, if a line of its log is the one that tells.
fn serving_address(line: &str) -> Option<SocketAddr> {
    let event: Value = serde_json::from_str(line).ok()?;
    (event["message"] == "serving").then_some(())?;
    event["address"].as_str()?.parse().ok()
}
