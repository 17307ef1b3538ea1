//! A server with its table, its log and its standby.
//!
//! The table is what the commits in the log have made of it. A crash cuts the log off, somewhere behind what is on the
//! disk; a failover cuts it off where the standby has got to. What is behind the cut is gone, and an id that was given
//! out there is given out again.

use crate::decide::update::Class;
use crate::decide::update::resolver::Status;
use crate::decide::update::survival::{History, Lsn};

use super::Kind;

/// What a row holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value {
    /// What is expected.
    Old,
    /// What is to be set.
    New,
    Other,
}

/// A row as it is at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Row {
    Holds(Value),
    Missing,
    /// Work on it fails, with this code.
    Poisoned(&'static str),
}

/// A transaction, by a number of its own: ids are given out again.
#[derive(Debug, Clone, Default)]
pub(super) struct Tx {
    pub(super) id: Option<u64>,
    /// Rows that it has locked without changing them.
    pub(super) locks: Vec<usize>,
    /// Rows that it changes.
    pub(super) sets: Vec<(usize, Value)>,
    /// Lines of the input that its work was done for: what is not repeatable is done with them.
    pub(super) effects: Vec<usize>,
    /// The lines whose rows it has changed.
    pub(super) changed: Vec<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Record {
    Work(usize),
    Commit(usize),
    Other,
}

/// How a transaction goes on whose client is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// The backend notices, and rolls back.
    Leaves,
    /// COMMIT has arrived.
    Commits { waits: bool },
    /// Its commit is in the log and waits for the standby: nobody sees it yet.
    Waits,
}

/// What the server says of a chunk's work.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) id: Option<u64>,
    pub(super) written: Option<Lsn>,
    pub(super) classes: Vec<Class>,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) rows: Vec<Row>,
    pub(super) table: Vec<Option<Value>>,
    pub(super) txs: Vec<Tx>,
    pub(super) log: Vec<Record>,
    pub(super) flushed: usize,
    pub(super) standby: usize,
    /// Whether commits that wait, wait for the standby.
    pub(super) is_synchronous: bool,
    pub(super) next_id: u64,
    /// In progress, by whom the client has left.
    pub(super) orphans: Vec<(usize, Due)>,
    /// In progress in our session.
    pub(super) own: Option<usize>,
    /// It has failed, and is to be rolled back.
    pub(super) own_failed: bool,
    /// In progress in the session of another worker.
    pub(super) parked: Option<usize>,
    pub(super) life: u32,
    pub(super) failovers: u32,
    pub(super) timeline: u32,
    pub(super) recovered: Option<Lsn>,
    pub(super) streamed: bool,
    /// Whether somebody else has set the row, whatever it holds now.
    pub(super) others: Vec<bool>,
}

impl World {
    pub(super) fn new(rows: &[Row], is_synchronous: bool) -> Self {
        let table = rows.iter().map(|row| match row {
            Row::Holds(value) => Some(*value),
            Row::Missing => None,
            Row::Poisoned(_) => Some(Value::Old),
        });
        Self {
            rows: rows.to_vec(),
            table: table.collect(),
            txs: Vec::new(),
            log: vec![Record::Other],
            flushed: 1,
            standby: 1,
            is_synchronous,
            next_id: 700,
            orphans: Vec::new(),
            own: None,
            own_failed: false,
            parked: None,
            life: 1,
            failovers: 0,
            timeline: 1,
            recovered: None,
            streamed: false,
            others: vec![false; rows.len()],
        }
    }

    pub(super) fn at(&self) -> Lsn {
        Lsn(self.log.len() as u64)
    }

    pub(super) fn history(&self) -> History {
        let Self { timeline, recovered, streamed, .. } = *self;
        History { system: Some(1), timeline: Some(timeline), recovered, streamed, at: Some(self.at()) }
    }

    // --- A session's transaction --------------------------------------------------------------------------------------

