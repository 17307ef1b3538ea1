//! Items that are not even worked on. Each fails alone, with its reason.

use futures_util::StreamExt;

use super::super::item_source::Items;
use super::repeats::{REMEMBERED, Seen};
use super::{Item, Wanted};

/// Why an item is not worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// A column of its key is NULL: no row has that key.
    NullKey,
    /// A value is a time that depends on when it is read. Where an attempt may have taken effect, the next one would
    /// not find its value in the row, and change that again.
    OtherTime,
    /// The same key came before with other values.
    Contradicts,
}

impl Refused {
    /// As a SQLSTATE (`null_value_not_allowed`, `invalid_datetime_format`, `cardinality_violation`) and in words.
    pub(crate) const fn why(self) -> (&'static str, &'static str) {
        match self {
            Self::NullKey => (
                "22004",
                "a column of the key is NULL, which no row equals; in a file, an empty field is NULL, and \"\" is an empty text",
            ),
            Self::OtherTime => (
                "22007",
                "now, today, tomorrow or yesterday is another time at each attempt: write the time itself",
            ),
            Self::Contradicts => ("21000", "the same key occurs before with other values"),
        }
    }
}

/// The same items, those marked that are not to be worked on.
pub(in crate::run::update) fn marked(items: Items<Item>, wanted: &Wanted) -> Items<Item> {
    let (keys, times) = (wanted.key_types.len(), wanted.times.clone());
    // Only values of their own can contradict each other.
    let mut seen = (wanted.inputs.len() > keys).then(|| Seen::new(wanted.key_types.clone(), REMEMBERED));
    Box::pin(items.map(move |item| {
        let mut item = item?;
        item.refused = if item.fields.iter().take(keys).any(Option::is_none) {
            Some(Refused::NullKey)
        } else if holds_other_time(&item.fields, &times) {
            Some(Refused::OtherTime)
        } else if seen.as_mut().is_some_and(|seen| seen.contradicts(&item.fields)) {
            Some(Refused::Contradicts)
        } else {
            None
        };
        Ok(item)
    }))
}

/// Whether a value at one of these places is another time whenever it is read (manual, "Date/Time Special Values").
pub(crate) fn holds_other_time(fields: &[Option<Box<str>>], places: &[usize]) -> bool {
    let mut values = places.iter().filter_map(|place| fields.get(*place)?.as_deref());
    values.any(|value| {
        // The server ends a word there, too, whatever it stands in: an array, a range, a row.
        let mut words = value.split(|c: char| !c.is_ascii_alphabetic());
        words.any(|word| {
            ["now", "today", "tomorrow", "yesterday"].iter().any(|time| word.eq_ignore_ascii_case(time))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_for_another_time_is_found_wherever_it_stands() {
        let holds = |value: &str| holds_other_time(&[None, Some(value.into())], &[0, 1]);
        for value in [
            "now",
            " NoW ",
            "today12:00",
            "tomorrow allballs",
            "{2024-01-01,yesterday}",
            "[now,)",
            "(1,\"now\")",
        ] {
            assert!(holds(value), "{value}");
        }
        for value in ["", "infinity", "epoch", "2024-01-01 12:00 UTC", "snow", "nowhere", "{}", "[,)"] {
            assert!(!holds(value), "{value}");
        }
        assert!(!holds_other_time(&[Some("now".into())], &[]), "a text");
    }
}
