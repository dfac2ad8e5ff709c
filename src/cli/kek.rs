//! KEKs that are to be destroyed, as they are shown.

use serde::Serialize;

use super::value;
use crate::pb::admin::v1::KekToDestroy;

/// A KEK that is to be destroyed, in JSON: the fields of the contract.
#[derive(Debug, Serialize)]
pub(super) struct KekView {
    kek_id: String,
    present: bool,
    organizations: u64,
    since: Option<String>,
}

impl KekView {
    /// What is left to do, in a sentence. `keys` are those that are wrapped under it, where it is known.
    pub(super) fn remedy(&self, keys: Option<u64>) -> String {
        let Self {
            kek_id,
            organizations,
            ..
        } = self;
        let opens = match organizations {
            0 => format!("the KEK {kek_id} was replaced"),
            1 => format!("older copies open for 1 revoked organization under the KEK {kek_id}"),
            more => {
                format!("older copies open for {more} revoked organizations under the KEK {kek_id}")
            }
        };
        let next = match keys {
            _ if self.present => {
                "replace it by a new one; the broker then re-wraps all keys by itself".to_owned()
            }
            Some(0) => "destroy it now, with every copy of it".to_owned(),
            Some(keys) => format!("destroy it once no key is wrapped under it; now {keys} are"),
            None => {
                "destroy it once `store status` counts no key that is wrapped under it".to_owned()
            }
        };
        format!("{opens}: {next}")
    }

    pub(super) fn is_waited_for(&self) -> bool {
        self.organizations > 0
    }

    pub(super) fn id(&self) -> &str {
        &self.kek_id
    }
}

impl From<KekToDestroy> for KekView {
    fn from(kek: KekToDestroy) -> Self {
        Self {
            kek_id: kek.kek_id,
            present: kek.present,
            organizations: kek.organizations,
            since: kek.since.as_ref().map(value::show_time),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remedy(present: bool, organizations: u64, keys: Option<u64>) -> String {
        let kek = KekToDestroy {
            kek_id: "file-1".into(),
            present,
            organizations,
            since: None,
        };
        KekView::from(kek).remedy(keys)
    }

    #[test]
    fn it_is_said_what_is_left_to_do() {
        let of = |present, organizations, keys| remedy(present, organizations, keys);
        assert_eq!(
            of(true, 1, Some(3)),
            "older copies open for 1 revoked organization under the KEK file-1: replace it by a new one; the broker then re-wraps all keys by itself"
        );
        assert!(of(false, 2, Some(3)).ends_with("no key is wrapped under it; now 3 are"));
        assert!(of(false, 2, Some(0)).ends_with("destroy it now, with every copy of it"));
        assert!(of(false, 2, None).contains("`store status`"));
        assert!(of(false, 0, Some(0)).starts_with("the KEK file-1 was replaced"));
    }
}