    /// BEGIN; inside a transaction only a warning.
    pub(super) fn begin(&mut self) -> Result<(), &'static str> {
        if self.own_failed {
            return Err("25P02");
        }
        if self.own.is_none() {
            self.own = Some(self.txs.len());
            self.txs.push(Tx::default());
        }
        Ok(())
    }

    /// A statement fails, and with it the transaction around it, if there is one.
    pub(super) fn fail(&mut self) {
        self.own_failed = self.own.is_some();
    }

    pub(super) const fn is_failed(&self) -> bool {
        self.own_failed
    }

    pub(super) const fn is_inside(&self) -> bool {
        self.own.is_some()
    }

    /// The transaction is given an id before it has done anything.
    pub(super) fn take_id(&mut self) -> u64 {
        let tx = self.own.expect("inside a transaction");
        let next = &mut self.next_id;
        *self.txs[tx].id.get_or_insert_with(|| {
            *next += 1;
            *next - 1
        })
    }

    /// Work on lines, each with the place of its row. Fails outside of a transaction, and changes nothing then.
    pub(super) fn work(&mut self, kind: Kind, items: &[(usize, usize)]) -> Result<Answer, &'static str> {
        if self.own_failed {
            return Err("25P02");
        }
        let Some(tx) = self.own else { return Err("22P02") };
        let mut classes = Vec::new();
        for &(line, key) in items {
            self.release(key);
            if let Row::Poisoned(code) = self.rows[key] {
                self.fail();
                return Err(code);
            }
            let class = match self.table[key] {
                _ if kind == Kind::Closure => Class::Updated,
                None => Class::Missing,
                Some(Value::Old) => Class::Updated,
                Some(Value::New) => Class::Already,
                Some(Value::Other) => Class::Stale,
            };
            classes.push(class);
            if class == Class::Updated {
                self.txs[tx].changed.push(line);
                self.txs[tx].sets.push((key, Value::New));
            }
            if kind.counts() && class != Class::Missing {
                self.txs[tx].effects.push(line);
            }
        }
        if !self.txs[tx].sets.is_empty() || !self.txs[tx].effects.is_empty() {
            self.take_id();
            self.log.push(Record::Work(tx));
        }
        Ok(Answer { id: self.txs[tx].id, written: Some(self.at()), classes })
    }

    /// COMMIT takes effect.
    pub(super) fn commit(&mut self, waits: bool, is_cancelled: bool) {
        let Some(tx) = self.own.take() else { return };
        // Of a transaction that has failed COMMIT says nothing, and rolls back.
        if std::mem::take(&mut self.own_failed) {
            return;
        }
        self.log_commit(tx, waits, is_cancelled);
        self.show(tx);
    }

    pub(super) fn log_commit(&mut self, tx: usize, waits: bool, is_cancelled: bool) {
        if self.txs[tx].id.is_none() {
            return;
        }
        self.log.push(Record::Commit(tx));
        if waits {
            self.flush(!is_cancelled);
        }
    }

    pub(super) fn show(&mut self, tx: usize) {
        for (key, value) in self.txs[tx].sets.clone() {
            self.table[key] = Some(value);
        }
    }

    pub(super) fn roll_back(&mut self) {
        (self.own, self.own_failed) = (None, false);
    }

    pub(super) fn flush(&mut self, reaches_standby: bool) {
        self.flushed = self.log.len();
        if self.is_synchronous && reaches_standby {
            self.standby = self.flushed;
        }
    }

    /// A mark is written, and all before it is made to last.
    pub(super) fn mark(&mut self, reaches_standby: bool) {
        self.log.push(Record::Other);
        self.flush(reaches_standby);
    }

    // --- Claims -------------------------------------------------------------------------------------------------------

    fn is_eligible(&self, key: usize) -> bool {
        self.table[key] == Some(Value::Old)
    }

    /// Whether some other transaction has the row locked.
    pub(super) fn is_anybodys(&self, key: usize) -> bool {
        self.orphans.iter().any(|(tx, _)| self.has_locked(*tx, key)) || self.is_parked_on(key)
    }

    /// Whether another worker has the row locked.
    pub(super) fn is_parked_on(&self, key: usize) -> bool {
        self.parked.is_some_and(|tx| self.has_locked(tx, key))
    }

    pub(super) fn first_eligible(&self, others: &[usize]) -> Option<usize> {
        (0..self.rows.len()).find(|key| self.is_eligible(*key) && !others.contains(key))
    }

    /// Locks rows that are still to be updated and nobody else has.
    pub(super) fn claim(&mut self, size: usize, which: impl Fn(usize) -> bool) -> Vec<usize> {
        let keys = (0..self.rows.len()).filter(|key| which(*key) && self.is_eligible(*key));
        let keys: Vec<usize> = keys.filter(|key| !self.is_anybodys(*key)).take(size).collect();
        if let Some(tx) = self.own {
            self.txs[tx].locks.extend(&keys);
        }
        keys
    }

    // --- What is to be seen -------------------------------------------------------------------------------------------

    pub(super) fn commits(&self) -> impl DoubleEndedIterator<Item = usize> {
        self.log.iter().filter_map(|record| match record {
            Record::Commit(tx) => Some(*tx),
            _ => None,
        })
    }

    /// `pg_xact_status`.
    pub(super) fn status(&self, id: u64) -> Status {
        let has_id = |tx: usize| self.txs[tx].id == Some(id);
        if self.orphans.iter().any(|(tx, _)| has_id(*tx)) || self.parked.is_some_and(has_id) {
            Status::InProgress
        } else if id >= self.next_id {
            Status::Unknown
        } else if self.commits().any(has_id) {
            Status::Committed
        } else {
            Status::Aborted
        }
    }

    pub(super) fn value(&self, key: usize) -> Option<Value> {
        self.table[key]
    }

    /// How often the work on a line was done, as far as it has survived.
    pub(super) fn effects(&self, line: usize) -> usize {
        self.commits().filter(|tx| self.txs[*tx].effects.contains(&line)).count()
    }

    /// Whether a transaction that has survived has changed the row for the line.
    pub(super) fn has_changed(&self, line: usize) -> bool {
        self.commits().any(|tx| self.txs[tx].changed.contains(&line))
    }
}
