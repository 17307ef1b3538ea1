//! From keys to a chunk: sorted, and none twice.
//!
//! Sorted, because two transactions that lock the same rows in the same order cannot deadlock. None
//! twice, because a statement that meets a row twice changes it once, with whichever value comes
//! first. A second line of the same key in one chunk is a [`Twin`] and takes its class from the first,
//! as if it had come later; one that asks for another value contradicts it and is refused.
//!
//! Duplicates further apart than a chunk meet on the server: the second finds the new value (`already`), or not the
//! expected one (`stale`). Whoever knows that one contradicts another of an earlier chunk makes it a twin, too.

use super::Class;

/// A key that occurred before in its chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Twin<T> {
    /// The later item.
    pub item: T,
    /// The place of the first one among the chunk's items; no matter where that is in another chunk.
    pub of: usize,
    /// Whether it asks for something else than the first one.
    pub contradicts: bool,
}

/// The items of a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gathered<T> {
    /// Sorted by key, each key once.
    pub items: Vec<T>,
    /// The others.
    pub twins: Vec<Twin<T>>,
}

/// Sorts items by what `key` says and sets twins apart. The first of equals stays.
pub fn gather<T: PartialEq, K: Ord + ?Sized>(
    mut items: Vec<T>,
    key: impl Fn(&T) -> &K,
    same: impl Fn(&T, &T) -> bool,
) -> Gathered<T> {
    items.sort_by(|a, b| key(a).cmp(key(b)));
    let doubled = items.windows(2).any(|pair| key(&pair[0]) == key(&pair[1]));
    if !doubled {
        return Gathered { items, twins: Vec::new() };
    }
    let mut gathered: Gathered<T> = Gathered { items: Vec::with_capacity(items.len()), twins: Vec::new() };
    for item in items {
        match gathered.items.last() {
            Some(first) if key(first) == key(&item) => {
                let contradicts = !same(first, &item);
                gathered.twins.push(Twin { item, of: gathered.items.len() - 1, contradicts });
            }
            _ => gathered.items.push(item),
        }
    }
    gathered
}

impl<T> Twin<T> {
    /// Its class, given that of the first.
    #[must_use]
    pub const fn class(&self, first: Class) -> Class {
        match first {
            _ if self.contradicts => Class::Failed,
            Class::Updated => Class::Already,
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(items: &[(&'static str, u32)]) -> Gathered<(&'static str, u32)> {
        gather(items.to_vec(), |item| item.0, |a, b| a.1 == b.1)
    }

    #[test]
    fn a_second_line_of_a_key_finds_what_the_first_left() {
        let gathered = check(&[("b", 1), ("a", 1), ("b", 1)]);
        assert_eq!(gathered.items, [("a", 1), ("b", 1)]);
        assert_eq!(gathered.twins, [Twin { item: ("b", 1), of: 1, contradicts: false }]);
        assert_eq!(gathered.twins[0].class(Class::Updated), Class::Already);
        assert_eq!(gathered.twins[0].class(Class::Stale), Class::Stale);
        assert_eq!(gathered.twins[0].class(Class::Missing), Class::Missing);
    }

    #[test]
    fn a_line_that_contradicts_the_first_is_refused() {
        let gathered = check(&[("a", 1), ("a", 2)]);
        assert_eq!(gathered.twins[0].class(Class::Updated), Class::Failed);
    }

    proptest! {
        #[test]
        fn no_item_is_lost_and_no_key_is_there_twice(keys in proptest::collection::vec(0u8..20, 0..50)) {
            let gathered = gather(keys.clone(), |key| key, |_, _| true);
            prop_assert_eq!(gathered.items.len() + gathered.twins.len(), keys.len());
            prop_assert!(gathered.items.is_sorted_by(|a, b| a < b));
            prop_assert!(gathered.twins.iter().all(|twin| gathered.items[twin.of] == twin.item));
        }
    }
}
