//! A map that knows what has changed in it of late, and can go back: what a response does is undone without
//! a copy of all that is held.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::ops::Deref;

/// A map that goes back to how it was when it was marked last. What that takes, and what is kept for it, grows with
/// what has changed since, and not with what there is.
#[derive(Clone, Debug)]
pub struct Reversible<K, V> {
    present: BTreeMap<K, V>,
    /// Of each key that was touched since the mark, what was there then.
    before: BTreeMap<K, Option<V>>,
}

impl<K: Clone + Ord, V: PartialEq> Reversible<K, V> {
    /// From now on, how it is now is how it was before.
    pub fn mark(&mut self) {
        self.before.clear();
    }

    /// False when this was there already.
    pub fn set(&mut self, key: K, value: V) -> bool {
        if self.present.get(&key) == Some(&value) {
            return false;
        }
        let last = self.present.insert(key.clone(), value);
        self.before.entry(key).or_insert(last);
        true
    }

    /// False when there was nothing.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        let Some((key, last)) = self.present.remove_entry(key) else {
            return false;
        };
        self.before.entry(key).or_insert(Some(last));
        true
    }

    /// Becomes what it was at the mark. What has changed since then is told still, the other way round.
    pub fn go_back(&mut self) {
        for (key, before) in &mut self.before {
            *before = match before.take() {
                Some(value) => self.present.insert(key.clone(), value),
                None => self.present.remove(key),
            };
        }
    }

    /// Every key that was touched since the mark, with what was there then.
    pub fn changed(&self) -> impl Iterator<Item = (&K, Option<&V>)> {
        self.before.iter().map(|(key, before)| (key, before.as_ref()))
    }
}

impl<K, V> Default for Reversible<K, V> {
    fn default() -> Self {
        Self {
            present: BTreeMap::new(),
            before: BTreeMap::new(),
        }
    }
}

impl<K, V> Deref for Reversible<K, V> {
    type Target = BTreeMap<K, V>;

    fn deref(&self) -> &Self::Target {
        &self.present
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Set(u8, u8),
        Remove(u8),
        Mark,
        GoBack,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..8_u8, 0..3_u8).prop_map(|(key, value)| Step::Set(key, value)),
            3 => (0..8_u8).prop_map(Step::Remove),
            1 => Just(Step::Mark),
            1 => Just(Step::GoBack),
        ]
    }

    proptest! {
        #[test]
        fn going_back_is_as_good_as_a_copy(steps in prop::collection::vec(step(), 0..60)) {
            let (mut map, mut copy) = (Reversible::default(), BTreeMap::new());
            for step in steps {
                match step {
                    Step::Set(key, value) => {
                        let is_news = map.get(&key) != Some(&value);
                        prop_assert_eq!(map.set(key, value), is_news);
                    }
                    Step::Remove(key) => {
                        let is_there = map.contains_key(&key);
                        prop_assert_eq!(map.remove(&key), is_there);
                    }
                    Step::Mark => {
                        map.mark();
                        copy.clone_from(&map);
                    }
                    Step::GoBack => {
                        let tried = std::mem::replace(&mut copy, BTreeMap::clone(&map));
                        map.go_back();
                        prop_assert_eq!(&*map, &tried);
                    }
                }
                let mut told = copy.clone();
                for (key, before) in map.changed() {
                    prop_assert_eq!(copy.get(key), before);
                    match map.get(key) {
                        Some(present) => told.insert(*key, *present),
                        None => told.remove(key),
                    };
                }
                prop_assert_eq!(&*map, &told, "nothing else has changed");
            }
        }
    }
}
