//! What a watch has shown. One that is opened again hears of things once more: of the last revision that no bookmark
//! closed, or, when it has to start over, of everything that there is.

use std::collections::{BTreeMap, BTreeSet};

use outrigger_core::model::ObjectRef;

/// Which objects, and in which revision.
#[derive(Debug, Default)]
pub(super) struct Shown {
    /// Those that are there, as far as was shown.
    objects: BTreeMap<ObjectRef, u64>,
    /// While everything that there is comes: those of `objects` that have not come.
    awaited: Option<BTreeSet<ObjectRef>>,
    /// All that there was at the first beginning was shown.
    begun: bool,
}

impl Shown {
    /// From here to the next bookmark comes everything that there is.
    pub(super) fn begin(&mut self) {
        self.awaited = Some(self.objects.keys().cloned().collect());
    }

    /// What to call it that an object is there, changed at `revision`; `None`: that was shown.
    pub(super) fn put(&mut self, object: &ObjectRef, revision: u64) -> Option<&'static str> {
        if let Some(awaited) = &mut self.awaited {
            awaited.remove(object);
        }
        match self.objects.insert(object.clone(), revision) {
            Some(shown) if shown == revision => None,
            None if !self.begun => Some("there"),
            _ => Some("changed"),
        }
    }

    /// Whether that an object is gone is news: only what was shown can go.
    pub(super) fn deleted(&mut self, object: &ObjectRef) -> bool {
        self.objects.remove(object).is_some()
    }

    /// Closes a revision or a beginning. Returns what has gone unnoticed: it was shown, and is not among what there is.
    pub(super) fn bookmark(&mut self) -> Vec<ObjectRef> {
        self.begun = true;
        let gone = self.awaited.take().unwrap_or_default();
        gone.into_iter().filter(|gone| self.objects.remove(gone).is_some()).collect()
    }
}

#[cfg(test)]
mod tests {
    use outrigger_core::model::{Kind, ObjectRef};

    use super::Shown;

    fn object(name: &str) -> ObjectRef {
        let namespace = Some("demo".parse().unwrap());
        ObjectRef { kind: Kind::Service, namespace, name: name.parse().unwrap() }
    }

    #[test]
    fn a_watch_that_goes_on_shows_nothing_twice() {
        let (price, cart) = (object("price"), object("cart"));
        let mut shown = Shown::default();
        shown.begin();
        assert_eq!(shown.put(&price, 3), Some("there"));
        // Broken in its beginning, and begun anew.
        shown.begin();
        assert_eq!((shown.put(&price, 3), shown.put(&cart, 2)), (None, Some("there")));
        assert!(shown.bookmark().is_empty());
        assert_eq!((shown.put(&price, 5), shown.deleted(&cart)), (Some("changed"), true));
        // Broken before the bookmark of 5.
        assert_eq!((shown.put(&price, 5), shown.deleted(&cart)), (None, false));
        assert!(shown.bookmark().is_empty());
    }

    #[test]
    fn a_watch_that_starts_over_shows_what_changed_meanwhile_and_what_went() {
        let (price, cart, user) = (object("price"), object("cart"), object("user"));
        let mut shown = Shown::default();
        shown.begin();
        for (object, revision) in [(&price, 3), (&cart, 2)] {
            shown.put(object, revision);
        }
        shown.bookmark();
        shown.begin();
        assert_eq!((shown.put(&price, 3), shown.put(&user, 8)), (None, Some("changed")));
        assert_eq!(shown.bookmark(), [cart]);
        assert!(shown.bookmark().is_empty(), "once");
    }
}
