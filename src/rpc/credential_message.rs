//! A credential on its way in: out of the message, into the types that hide it.

use std::{mem::take, time::SystemTime};

use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::fields::Fields;
use crate::{
    credential::{Credential, intake},
    malformed::Malformed,
    pb::admin::v1::{self as admin, credential::Kind},
    secret::wipe_stack,
};

/// Files that are parsed at a time: whoever made a PKCS#12 file chose how long its key derivation
/// takes, and the blocking threads are needed for the store too.
static PARSERS: Semaphore = Semaphore::const_new(2);

impl Fields {
    /// The credential, checked by itself. Key derivation of PKCS#12 may take a moment, so it runs
    /// off the async workers.
    pub(super) async fn credential(
        &mut self,
        message: Option<admin::Credential>,
        now: SystemTime,
    ) -> Option<Credential> {
        match message.and_then(|credential| credential.kind) {
            None => {
                self.refuse(
                    "credential",
                    "is required: a client secret, or a certificate with its key",
                );
                None
            }
            Some(Kind::ClientSecret(mut secret)) => {
                let field = "credential.client_secret.expire_time";
                let expires = self.end(field, secret.expire_time, now);
                let value = take(&mut secret.value);
                let parsed = intake::client_secret(value, expires, now);
                self.take("credential.client_secret.value", parsed)
            }
            Some(Kind::PemCertificate(mut certificate)) => {
                let pem = Zeroizing::new(take(&mut certificate.pem));
                let parsed = off_worker(move || intake::pem(&pem, now)).await;
                self.take("credential.pem_certificate.pem", parsed)
            }
            Some(Kind::Pkcs12Certificate(mut certificate)) => {
                let pfx = Zeroizing::new(take(&mut certificate.pfx));
                let password = Zeroizing::new(take(&mut certificate.password));
                if password.len() > intake::PASSWORD_BYTES_MAX {
                    let field = "credential.pkcs12_certificate.password";
                    self.refuse(field, "must be at most 1024 bytes");
                    return None;
                }
                let parsed = off_worker(move || intake::pkcs12(&pfx, &password, now)).await;
                self.take("credential.pkcs12_certificate.pfx", parsed)
            }
        }
    }
}

async fn off_worker(
    parse: impl FnOnce() -> Result<Credential, Malformed> + Send + 'static,
) -> Result<Credential, Malformed> {
    let busy = Malformed("cannot be read now");
    let parser = PARSERS.acquire().await.map_err(|_| busy)?;
    let parse = move || {
        // Held to the end, even if the caller has gone: nothing else ends a key derivation.
        let _parser = parser;
        let parsed = parse();
        wipe_stack();
        parsed
    };
    // A panic of a parser is a refusal too: the input is the caller's.
    let parsed = tokio::task::spawn_blocking(parse).await;
    parsed.unwrap_or(Err(Malformed("cannot be read")))
}
