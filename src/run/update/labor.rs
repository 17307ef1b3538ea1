//! What is done with a chunk inside its transaction: the table's statements, or the caller's closure.

use std::marker::PhantomData;

use futures_util::future::{BoxFuture, join};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::before::unless_stopped;
use super::claims::Claims;
use super::keys::Item;
use super::packed::{Packed, done};
use crate::decide::chunk::Class;
use crate::decide::chunk::blame::Blame;
use crate::decide::chunk::course::Replay;
use crate::decide::chunk::gather::{Gathered, Twin, gather};
use crate::error::Source;
use crate::pg::Failure;
use crate::pg::update::{Answer, BEGIN_CLAIM, Claim, Key, Mark, Prepared, Statements, Which, Whole};

/// Work on chunks of items. A driver knows nothing else of it.
pub(crate) trait Labor {
    type Item;
    /// What a session keeps from chunk to chunk.
    type Desk;
    /// Items that may be needed once more.
    type Kept;

    /// Whom a failure without a SQLSTATE is to be blamed on.
    const OWN_FAILURE: Blame;

    /// What becomes of a chunk whose fate cannot be learned: whether it may be worked on once more.
    fn replay(&self) -> Replay;

    /// Whether many chunks may be flushed at once. A crash may take them back then, and they are worked on again: also
    /// where others have changed their rows meanwhile, that must change no row twice.
    fn may_be_lazy(&self) -> bool;

    /// Readies a new session.
    async fn prepare(&self, client: &Client) -> Result<Self::Desk, Failure>;

    /// Sorts the items of a chunk and sets duplicates apart.
    fn gather(&self, items: Vec<Self::Item>) -> Gathered<Self::Item>;

    /// Opens a transaction and works on the items. Leaves the transaction open, whatever comes of it.
    async fn work(&self, client: &Client, desk: &Self::Desk, items: &[Self::Item])
    -> Result<Answer, Failure>;

    /// What updates all items or none, where chunks may go [ahead](super::worker) with it.
    fn whole<'a>(&'a self, desk: &'a Self::Desk) -> Option<(&'a Whole, &'a Statements)>;

    /// Opens a transaction, takes items that nobody else has, takes them on, and works on them. Only where keys are
    /// [claimed](super::feed::Feed::claims). `None` when the run is stopped before any were had.
    async fn claim(
        &self,
        client: &Client,
        desk: &Self::Desk,
        ask: Ask<'_, Self::Item>,
        claims: &Claims,
        stop: &CancellationToken,
    ) -> Result<Option<Taken<Self::Item>>, Failure>;

    /// A key that is still to be updated, whoever has it; none of those given up. Only where keys are claimed.
    async fn left(
        &self,
        client: &Client,
        desk: &Self::Desk,
        given_up: &[Key],
    ) -> Result<Option<Key>, Failure>;

    /// Keeps the items that count as done, and says how many bytes they take. `None` where nothing is done.
    fn keep(&self, items: Vec<Self::Item>, classes: &[Class]) -> Option<(Self::Kept, usize)>;

    /// The same items.
    fn restore(&self, kept: Self::Kept) -> Vec<Self::Item>;

    /// What the spans' summary is made of.
    fn sql(&self) -> &str;

    /// What may be the cause of keys without a row, given the first of them, and whether there are no others.
    fn hint(&self, item: &Item, all: bool) -> Option<String>;

    /// The item as reports and files show it; `None` where it has no text.
    fn show<'a>(&self, item: &'a Self::Item) -> Option<&'a Item>;
}

/// Items that were had, and what the work on them came to.
pub(crate) type Taken<T> = (Vec<T>, Result<Answer, Failure>);

/// Which items to claim.
#[derive(Debug)]
pub(crate) enum Ask<'a, T> {
    /// At most so many that nobody else has.
    Free(u32),
    /// One; fails (55P03) where somebody has it.
    Unlocked,
    /// One; waits for whoever has it.
    WaitedFor,
    /// These, had before, as far as they are still to be updated; waits for whoever has them.
    Again(&'a [T]),
}

/// Updates of one table.
#[expect(clippy::struct_excessive_bools, reason = "facts of the table and options, each by itself")]
pub(crate) struct TableUpdate {
    pub(crate) statements: Statements,
    pub(crate) keys: usize,
    pub(crate) dry: bool,
    pub(crate) replay: Replay,
    pub(crate) may_be_lazy: bool,
    /// Whether chunks may be committed before they are answered for.
    pub(crate) may_go_ahead: bool,
    /// The query to claim from.
    pub(crate) claims: Option<String>,
    /// Whether row-level security may hide rows.
    pub(crate) hides_rows: bool,
}

pub(crate) struct TableDesk {
    prepared: Prepared,
    whole: Option<Whole>,
    claim: Option<Claim>,
}

