//! Who calls, by the word of a proxy: a header that it sets on each request.
//!
//! A proxy's connection carries the calls of many. What it says is believed only on connections that
//! come from it ([`super::callers`]), only the one header of the mode is read, and one that is not as
//! that proxy writes it names nobody: what a client puts into it must not be taken for the proxy's.

use hyper::{
    HeaderMap,
    header::{HeaderName, HeaderValue},
};
use spiffe::{SpiffeId, TrustDomain};

use super::peer::{Unidentified, workload};
use crate::config::{IdentityConfig, IdentityMode};

pub mod linkerd;
mod seen;
pub mod xfcc;

pub(super) use seen::Seen;

/// The header of Envoy, and of Istio's sidecars and waypoints.
pub const XFCC: &str = "x-forwarded-client-cert";
/// The header of Linkerd.
pub const LINKERD: &str = "l5d-client-id";

/// What a proxy says, and how.
#[derive(Clone, Debug)]
pub struct Forwarded {
    header: HeaderName,
    form: Form,
}

#[derive(Clone, Debug)]
enum Form {
    Xfcc {
        /// Who must have written the last element.
        by: Option<String>,
    },
    Linkerd {
        namespace: String,
    },
}

impl Forwarded {
    /// What a configuration has a proxy say, if it has.
    #[must_use]
    pub fn new(config: &IdentityConfig) -> Option<Self> {
        let (header, form) = match config.mode {
            IdentityMode::Mtls => return None,
            IdentityMode::Xfcc => {
                let by = config.xfcc_by.as_ref().map(ToString::to_string);
                (XFCC, Form::Xfcc { by })
            }
            IdentityMode::Linkerd => {
                let namespace = config.linkerd_namespace().to_owned();
                (LINKERD, Form::Linkerd { namespace })
            }
        };
        Some(Self {
            header: HeaderName::from_static(header),
            form,
        })
    }

    /// The one header that says who calls.
    ///
    /// Two of them are refused: proxies write one, and join what they were sent to it.
    ///
    /// # Errors
    /// [`Unidentified`].
    pub fn header<'a>(&self, headers: &'a HeaderMap) -> Result<&'a HeaderValue, Unidentified> {
        let mut values = headers.get_all(&self.header).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => Ok(value),
            (None, _) => Err(Unidentified::NoHeader),
            (Some(_), Some(_)) => Err(Unidentified::RepeatedHeader),
        }
    }

    /// Who it says that the caller is, who must be of one of these trust domains. Whose CAs may vouch for
    /// which of them is for the proxy to check.
    ///
    /// # Errors
    /// [`Unidentified`].
    pub fn identify(
        &self,
        header: &HeaderValue,
        trust_domains: &[TrustDomain],
    ) -> Result<SpiffeId, Unidentified> {
        let header = header.as_bytes();
        match &self.form {
            Form::Xfcc { by } => workload(xfcc::client(header, by.as_deref())?, trust_domains),
            Form::Linkerd { namespace } => linkerd::client(header, namespace, trust_domains),
        }
    }
}
