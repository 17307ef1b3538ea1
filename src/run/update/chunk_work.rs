//! What is done with a chunk inside its transaction: the table's statements, or the caller's closure.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use futures_util::future::{BoxFuture, join, try_join, try_join3};
use tokio_postgres::Client;
use tracing::Span;

use super::keys::{Item, Refused, holds_other_time};
use super::packed::{Packed, done};
use crate::decide::update::Class;
use crate::decide::update::action::{Answer, Opening};
use crate::decide::update::fault_scope::FaultScope;
use crate::decide::update::gather::{Gathered, Twin, gather};
use crate::decide::update::life::Mark;
use crate::decide::update::material::Material;
use crate::decide::update::replay::Replay;
use crate::error::Source;
use crate::pg::Failure;
use crate::pg::update::{
    BEGIN_CLAIM, Claim, Key, PreparedUpdate, Statements, Which, Whole, Worked, has_triggers,
};

/// How much of a key is shown, in characters.
const LONGEST_SHOWN: usize = 60;

/// Work on chunks of items, inside a transaction. The driver knows nothing else of it.
pub(crate) trait ChunkWork: Material<Key = Key, Failure = Failure, Scope = Option<Span>> {
    /// What a session keeps from chunk to chunk.
    type Prepared;

    /// Whose fault a failure without a SQLSTATE is.
    const OWN_FAILURE: FaultScope;

    /// Whether a chunk whose fate cannot be learned may be worked on once more, asked of each new session. Once it may not,
    /// it never may.
    async fn replay(&self, client: &Client) -> Result<Replay, Failure>;

    /// Whether it changes anything.
    fn writes(&self) -> bool;

    /// Whether many chunks may be flushed at once. A crash may take them back then, and they are worked on again: also
    /// where others have changed their rows meanwhile, that must change no row twice.
    fn may_be_lazy(&self) -> bool;

    /// Readies a new session.
    async fn prepare(&self, client: &Client) -> Result<Self::Prepared, Failure>;

    /// Sorts the items of a chunk and sets duplicates apart.
    fn gather(&self, items: Vec<Self::Item>) -> Gathered<Self::Item>;

    /// Whether there is work that changes all items or none.
    fn goes_ahead(&self, prepared: &Self::Prepared) -> bool;

    /// Opens a transaction; its id, which is answered before any work.
    async fn begin(&self, client: &Client, prepared: &Self::Prepared) -> Result<u64, Failure>;

    /// Works on the items. Leaves the transaction open, whatever comes of it.
    async fn work(
        &self,
        client: &Client,
        prepared: &Self::Prepared,
        items: &[Self::Item],
        opening: Opening,
    ) -> Result<Answer, Failure>;

    /// Opens a transaction and locks the rows of items, each once, in the order of their keys. Only where keys are
    /// [claimed](super::item_source::ItemSource::claims).
    async fn claim(
        &self,
        client: &Client,
        prepared: &Self::Prepared,
        which: Which<'_>,
    ) -> Result<Vec<Self::Item>, Failure>;

    /// What the spans' summary is made of.
    fn sql(&self) -> &str;

    /// What may be the cause of keys without a row, given the first of them, and whether there are no others.
    fn hint(&self, item: &Item, all: bool) -> Option<String>;

    /// The item as reports and files show it; `None` where it has no text.
    fn show<'a>(&self, item: &'a Self::Item) -> Option<&'a Item>;
}

/// Updates of one table.
#[expect(clippy::struct_excessive_bools, reason = "facts of the table and options, each by itself")]
pub(crate) struct TableUpdate {
    pub(crate) statements: Statements,
    pub(crate) keys: usize,
    pub(crate) dry: bool,
    /// Whether any session has seen triggers on the table. They may come while the update runs.
    pub(crate) has_triggers: AtomicBool,
    pub(crate) may_be_lazy: bool,
    /// Whether chunks may be committed before they are answered for.
    pub(crate) may_go_ahead: bool,
    /// The query to claim from.
    pub(crate) claims: Option<String>,
    /// Whether row-level security may hide rows.
    pub(crate) hides_rows: bool,
}

pub(crate) struct PreparedStatements {
    update: PreparedUpdate,
    whole: Option<Whole>,
    claim: Option<Claim>,
}

