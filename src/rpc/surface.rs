//! Which services a listener answers.

use tonic::Status;

/// What of the contract is to be had at a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    /// All of it.
    Everything,
    /// What workers call.
    Tokens,
    /// What operators call.
    Admin,
}

/// Begins the paths of what operators call, and of what workers call.
const ADMIN: &str = "/kodo.broker.admin.";
const TOKENS: &str = "/kodo.broker.v";
/// Begins those of what everybody calls: who they are.
const IDENTITY: &str = "/kodo.broker.v1.IdentityService/";

impl Surface {
    /// Whether a call is for somebody else.
    ///
    /// # Errors
    /// Where it belongs.
    pub(super) fn check(self, path: &str) -> Result<(), Status> {
        match self {
            Self::Tokens if path.starts_with(ADMIN) => Err(Status::unimplemented(
                "operators are not served at this address; call the one of server.admin_listen",
            )),
            Self::Admin if path.starts_with(TOKENS) && !path.starts_with(IDENTITY) => {
                Err(Status::unimplemented(
                    "workers are not served at this address; call the one of server.listen",
                ))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::server::NamedService as _;

    use super::*;
    use crate::{
        pb::{
            admin::v1::{
                organization_service_server::OrganizationServiceServer,
                store_service_server::StoreServiceServer,
            },
            v1::{
                identity_service_server::IdentityServiceServer,
                token_service_server::TokenServiceServer,
            },
        },
        rpc::{get_token, identity_service::IdentityService, seal::Seal},
    };

    #[test]
    fn every_service_is_of_one_surface_and_that_of_identity_of_both() {
        let path = |service: &str| format!("/{service}/Method");
        let workers = path(TokenServiceServer::<Seal>::NAME);
        let operators = [
            path(OrganizationServiceServer::<Seal>::NAME),
            path(StoreServiceServer::<Seal>::NAME),
        ];
        for path in [workers.as_str(), get_token::PATH] {
            assert!(Surface::Tokens.check(path).is_ok());
            assert!(Surface::Admin.check(path).is_err());
        }
        for path in &operators {
            assert!(Surface::Admin.check(path).is_ok());
            assert!(Surface::Tokens.check(path).is_err());
        }
        let everybody = path(IdentityServiceServer::<IdentityService>::NAME);
        for surface in [Surface::Tokens, Surface::Admin] {
            assert!(surface.check(&everybody).is_ok());
        }
        for path in operators.iter().chain([&workers, &everybody]) {
            assert!(Surface::Everything.check(path).is_ok());
        }
    }
}
