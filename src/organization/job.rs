//! Job grants: that a job runs for an organization, and which workers do it.

use std::time::{Duration, SystemTime};

use spiffe::SpiffeId;

use super::{OrganizationId, Purpose, Resource};
use crate::malformed::Malformed;

/// How long a job grant may run at most.
pub const LIFE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Most job grants of one organization at a time.
pub const GRANTS_MAX: usize = 64;

/// Names a job grant. The same for the same request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobGrantId(pub [u8; 16]);

/// What a scheduler says of a job that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobGrant {
    /// Its id.
    pub id: JobGrantId,
    /// Whose data the job is about.
    pub organization: OrganizationId,
    /// The scheduler's name for the job.
    pub job_id: JobId,
    /// Who does it.
    pub workers: Workers,
    /// The APIs that it needs; SharePoint is every host of the organization.
    pub resources: Vec<Resource>,
    /// What it is.
    pub purpose: Purpose,
    /// When it was told of.
    pub create_time: SystemTime,
    /// When it ends, if nobody ends it before.
    pub end_time: SystemTime,
}

/// A scheduler's name for a job: 1 to 64 letters, digits, `-`, `_` and `.`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct JobId(Box<str>);

/// One worker, or all whose ids are below a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Workers {
    /// This one.
    One(SpiffeId),
    /// All below. Ends with `/`.
    Below(Box<str>),
}

impl JobId {
    /// Parses it.
    ///
    /// # Errors
    /// [`Malformed`] for anything else.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let fits = (1..=64).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        fits.then(|| Self(text.into())).ok_or(Malformed(
            "must be 1 to 64 letters, digits, `-`, `_` and `.`",
        ))
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Workers {
    /// Parses a SPIFFE ID, or the beginning of one that ends in `/*` and has a path.
    ///
    /// # Errors
    /// [`Malformed`] for anything else.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        const WRONG: Malformed = Malformed(
            "must be the SPIFFE ID of a worker, or one that ends in `/*` for all below its path",
        );
        let (path, below) = match text.strip_suffix("/*") {
            Some(path) => (path, true),
            None => (text, false),
        };
        let id = SpiffeId::new(path).map_err(|_| WRONG)?;
        // A whole trust domain does not run a job.
        if id.path().is_empty() || id.to_string() != path || path.len() > 2046 {
            return Err(WRONG);
        }
        Ok(if below {
            Self::Below(format!("{path}/").into())
        } else {
            Self::One(id)
        })
    }

    /// Whether a worker is one of them.
    #[must_use]
    pub fn include(&self, worker: &SpiffeId, name: &str) -> bool {
        match self {
            Self::One(id) => id == worker,
            Self::Below(path) => name.starts_with(&**path),
        }
    }

    /// As it was parsed.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::One(id) => id.to_string(),
            Self::Below(path) => format!("{path}*"),
        }
    }
}

impl JobGrant {
    /// Whether it covers a token for one of its workers.
    #[must_use]
    pub fn covers(&self, resource: &Resource, purpose: Option<Purpose>) -> bool {
        let named = |own: &Resource| own.name() == resource.name();
        self.resources.iter().any(named) && purpose.is_none_or(|purpose| purpose == self.purpose)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_one_or_all_below_a_path_and_never_a_whole_trust_domain() {
        let includes = |pattern: &str, worker: &str| {
            let id = SpiffeId::new(worker).expect("an id");
            let workers = Workers::parse(pattern).expect("a pattern");
            assert_eq!(workers.text(), pattern);
            workers.include(&id, worker)
        };
        assert!(includes("spiffe://a.test/w/1", "spiffe://a.test/w/1"));
        assert!(!includes("spiffe://a.test/w/1", "spiffe://a.test/w/12"));
        assert!(includes("spiffe://a.test/w/*", "spiffe://a.test/w/12"));
        assert!(!includes("spiffe://a.test/w/*", "spiffe://a.test/w"));
        assert!(!includes("spiffe://a.test/w/*", "spiffe://a.test/wx/1"));
        for wrong in [
            "",
            "*",
            "/*",
            "spiffe://a.test",
            "spiffe://a.test/*",
            "spiffe://a.test/w*",
            "spiffe://a.test/w/",
            "https://a.test/w",
            "spiffe://a.test/w/*/*",
            "spiffe://a.test//*",
        ] {
            assert!(Workers::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_job_id_is_of_few_characters() {
        for good in ["1", "Job-2026.11_25", &"a".repeat(64)] {
            assert_eq!(JobId::parse(good).expect("an id").as_str(), good);
        }
        for wrong in ["", "a b", "a/b", "\u{e9}", &"a".repeat(65)] {
            assert!(JobId::parse(wrong).is_err(), "{wrong}");
        }
    }
}
