//! Keys that occur again with other values.
//!
//! Which of two values is meant nobody can know, and whichever is written last would stay, without a word. So the first
//! one counts, and the later one fails, wherever in the input it is: within a chunk, where a statement meets a row once,
//! and chunks apart. That takes memory for every key, so it is bounded: the latest [`REMEMBERED`] keys are remembered.
//! Of two lines further apart, the later one finds what the first has left: not the expected value, or, where nothing is
//! expected, its row to overwrite.
//!
//! Only values of their own can contradict each other: where all keys get the same, there is nothing to remember.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};

use futures_util::StreamExt;

use super::super::item_source::Items;
use super::{INTEGERS, Item, Wanted};

/// So many keys, in some 45 MB.
const REMEMBERED: usize = 1_000_000;
/// `uuid` (`pg_type.dat`).
const UUID: u32 = 2950;

/// The same items, those marked that contradict one before.
pub(in crate::run::update) fn marked(items: Items<Item>, wanted: &Wanted) -> Items<Item> {
    if wanted.inputs.len() <= wanted.key_types.len() {
        return items;
    }
    let mut seen = Seen::new(wanted.key_types.clone(), REMEMBERED);
    Box::pin(items.map(move |item| {
        let mut item = item?;
        item.contradicts = seen.contradicts(&item.fields);
        Ok(item)
    }))
}

/// Fingerprints of keys and of the values that go with them.
struct Seen {
    key_types: Vec<u32>,
    most: usize,
    hasher: RandomState,
    values: HashMap<u64, u64>,
    order: VecDeque<u64>,
}

impl Seen {
    fn new(key_types: Vec<u32>, most: usize) -> Self {
        let (hasher, values, order) = (RandomState::new(), HashMap::new(), VecDeque::new());
        Self { key_types, most, hasher, values, order }
    }

    fn contradicts(&mut self, fields: &[Option<Box<str>>]) -> bool {
        let (key, values) = fields.split_at(self.key_types.len().min(fields.len()));
        let key: Vec<_> = key
            .iter()
            .zip(&self.key_types)
            .map(|(field, key_type)| field.as_deref().map(|text| canonical(text, *key_type)))
            .collect();
        let (key, values) = (self.hasher.hash_one(key), self.hasher.hash_one(values));
        if let Some(first) = self.values.get(&key) {
            return *first != values;
        }
        if self.order.len() >= self.most
            && let Some(oldest) = self.order.pop_front()
        {
            self.values.remove(&oldest);
        }
        self.values.insert(key, values);
        self.order.push_back(key);
        false
    }
}

/// One text for each value, where a type has many and they are easily told: `7` and `007`.
fn canonical(text: &str, key_type: u32) -> String {
    match key_type {
        UUID => text.chars().filter(char::is_ascii_hexdigit).collect::<String>().to_ascii_lowercase(),
        _ if INTEGERS.contains(&key_type) => {
            text.trim().parse::<i64>().map_or_else(|_| text.to_owned(), |number| number.to_string())
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(seen: &mut Seen, fields: &[Option<&str>], expected: bool) {
        let fields: Vec<Option<Box<str>>> = fields.iter().map(|field| field.map(Into::into)).collect();
        assert_eq!(seen.contradicts(&fields), expected, "{fields:?}");
    }

    #[test]
    fn a_key_that_comes_again_with_other_values_contradicts_the_first() {
        let mut seen = Seen::new(vec![20, 25], 10);
        check(&mut seen, &[Some("7"), Some("a"), Some("x"), None], false);
        check(&mut seen, &[Some("7"), Some("a"), Some("x"), None], false);
        check(&mut seen, &[Some(" 007"), Some("a"), Some("x"), Some("")], true);
        check(&mut seen, &[Some("+7"), Some("a"), Some("x"), None], false);
        check(&mut seen, &[Some("7"), Some("A"), Some("y"), None], false);
        check(&mut seen, &[Some("7"), None, Some("z"), None], false);
        let mut seen = Seen::new(vec![UUID], 10);
        check(&mut seen, &[Some("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"), Some("x")], false);
        check(&mut seen, &[Some("{A0EEBC999C0B4EF8BB6D6BB9BD380A11}"), Some("y")], true);
    }

    #[test]
    fn so_many_keys_are_remembered_and_no_more() {
        let mut seen = Seen::new(vec![25], 3);
        for key in ["a", "b", "c"] {
            check(&mut seen, &[Some(key), Some("1")], false);
        }
        check(&mut seen, &[Some("a"), Some("2")], true);
        check(&mut seen, &[Some("d"), Some("1")], false);
        check(&mut seen, &[Some("a"), Some("2")], false);
        assert_eq!((seen.values.len(), seen.order.len()), (3, 3));
    }
}
