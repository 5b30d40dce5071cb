//! Which endpoints a request was sent to.

/// Most attempts of one request: the first, and ten retries.
const CAPACITY: usize = 11;

/// The endpoints that a request was sent to, by index. It allocates nothing; an index beyond its capacity, which no
/// policy reaches, is not kept.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tried {
    indices: [usize; CAPACITY],
    len: usize,
}

impl Tried {
    /// None yet.
    pub const fn new() -> Self {
        Self { indices: [0; CAPACITY], len: 0 }
    }

    /// Remembers one.
    pub fn insert(&mut self, index: usize) {
        if self.contains(index) {
            return;
        }
        if let Some(place) = self.indices.get_mut(self.len) {
            *place = index;
            self.len += 1;
        }
    }

    /// Whether the request was sent there.
    pub fn contains(&self, index: usize) -> bool {
        self.indices.iter().take(self.len).any(|tried| *tried == index)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_set_of_up_to_eleven(indices in proptest::collection::vec(0..14_usize, 0..20)) {
            let mut tried = Tried::new();
            let mut model = BTreeSet::new();
            for index in indices {
                tried.insert(index);
                if model.len() < CAPACITY {
                    model.insert(index);
                }
                prop_assert_eq!(tried.len(), model.len());
                prop_assert_eq!(tried.is_empty(), model.is_empty());
                prop_assert!((0..14).all(|index| tried.contains(index) == model.contains(&index)));
            }
        }
    }
}