impl TableUpdate {
    /// The statements, prepared. How the session plans them is not settled by that.
    pub(super) async fn statements(&self, client: &Client) -> Result<PreparedStatements, Failure> {
        let update = PreparedUpdate::new(client, &self.statements, self.dry);
        let whole =
            async { if self.may_go_ahead { Whole::new(client, &self.statements).await } else { Ok(None) } };
        let claim = async {
            match &self.claims {
                Some(query) => Ok(Some(Claim::new(client, &self.statements, query).await?)),
                None => Ok(None),
            }
        };
        let (update, whole, claim) = try_join3(update, whole, claim).await?;
        Ok(PreparedStatements { update, whole, claim })
    }

    /// Fails where a row would be claimed again after its update, and so for ever.
    async fn check_done(
        &self,
        client: &Client,
        claim: &Claim,
        items: &[Item],
        classes: &[Class],
    ) -> Result<(), Failure> {
        let updated = items.iter().zip(classes).filter(|(_, class)| **class == Class::Updated);
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

impl Material for TableUpdate {
    type Item = Item;
    type Key = Key;
    type Kept = Packed;
    type Failure = Failure;
    type Scope = Option<Span>;

    fn keys(&self, items: &[Item]) -> Vec<Key> {
        items.iter().map(|item| item.fields[..self.keys].to_vec()).collect()
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

    fn label(&self, items: &[Item], twins: &[Twin<Item>]) -> Option<Arc<str>> {
        let first = items.first().or_else(|| twins.first().map(|twin| &twin.item))?;
        let key = spelled(&first.fields[..self.keys]);
        let (key, cut) = match key.char_indices().nth(LONGEST_SHOWN) {
            Some((end, _)) => (&key[..end], "..."),
            None => (&*key, ""),
        };
        let line = if first.line > 0 { format!(" (line {})", first.line) } else { String::new() };
        let more = match items.len() + twins.len() {
            0 | 1 => String::new(),
            keys => format!(" and {} more", keys - 1),
        };
        Some(format!("{key}{cut}{line}{more}").into())
    }
}

impl ChunkWork for TableUpdate {
    type Prepared = PreparedStatements;

    /// An answer that makes no sense.
    const OWN_FAILURE: FaultScope = FaultScope::Run;

    async fn replay(&self, client: &Client) -> Result<Replay, Failure> {
        // Who changes nothing does nothing twice.
        if self.dry {
            return Ok(Replay::Safe);
        }
        if !self.has_triggers.load(Relaxed) && has_triggers(client, &self.statements.parts.table).await? {
            self.has_triggers.store(true, Relaxed);
        }
        Ok(if self.has_triggers.load(Relaxed) { Replay::Unsafe } else { Replay::Safe })
    }

    fn writes(&self) -> bool {
        !self.dry
    }

    fn may_be_lazy(&self) -> bool {
        self.may_be_lazy
    }

    async fn prepare(&self, client: &Client) -> Result<PreparedStatements, Failure> {
        // Polled in order: the settings come first.
        let ((), statements) = try_join(self.statements.settle(client), self.statements(client)).await?;
        Ok(statements)
    }

    fn gather(&self, items: Vec<Item>) -> Gathered<Item> {
        let (refused, items) = items.into_iter().partition::<Vec<_>, _>(|item| item.refused.is_some());
        let mut gathered = gather(items, |item| &item.fields[..self.keys], |a, b| a.fields == b.fields);
        // Those that contradict have their first ones in another chunk, perhaps; a NULL has none.
        let twins = refused.into_iter().map(|item| Twin { item, of: 0, contradicts: true });
        gathered.twins.extend(twins);
        gathered
    }

    fn goes_ahead(&self, prepared: &PreparedStatements) -> bool {
        prepared.whole.is_some()
    }

    async fn begin(&self, client: &Client, prepared: &PreparedStatements) -> Result<u64, Failure> {
        whole(prepared)?.begin(client).await
    }

    async fn work(
        &self,
        client: &Client,
        prepared: &PreparedStatements,
        items: &[Item],
        opening: Opening,
    ) -> Result<Answer, Failure> {
        let rows: Vec<_> = items.iter().map(|item| &*item.fields).collect();
        let (update, statements) = (&prepared.update, &self.statements);
        let Worked { mark, classes } = match opening {
            Opening::Whole => {
                return Ok(Answer::Whole(whole(prepared)?.work(client, statements, &rows).await?));
            }
            Opening::Begin => update.work(client, statements, &rows).await?,
            Opening::Inside => {
                let worked = update.work_inside(client, statements, &rows).await?;
                if let Some(claim) = &prepared.claim {
                    self.check_done(client, claim, items, &worked.classes).await?;
                }
                worked
            }
        };
        Ok(Answer::Told(mark, classes))
    }

    async fn claim(
        &self,
        client: &Client,
        prepared: &PreparedStatements,
        which: Which<'_>,
    ) -> Result<Vec<Item>, Failure> {
        let claim = prepared.claim.as_ref().ok_or_else(|| Failure::client("nothing to claim from"))?;
        let taken = claim.take(client, &self.statements, which);
        let taken = if matches!(which, Which::Left(_)) {
            taken.await?
        } else {
            let (began, taken) = join(client.batch_execute(BEGIN_CLAIM), taken).await;
            began?;
            taken?
        };
        if taken.iter().any(|fields| holds_other_time(fields, &self.statements.times)) {
            let (sqlstate, problem) = Refused::OtherTime.why();
            return Err(Failure::found(sqlstate, problem));
        }
        // A query that joins may yield a row twice.
        Ok(self.gather(taken.into_iter().map(|fields| Item::new(0, fields)).collect()).items)
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

/// Whoever goes ahead has asked before.
fn whole(prepared: &PreparedStatements) -> Result<&Whole, Failure> {
    prepared.whole.as_ref().ok_or_else(|| Failure::client("the chunk cannot be updated as a whole"))
}

/// What an item of the caller's may take, where it does not say.
const ITEM: usize = 64;

/// The caller's closure.
pub(crate) struct Closure<F, T, E> {
    pub(crate) work: F,
    pub(crate) replay: Replay,
    pub(crate) types: PhantomData<fn() -> (T, E)>,
}

impl<F, T, E> Material for Closure<F, T, E> {
    type Item = T;
    type Key = Key;
    type Kept = Vec<T>;
    type Failure = Failure;
    type Scope = Option<Span>;

    fn keys(&self, _items: &[T]) -> Vec<Key> {
        Vec::new()
    }

    fn keep(&self, items: Vec<T>, _classes: &[Class]) -> Option<(Vec<T>, usize)> {
        let bytes = items.len() * size_of::<T>().max(ITEM);
        Some((items, bytes))
    }

    fn restore(&self, kept: Vec<T>) -> Vec<T> {
        kept
    }

    fn label(&self, _items: &[T], _twins: &[Twin<T>]) -> Option<Arc<str>> {
        None
    }
}

impl<F, T, E> ChunkWork for Closure<F, T, E>
where
    F: for<'a> Fn(&'a Client, &'a [T]) -> BoxFuture<'a, Result<(), E>>,
    E: Into<Source>,
{
    /// Whether the role may write a mark.
    type Prepared = bool;

    /// The closure does not want these items.
    const OWN_FAILURE: FaultScope = FaultScope::Keys;

    async fn replay(&self, _client: &Client) -> Result<Replay, Failure> {
        Ok(self.replay)
    }

    fn writes(&self) -> bool {
        true
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

    /// It may do anything, and its traces outside of the transaction stay.
    fn goes_ahead(&self, _may_mark: &bool) -> bool {
        false
    }

    async fn begin(&self, _client: &Client, _may_mark: &bool) -> Result<u64, Failure> {
        Err(Failure::client("a closure does not go ahead"))
    }

    async fn work(
        &self,
        client: &Client,
        may_mark: &bool,
        items: &[T],
        _opening: Opening,
    ) -> Result<Answer, Failure> {
        client.batch_execute("BEGIN").await?;
        (self.work)(client, items).await.map_err(|error| Failure::from(error.into()))?;
        // Also where it seems to have written nothing: a notification is made by COMMIT. And it finds a transaction that a
        // swallowed error has aborted.
        let mark = Mark::make(client, *may_mark).await?;
        Ok(Answer::Told(mark, vec![Class::Updated; items.len()]))
    }

    async fn claim(&self, _client: &Client, _may_mark: &bool, _which: Which<'_>) -> Result<Vec<T>, Failure> {
        Err(Failure::client("a closure's items cannot be claimed"))
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
