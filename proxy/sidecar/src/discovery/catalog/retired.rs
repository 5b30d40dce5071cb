//! Last answers for names that nobody has used for a while, as bytes: no longer kept up to date, and better than nothing
//! when there is no control plane to ask.

use std::collections::{BTreeMap, VecDeque};

use outrigger_core::model::ServiceName;

use crate::discovery::last_known_good::{Item, MAX_NAMES};

/// All of it, bytes: a workload that once talked to everybody must not carry them all along.
const MAX_BYTES: usize = 4 << 20;

/// The answers, each a service and its endpoint sets.
#[derive(Debug, Default)]
pub(super) struct Retired {
    answers: BTreeMap<ServiceName, Vec<Item>>,
    /// Those given up first come first.
    order: VecDeque<ServiceName>,
    bytes: usize,
}

impl Retired {
    /// Adds the answer for `name`; the oldest go when there are too many.
    pub(super) fn put(&mut self, name: ServiceName, items: Vec<Item>) {
        self.take(&name);
        self.bytes += items.iter().map(Item::bytes).sum::<usize>();
        self.order.push_back(name.clone());
        self.answers.insert(name, items);
        while self.order.len() > MAX_NAMES || self.bytes > MAX_BYTES {
            let Some(oldest) = self.order.front().cloned() else { return };
            self.take(&oldest);
        }
    }

    /// Takes the answer for `name` out.
    pub(super) fn take(&mut self, name: &ServiceName) -> Option<Vec<Item>> {
        let items = self.answers.remove(name)?;
        self.bytes -= items.iter().map(Item::bytes).sum::<usize>();
        self.order.retain(|other| other != name);
        Some(items)
    }

    /// All of them, those given up last first.
    pub(super) fn newest_first(&self) -> impl Iterator<Item = &Vec<Item>> {
        self.order.iter().rev().filter_map(|name| self.answers.get(name))
    }
}

#[cfg(test)]
mod tests {
    use outrigger_proto::type_url;

    use super::*;
    use crate::discovery::last_known_good::Raw;

    fn name(number: usize) -> ServiceName {
        format!("demo/s{number}").parse().unwrap()
    }

    fn answer(number: usize, bytes: usize) -> Vec<Item> {
        let raw = Raw { version: "1".into(), content: vec![0; bytes].into() };
        vec![Item::new(type_url::SERVICE, name(number).to_string().into(), &raw)]
    }

    fn names(retired: &Retired) -> Vec<String> {
        retired.newest_first().map(|items| items[0].name.to_string()).collect()
    }

    #[test]
    fn the_newest_come_first_and_one_that_is_taken_is_gone() {
        let mut retired = Retired::default();
        for number in [1, 2, 3, 1] {
            retired.put(name(number), answer(number, 10));
        }
        assert_eq!(names(&retired), ["demo/s1", "demo/s3", "demo/s2"]);
        assert!(retired.take(&name(3)).is_some());
        assert!(retired.take(&name(3)).is_none());
        assert_eq!(names(&retired), ["demo/s1", "demo/s2"]);
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many_or_too_large_ones() {
        let mut retired = Retired::default();
        for number in 0..=MAX_NAMES {
            retired.put(name(number), answer(number, 10));
        }
        assert_eq!(retired.answers.len(), MAX_NAMES);
        assert!(!names(&retired).contains(&"demo/s0".to_owned()));
        retired.put(name(0), answer(0, MAX_BYTES - 1000));
        assert!(retired.bytes <= MAX_BYTES && names(&retired)[0] == "demo/s0");
        // One that is larger than all may be drives everything out, itself included.
        retired.put(name(1), answer(1, MAX_BYTES));
        assert_eq!((retired.answers.len(), retired.bytes), (0, 0));
    }
}
