//! `l5d-client-id`, as Linkerd's inbound proxy sets it, and removes it where the client has shown no
//! certificate: the name of a service account, or the SPIFFE ID of a workload outside of the cluster.

use spiffe::{SpiffeId, TrustDomain};

use super::{Unidentified, workload};

/// Longest header, in bytes: that of a SPIFFE ID.
pub const BYTES_MAX: usize = 2048;
/// Longest name of a namespace and of a service account, in bytes, by Kubernetes.
const NAMESPACE_BYTES_MAX: usize = 63;
const ACCOUNT_BYTES_MAX: usize = 253;

/// Whom the header names. A service account `sa` of the namespace `ns` is
/// `sa.ns.serviceaccount.identity.<namespace of Linkerd>.<trust domain>` there, and
/// `spiffe://<trust domain>/ns/ns/sa/sa` to the broker.
///
/// # Errors
/// [`Unidentified`].
pub fn client(
    header: &[u8],
    linkerd_namespace: &str,
    trust_domains: &[TrustDomain],
) -> Result<SpiffeId, Unidentified> {
    if header.len() > BYTES_MAX {
        return Err(Unidentified::LongHeader);
    }
    let printable = header.iter().all(u8::is_ascii_graphic);
    let text = str::from_utf8(header).ok().filter(|_| printable);
    let text = text.ok_or(Unidentified::Malformed)?;
    if text.starts_with("spiffe://") {
        return workload(text, trust_domains);
    }
    let (account, namespace, authority) =
        service_account(text).ok_or(Unidentified::NoServiceAccount)?;
    let domain = authority
        .strip_prefix(linkerd_namespace)
        .and_then(|rest| rest.strip_prefix('.'));
    let mut ours = trust_domains.iter();
    let ours = ours.find(|ours| domain == Some(ours.as_str()));
    let domain = ours.ok_or(Unidentified::ForeignTrustDomain)?;
    let id = format!("spiffe://{domain}/ns/{namespace}/sa/{account}");
    workload(&id, trust_domains)
}

/// Account, namespace, and the namespace of Linkerd with its trust domain.
fn service_account(text: &str) -> Option<(&str, &str, &str)> {
    let (account, authority) = text.split_once(".serviceaccount.identity.")?;
    // A name may have dots in it, a namespace has none.
    let (account, namespace) = account.rsplit_once('.')?;
    let is_named = is_label(namespace) && namespace.len() <= NAMESPACE_BYTES_MAX;
    let has_account = account.len() <= ACCOUNT_BYTES_MAX && account.split('.').all(is_label);
    (is_named && has_account).then_some((account, namespace, authority))
}

/// A part of a DNS name, as Kubernetes has them (RFC 1123).
fn is_label(text: &str) -> bool {
    let letters = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.bytes().all(letters) && !text.starts_with('-') && !text.ends_with('-')
}

#[cfg(test)]
mod tests;
