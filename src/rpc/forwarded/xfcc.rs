//! `x-forwarded-client-cert`, as Envoy writes it
//! (<https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/headers#x-forwarded-client-cert>):
//! elements with `,` in between, one for each proxy on the way, each of pairs with `;` in between.
//!
//! Only the last element is of the proxy that speaks to the broker. Where it appends, as Istio's
//! sidecars do, all others are the client's to choose, and so is how they end: a quote left open there
//! would swallow the last one. So the whole header has to be well-formed, or it names nobody; nothing
//! is guessed.
//!
//! Nor is the last element all of the proxy's: Envoy copies the URI out of the certificate as it is, and
//! one with a comma in it, where a CA issues such, ends the element and begins another. So what the
//! proxy is called by may stand in no element but the last; where that is not known, there may be no
//! other element.

use super::Unidentified;

/// Longest header, in bytes: some proxies' names. Certificates, which proxies can forward too, are
/// longer; the broker has no use for them.
pub const BYTES_MAX: usize = 4096;

/// What is told of the client and of the proxy in one element.
#[derive(Default)]
struct Element<'a> {
    uri: Given<'a>,
    by: Given<'a>,
}

/// An element before the last one, as far as it matters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    OfOthers,
    /// It has the name of the proxy that wrote the last one.
    OfProxy,
}

/// What a key is given.
#[derive(Clone, Copy, Default)]
enum Given<'a> {
    #[default]
    Not,
    Once(&'a str),
    Again,
}

/// What comes after a pair.
enum Next<'a> {
    Pair(&'a str),
    Element(&'a str),
    Nothing,
}

/// The URI that the last element names the client by; what it is worth is for the caller to judge.
/// `by` is how the proxy must have named itself there, if that is known.
///
/// # Errors
/// [`Unidentified`].
pub fn client<'a>(header: &'a [u8], by: Option<&str>) -> Result<&'a str, Unidentified> {
    if header.len() > BYTES_MAX {
        return Err(Unidentified::LongHeader);
    }
    let printable = header.iter().all(|byte| (b' '..=b'~').contains(byte));
    let text = str::from_utf8(header).ok().filter(|_| printable);
    let mut rest = text.ok_or(Unidentified::Malformed)?;
    let mut before = Before::Nothing;
    let last = loop {
        let (element, more) = element(rest)?;
        let Some(more) = more else {
            break element;
        };
        if before != Before::OfProxy {
            before = element.is_by(by);
        }
        rest = more;
    };
    match (by, before, last.by) {
        (None, Before::Nothing, Given::Not | Given::Once(_)) => {}
        (None, Before::OfOthers | Before::OfProxy, _) => return Err(Unidentified::ManyElements),
        (Some(by), Before::Nothing | Before::OfOthers, Given::Once(named)) if named == by => {}
        _ => return Err(Unidentified::By),
    }
    match last.uri {
        Given::Once(uri) if !uri.is_empty() => Ok(uri),
        _ => Err(Unidentified::NotOneForwardedUri),
    }
}

/// The first element of a text, and what comes after it.
fn element(text: &str) -> Result<(Element<'_>, Option<&str>), Unidentified> {
    let mut element = Element::default();
    let mut rest = text;
    loop {
        let (key, value, next) = pair(rest).ok_or(Unidentified::Malformed)?;
        if key.eq_ignore_ascii_case("uri") {
            element.uri.give(value);
        } else if key.eq_ignore_ascii_case("by") {
            element.by.give(value);
        }
        match next {
            Next::Pair(more) => rest = more,
            Next::Element(more) => return Ok((element, Some(more))),
            Next::Nothing => return Ok((element, None)),
        }
    }
}

/// The first pair of a text, if there is one.
fn pair(text: &str) -> Option<(&str, &str, Next<'_>)> {
    let (key, rest) = text.split_once('=')?;
    if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return None;
    }
    let (value, rest) = match rest.strip_prefix('"') {
        Some(quoted) => quoted.split_at(closing_quote(quoted)?),
        None => {
            let end = rest.find([',', ';']).unwrap_or(rest.len());
            let (value, rest) = rest.split_at(end);
            if value.contains(['"', '\\', ' ']) {
                return None;
            }
            (value, rest)
        }
    };
    // A quoted value ends with its quote, and nothing may stand between that and what separates.
    let rest = rest.strip_prefix('"').unwrap_or(rest);
    let next = match rest.as_bytes().first() {
        None => Next::Nothing,
        Some(b';') => Next::Pair(&rest[1..]),
        Some(b',') => Next::Element(&rest[1..]),
        Some(_) => return None,
    };
    Some((key, value, next))
}

/// Where the quote closes. A backslash belongs to the character after it: Envoy copies the subject of
/// a certificate as it is, where commas, quotes and the like have one (RFC 2253).
fn closing_quote(quoted: &str) -> Option<usize> {
    let mut escaped = false;
    quoted.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })
}

impl Element<'_> {
    /// Of whom it is, where it is not the last.
    fn is_by(&self, proxy: Option<&str>) -> Before {
        match (self.by, proxy) {
            (Given::Once(named), Some(proxy)) if named != proxy => Before::OfOthers,
            (Given::Not, _) | (_, None) => Before::OfOthers,
            // One that has several names may have this one.
            (Given::Once(_) | Given::Again, Some(_)) => Before::OfProxy,
        }
    }
}

impl<'a> Given<'a> {
    fn give(&mut self, value: &'a str) {
        *self = match self {
            Self::Not => Self::Once(value),
            Self::Once(_) | Self::Again => Self::Again,
        };
    }
}

#[cfg(test)]
mod tests;
