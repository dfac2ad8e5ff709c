//! Who has which label, in memory: policies ask on every call, when no record is opened.
//!
//! It is kept by label, not by organization. So an organization that a caller's labels do not name is
//! looked for, and not found, exactly as one that does not exist: time tells nobody which it is.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    OrganizationId,
    label::{Label, Labelled, Labels},
};

/// The organizations of each label. Holds sixteen entries for each organization at most.
#[derive(Debug, Default)]
pub struct LabelIndex {
    /// Lock-free to read.
    members: papaya::HashMap<Label, Arc<papaya::HashSet<OrganizationId>>>,
    /// What each organization has, for whoever changes it: one at a time. Those that once had labels stay.
    known: Mutex<HashMap<OrganizationId, Known>>,
}

#[derive(Debug, Default)]
struct Known {
    /// Of the organization when it got them.
    revision: u64,
    labels: Labels,
}

impl LabelIndex {
    /// Takes down the labels that an organization has since a revision, also that it has none any more.
    /// What is told late, of an older revision than was told before, counts no more.
    pub fn set(&self, organization: &OrganizationId, revision: u64, labels: &Labels) {
        let mut known = self.lock();
        let known = match known.entry(organization.clone()) {
            Entry::Vacant(new) => new.insert(Known::default()),
            Entry::Occupied(known) if known.get().revision > revision => return,
            Entry::Occupied(known) => known.into_mut(),
        };
        self.replace(organization, &known.labels, labels);
        known.revision = revision;
        known.labels = labels.clone();
    }

    /// A change to these labels may have been made or not: until it is known, only those count that the
    /// organization has either way.
    pub fn doubt(&self, organization: &OrganizationId, labels: &Labels) {
        if let Some(known) = self.lock().get_mut(organization) {
            let both = known.labels.iter().filter(|label| labels.contains(label));
            let both = Labels::new(both.cloned()).unwrap_or_default();
            self.replace(organization, &known.labels, &both);
            known.labels = both;
        }
    }

    /// Organizations that have labels.
    #[must_use]
    pub fn len(&self) -> usize {
        let known = self.lock();
        known
            .values()
            .filter(|known| !known.labels.is_empty())
            .count()
    }

    /// Whether no organization has any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn replace(&self, organization: &OrganizationId, old: &Labels, new: &Labels) {
        let members = self.members.pin();
        for label in old.iter().filter(|label| !new.contains(label)) {
            let Some(set) = members.get(label) else {
                continue;
            };
            let set = set.pin();
            set.remove(organization);
            // Nobody adds to it meanwhile: changes come one at a time.
            if set.is_empty() {
                members.remove(label);
            }
        }
        for label in new.iter().filter(|label| !old.contains(label)) {
            let set = members.get_or_insert_with(label.clone(), Arc::default);
            set.pin().insert(organization.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<OrganizationId, Known>> {
        // Nothing that can panic happens under the lock.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Labelled for LabelIndex {
    fn has(&self, organization: &OrganizationId, label: &Label) -> bool {
        let members = self.members.pin();
        let set = members.get(label);
        set.is_some_and(|set| set.pin().contains(organization))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(texts: &[&str]) -> Labels {
        let labels = texts
            .iter()
            .map(|text| Label::parse(text).expect("a label"));
        Labels::new(labels).expect("few")
    }

    fn has(index: &LabelIndex, id: &str, label: &str) -> bool {
        let id = OrganizationId::parse(id).expect("an id");
        index.has(&id, &Label::parse(label).expect("a label"))
    }

    #[test]
    fn labels_are_those_of_the_latest_revision_whatever_is_told_last() {
        let index = LabelIndex::default();
        let id = OrganizationId::parse("contoso").expect("an id");
        assert!(!has(&index, "contoso", "a=1"));
        index.set(&id, 1, &labels(&["a=1", "b=1"]));
        assert!(has(&index, "contoso", "a=1") && has(&index, "contoso", "b=1"));
        assert!(!has(&index, "contoso", "a=2") && !has(&index, "fabrikam", "a=1"));
        index.set(&id, 3, &labels(&["a=2"]));
        index.set(&id, 2, &labels(&["a=1"]));
        assert!(has(&index, "contoso", "a=2") && !has(&index, "contoso", "a=1"));
        assert!(!has(&index, "contoso", "b=1"));
        assert_eq!(index.members.pin().len(), 1, "what nobody has is gone");
        index.set(&id, 4, &Labels::default());
        index.set(&id, 3, &labels(&["a=2"]));
        assert!(index.is_empty() && index.members.pin().is_empty());
        let id = OrganizationId::parse("fabrikam").expect("an id");
        index.set(&id, 2, &Labels::default());
        index.set(&id, 1, &labels(&["a=1"]));
        assert!(index.is_empty(), "the first change was told last");
    }

    #[test]
    fn in_doubt_only_what_is_sure_counts() {
        let index = LabelIndex::default();
        let id = OrganizationId::parse("contoso").expect("an id");
        index.doubt(&id, &labels(&["a=1"]));
        assert!(index.is_empty());
        index.set(&id, 1, &labels(&["a=1", "b=1"]));
        index.doubt(&id, &labels(&["b=1", "c=1"]));
        assert!(has(&index, "contoso", "b=1"));
        assert!(!has(&index, "contoso", "a=1") && !has(&index, "contoso", "c=1"));
    }
}