impl TableUpdate {
    /// The statements, prepared. How the session plans them is not settled by that.
    pub(super) async fn desk(&self, client: &Client) -> Result<TableDesk, Failure> {
        let prepared = Prepared::new(client, &self.statements, self.dry).await?;
        let whole = if self.may_go_ahead { Whole::new(client, &self.statements).await? } else { None };
        let claim = match &self.claims {
            Some(query) => Some(Claim::new(client, &self.statements, query).await?),
            None => None,
        };
        Ok(TableDesk { prepared, whole, claim })
    }

    /// Fails where a row would be claimed again after its update, and so for ever.
    async fn check_done(
        &self,
        client: &Client,
        claim: &Claim,
        items: &[Item],
        answer: &Answer,
    ) -> Result<(), Failure> {
        let updated = items.iter().zip(&answer.classes).filter(|(_, class)| **class == Class::Updated);
        let updated: Vec<Key> = updated.map(|(item, _)| item.fields[..self.keys].to_vec()).collect();
        let left = claim.take(client, &self.statements, Which::Again(&updated)).await?;
        let Some(fields) = left.first() else { return Ok(()) };
        Err(Failure::client(format!(
            "{} would be claimed again after its update; have the query, or expect, leave out what is done",
            spelled(&fields[..self.keys])
        )))
    }
}

/// A key for people.
pub(crate) fn spelled(key: &[Option<Box<str>>]) -> String {
    key.iter().map(|field| field.as_deref().unwrap_or("NULL")).collect::<Vec<_>>().join(",")
}

impl Labor for TableUpdate {
    type Item = Item;
    type Desk = TableDesk;
    type Kept = Packed;

    /// An answer that makes no sense.
    const OWN_FAILURE: Blame = Blame::Run;

    fn replay(&self) -> Replay {
        self.replay
    }

    fn may_be_lazy(&self) -> bool {
        self.may_be_lazy
    }

    async fn prepare(&self, client: &Client) -> Result<TableDesk, Failure> {
        self.statements.settle(client).await?;
        self.desk(client).await
    }

    fn gather(&self, items: Vec<Item>) -> Gathered<Item> {
        let refused = |item: &Item| item.contradicts || item.has_null_key(self.keys);
        let (refused, items) = items.into_iter().partition::<Vec<_>, _>(refused);
        let mut gathered = gather(items, |item| &item.fields[..self.keys], |a, b| a.fields == b.fields);
        // Those that contradict have their first ones in another chunk, perhaps; a NULL has none.
        let twins = refused.into_iter().map(|item| Twin { item, of: 0, contradicts: true });
        gathered.twins.extend(twins);
        gathered
    }

    async fn work(&self, client: &Client, desk: &TableDesk, items: &[Item]) -> Result<Answer, Failure> {
        let rows: Vec<_> = items.iter().map(|item| &*item.fields).collect();
        desk.prepared.work(client, &self.statements, &rows).await
    }

    fn whole<'a>(&'a self, desk: &'a TableDesk) -> Option<(&'a Whole, &'a Statements)> {
        desk.whole.as_ref().map(|whole| (whole, &self.statements))
    }

    async fn claim(
        &self,
        client: &Client,
        desk: &TableDesk,
        ask: Ask<'_, Item>,
        claims: &Claims,
        stop: &CancellationToken,
    ) -> Result<Option<Taken<Item>>, Failure> {
        let claim = desk.claim.as_ref().ok_or_else(|| Failure::client("nothing to claim from"))?;
        let key = |item: &Item| item.fields[..self.keys].to_vec();
        let again = matches!(ask, Ask::Again(_));
        let keys: Vec<Key> = match ask {
            Ask::Again(items) => items.iter().map(key).collect(),
            _ => claims.left_out(),
        };
        let which = match ask {
            Ask::Free(size) => Which::Free(size, &keys),
            Ask::Unlocked => Which::Unlocked(&keys),
            Ask::WaitedFor => Which::WaitedFor(&keys),
            Ask::Again(_) => Which::Again(&keys),
        };
        let taken = claim.take(client, &self.statements, which);
        let taken = async {
            let (began, taken) = join(client.batch_execute(BEGIN_CLAIM), taken).await;
            began.map_err(Failure::from).and(taken)
        };
        // A lock on a row or on the table may keep it waiting. What was had is worked on to the end.
        let Some(taken) = unless_stopped(stop, taken).await? else { return Ok(None) };
        let items = taken.into_iter().map(|fields| Item::new(0, fields)).collect();
        // A query that joins may yield a row twice.
        let mut items = self.gather(items).items;
        items.retain(|item| again || claims.take_on(&item.fields[..self.keys]));
        if items.is_empty() {
            return Ok(Some((items, Ok(Answer { mark: Mark::default(), classes: Vec::new() }))));
        }
        let rows: Vec<_> = items.iter().map(|item| &*item.fields).collect();
        let answer = match desk.prepared.work_inside(client, &self.statements, &rows).await {
            Ok(answer) => self.check_done(client, claim, &items, &answer).await.map(|()| answer),
            Err(failure) => Err(failure),
        };
        Ok(Some((items, answer)))
    }

    async fn left(
        &self,
        client: &Client,
        desk: &TableDesk,
        given_up: &[Key],
    ) -> Result<Option<Key>, Failure> {
        let claim = desk.claim.as_ref().ok_or_else(|| Failure::client("nothing to claim from"))?;
        let left = claim.take(client, &self.statements, Which::Left(given_up)).await?;
        Ok(left.first().map(|fields| fields[..self.keys].to_vec()))
    }

    fn keep(&self, items: Vec<Item>, classes: &[Class]) -> Option<(Packed, usize)> {
        if self.dry {
            return None;
        }
        let packed = Packed::of(done(&items, classes).map(|(item, _)| item));
        let bytes = packed.len();
        (bytes > 0).then_some((packed, bytes))
    }

    fn restore(&self, kept: Packed) -> Vec<Item> {
        kept.items()
    }

    fn sql(&self) -> &str {
        &self.statements.judge
    }

    fn hint(&self, item: &Item, all: bool) -> Option<String> {
        let Statements { inputs, parts, .. } = &self.statements;
        if self.hides_rows {
            return Some(format!(
                "row-level security is in force for this role on {}: rows that its policies hide count as missing",
                parts.table
            ));
        }
        let line = if item.line > 0 { format!(" (line {})", item.line) } else { String::new() };
        let (columns, key) = (inputs[..self.keys].join(","), spelled(&item.fields[..self.keys]));
        if !all && item.line == 1 && inputs.len() == 1 && key.starts_with(char::is_alphabetic) {
            return Some(format!("`{key}` was taken for a key; if it is a header, it has to be {columns}"));
        }
        all.then(|| format!("no row of {} has any of the keys, such as {columns} = {key}{line}", parts.table))
    }

    fn show<'a>(&self, item: &'a Item) -> Option<&'a Item> {
        Some(item)
    }
}

