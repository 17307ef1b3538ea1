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

use super::INTEGERS;

/// So many keys, in some 45 MB.
pub(super) const REMEMBERED: usize = 1_000_000;
/// `uuid` (`pg_type.dat`).
const UUID: u32 = 2950;
/// `numeric`.
const NUMERIC: u32 = 1700;
/// `char(n)`, whose trailing spaces do not count.
const BPCHAR: u32 = 1042;

/// Fingerprints of keys and of the values that go with them.
pub(super) struct Seen {
    key_types: Vec<u32>,
    most: usize,
    hasher: RandomState,
    values: HashMap<u64, u64>,
    order: VecDeque<u64>,
}

impl Seen {
    pub(super) fn new(key_types: Vec<u32>, most: usize) -> Self {
        let (hasher, values, order) = (RandomState::new(), HashMap::new(), VecDeque::new());
        Self { key_types, most, hasher, values, order }
    }

    pub(super) fn contradicts(&mut self, fields: &[Option<Box<str>>]) -> bool {
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
        NUMERIC => decimal(text).unwrap_or_else(|| text.to_owned()),
        BPCHAR => text.trim_end_matches(' ').to_owned(),
        _ if INTEGERS.contains(&key_type) => {
            integer(text).map_or_else(|| text.to_owned(), |number| number.to_string())
        }
        _ => text.to_owned(),
    }
}

/// As the server reads it; since 16 also `0x7`, `0o7`, `0b111` and `1_000` (manual, "Numeric Constants").
fn integer(text: &str) -> Option<i64> {
    let text = text.trim();
    let (sign, digits) = match text.strip_prefix(['-', '+']) {
        Some(digits) => (&text[..1], digits),
        None => ("", text),
    };
    let digits = digits.replace('_', "").to_ascii_lowercase();
    let (radix, digits) = match digits.get(..2) {
        Some("0x") => (16, &digits[2..]),
        Some("0o") => (8, &digits[2..]),
        Some("0b") => (2, &digits[2..]),
        _ => (10, &*digits),
    };
    i64::from_str_radix(&format!("{sign}{digits}"), radix).ok()
}

/// A number without the zeros that change nothing: `7.50` and `07.5`. `None` for other spellings (`7.5e0`).
fn decimal(text: &str) -> Option<String> {
    let text = text.trim();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if (whole.is_empty() && fraction.is_empty())
        || !(whole.chars().chain(fraction.chars())).all(|c| c.is_ascii_digit())
    {
        return None;
    }
    let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
    let sign = if whole.is_empty() && fraction.is_empty() { "" } else { sign };
    Some(format!("{sign}{whole}.{fraction}"))
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
    fn spellings_of_one_key_are_one_key() {
        for (key_type, spellings) in [
            (20, &["7", "+7", " 007 ", "0x7", "0X07", "0o7", "0b111", "0b1_11"][..]),
            (20, &["-1000", "-1_000", "-0x3e8"]),
            (NUMERIC, &["7.5", "07.50", "+7.5", " 7.500"]),
            (NUMERIC, &["0", "-0", "0.0", ".0", "-0.00"]),
            (BPCHAR, &["ab", "ab ", "ab   "]),
        ] {
            let mut seen = Seen::new(vec![key_type], 10);
            check(&mut seen, &[Some(spellings[0]), Some("x")], false);
            for spelling in &spellings[1..] {
                check(&mut seen, &[Some(spelling), Some("y")], true);
            }
        }
        let mut seen = Seen::new(vec![NUMERIC], 10);
        for other in ["7.5", "75", "-7.5", "0.75", "7.5e1", "NaN", "", "."] {
            check(&mut seen, &[Some(other), Some(other)], false);
        }
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
