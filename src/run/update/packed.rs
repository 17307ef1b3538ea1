//! Items that may be needed once more, in few bytes.

use super::keys::Item;
use crate::decide::update::Class;

/// Keys of one chunk that count as done, one after the other: the line, then each field behind its length and one; a
/// NULL is 0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Packed {
    bytes: Box<[u8]>,
    fields: usize,
}

impl Packed {
    pub(crate) fn of<'i>(items: impl Iterator<Item = &'i Item>) -> Self {
        let (mut bytes, mut fields) = (Vec::new(), 0);
        for item in items {
            fields = item.fields.len();
            number(&mut bytes, item.line);
            for field in &item.fields {
                let Some(text) = field else {
                    number(&mut bytes, 0);
                    continue;
                };
                number(&mut bytes, text.len() as u64 + 1);
                bytes.extend_from_slice(text.as_bytes());
            }
        }
        Self { bytes: bytes.into(), fields }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn items(&self) -> Vec<Item> {
        let mut rest = &*self.bytes;
        let mut items = Vec::new();
        while !rest.is_empty() {
            let line = read(&mut rest);
            let fields = (0..self.fields).map(|_| {
                let length = usize::try_from(read(&mut rest)).ok()?.checked_sub(1)?;
                let (text, more) = rest.split_at_checked(length)?;
                rest = more;
                Some(String::from_utf8_lossy(text).into())
            });
            items.push(Item::new(line, fields.collect()));
        }
        items
    }
}

/// Seven bits a byte, the lowest first.
fn number(bytes: &mut Vec<u8>, mut number: u64) {
    while number > 0x7F {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn read(rest: &mut &[u8]) -> u64 {
    let (mut number, mut shift) = (0, 0);
    while let Some((&byte, more)) = rest.split_first() {
        *rest = more;
        number |= u64::from(byte & 0x7F) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    number
}

/// The items of a chunk that count as done: what was changed, or found changed.
pub(crate) fn done<'c, T>(items: &'c [T], classes: &'c [Class]) -> impl Iterator<Item = (&'c T, Class)> {
    let both = items.iter().zip(classes.iter().copied());
    both.filter(|(_, class)| matches!(class, Class::Updated | Class::Already))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_packed_comes_out_again(
            items in proptest::collection::vec((any::<u64>(), proptest::option::of(".{0,300}"), ".{0,3}"), 0..20),
        ) {
            let items: Vec<Item> = items
                .into_iter()
                .map(|(line, one, two)| Item::new(line, [one.map(Into::into), Some(two.into())].into()))
                .collect();
            prop_assert_eq!(Packed::of(items.iter()).items(), items);
        }
    }
}