/// What an item of the caller's may take, where it does not say.
const ITEM: usize = 64;

/// The caller's closure.
pub(crate) struct Closure<F, T, E> {
    pub(crate) work: F,
    pub(crate) replay: Replay,
    pub(crate) types: PhantomData<fn() -> (T, E)>,
}

impl<F, T, E> Labor for Closure<F, T, E>
where
    F: for<'a> Fn(&'a Client, &'a [T]) -> BoxFuture<'a, Result<(), E>>,
    E: Into<Source>,
{
    type Item = T;
    /// Whether the role may write a mark.
    type Desk = bool;
    type Kept = Vec<T>;

    /// The closure does not want these items.
    const OWN_FAILURE: Blame = Blame::Keys;

    fn replay(&self) -> Replay {
        self.replay
    }

    /// It has traces outside of its transaction.
    fn may_be_lazy(&self) -> bool {
        false
    }

    async fn prepare(&self, client: &Client) -> Result<bool, Failure> {
        Mark::may_write(client).await
    }

    fn gather(&self, items: Vec<T>) -> Gathered<T> {
        Gathered { items, twins: Vec::new() }
    }

    async fn work(&self, client: &Client, may_mark: &bool, items: &[T]) -> Result<Answer, Failure> {
        client.batch_execute("BEGIN").await?;
        (self.work)(client, items).await.map_err(|error| Failure::from(error.into()))?;
        // Also where it seems to have written nothing: a notification is made by COMMIT. And it finds a transaction that a
        // swallowed error has aborted.
        let mark = Mark::make(client, *may_mark).await?;
        Ok(Answer { mark, classes: vec![Class::Updated; items.len()] })
    }

    /// It may do anything, and its traces outside of the transaction stay.
    fn whole<'a>(&'a self, _desk: &'a bool) -> Option<(&'a Whole, &'a Statements)> {
        None
    }

    async fn claim(
        &self,
        _client: &Client,
        _desk: &bool,
        _ask: Ask<'_, T>,
        _claims: &Claims,
        _stop: &CancellationToken,
    ) -> Result<Option<Taken<T>>, Failure> {
        Err(Failure::client("a closure's items cannot be claimed"))
    }

    async fn left(&self, _client: &Client, _desk: &bool, _given_up: &[Key]) -> Result<Option<Key>, Failure> {
        Ok(None)
    }

    fn keep(&self, items: Vec<T>, _classes: &[Class]) -> Option<(Vec<T>, usize)> {
        let bytes = items.len() * size_of::<T>().max(ITEM);
        Some((items, bytes))
    }

    fn restore(&self, kept: Vec<T>) -> Vec<T> {
        kept
    }

    fn sql(&self) -> &'static str {
        ""
    }

    fn hint(&self, _item: &Item, _all: bool) -> Option<String> {
        None
    }

    fn show<'a>(&self, _item: &'a T) -> Option<&'a Item> {
        None
    }
}
