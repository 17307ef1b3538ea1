//! Who else is at work on the server: transactions that we have left, and other clients. And how its life ends.

use super::Tape;
use super::world::{Due, Record, Tx, Value, World};

impl World {
    /// The client is gone, and the server has not noticed yet.
    pub(super) fn leave(&mut self, due: Due) {
        let Some(tx) = self.own.take() else { return };
        if std::mem::take(&mut self.own_failed) {
            return;
        }
        if due == Due::Waits {
            self.log_commit(tx, true, true);
        }
        self.orphans.push((tx, due));
    }

    /// An orphan comes to its end: by itself, or since it is terminated.
    fn end(&mut self, place: usize, is_terminated: bool) {
        let (tx, due) = self.orphans.remove(place);
        match due {
            Due::Leaves => {}
            Due::Commits { .. } if is_terminated => {}
            Due::Commits { waits } => {
                self.log_commit(tx, waits, false);
                self.show(tx);
            }
            Due::Waits => {
                self.standby = if self.is_synchronous { self.flushed } else { self.standby };
                self.show(tx);
            }
        }
    }

    /// Whoever has the row locked comes to an end before another has it.
    pub(super) fn release(&mut self, key: usize) {
        while let Some(place) = self.orphans.iter().position(|(tx, _)| self.has_locked(*tx, key)) {
            self.end(place, false);
        }
    }

    pub(super) fn has_locked(&self, tx: usize, key: usize) -> bool {
        self.txs[tx].sets.iter().any(|(set, _)| *set == key) || self.txs[tx].locks.contains(&key)
    }

    /// A new session ends the old one, where that has not left by itself. One that waits for the standby stays.
    pub(super) fn end_remnant(&mut self, tape: &mut Tape) {
        for place in (0..self.orphans.len()).rev() {
            match tape.one_of("ends", 120, &["terminated", "stays"]) {
                "ends" => self.end(place, false),
                "terminated" if self.orphans[place].1 != Due::Waits => self.end(place, true),
                _ => {}
            }
        }
    }

    pub(super) fn settle_orphans(&mut self) {
        while !self.orphans.is_empty() {
            self.end(0, false);
        }
    }

    /// Others go on: ids are used, rows are set, the log is flushed and travels.
    pub(super) fn go_on(&mut self, may_be_lazy: bool, tape: &mut Tape) {
        match tape.one_of("rest", 90, &["work", "set", "done", "flushed", "streamed", "ended"]) {
            "flushed" => self.flushed = self.log.len(),
            "streamed" => self.standby = self.flushed,
            "ended" if !self.orphans.is_empty() => self.end(0, false),
            what @ ("work" | "set" | "done") => {
                tape.say("another's", what);
                let key = usize::from(tape.byte()) % self.rows.len();
                let value = if what == "set" { Value::Other } else { Value::New };
                let busy = self.orphans.iter().map(|(tx, _)| *tx).chain(self.own).chain(self.parked);
                let is_locked = busy.into_iter().any(|tx| self.has_locked(tx, key));
                let may_set = what != "work" && self.table[key].is_some() && !is_locked;
                let sets = if may_set { vec![(key, value)] } else { Vec::new() };
                self.others[key] |= may_set;
                let tx = self.txs.len();
                self.txs.push(Tx { id: Some(self.next_id), sets, ..Tx::default() });
                self.next_id += 1;
                self.log.push(Record::Work(tx));
                self.log_commit(tx, !may_be_lazy, false);
                self.show(tx);
            }
            _ => {}
        }
    }

    // --- The ends of a server's life ----------------------------------------------------------------------------------

    pub(super) fn crash(&mut self, tape: &mut Tape) {
        let keep = self.flushed + usize::from(tape.byte()) % (self.log.len() - self.flushed + 1);
        self.recover(keep);
        self.streamed = false;
    }

    /// The standby takes over.
    pub(super) fn fail_over(&mut self, tape: &mut Tape) {
        let keep =
            self.standby + usize::from(tape.byte()) % (self.flushed.max(self.standby) - self.standby + 1);
        self.timeline += 1;
        self.failovers += 1;
        self.recover(keep);
        self.streamed = true;
    }

    fn recover(&mut self, keep: usize) {
        self.log.truncate(keep);
        self.standby = self.standby.min(keep);
        self.recovered = Some(self.at());
        let ids = self.log.iter().filter_map(|record| match record {
            Record::Work(tx) | Record::Commit(tx) => self.txs[*tx].id,
            Record::Other => None,
        });
        self.next_id = ids.max().map_or(700, |id| id + 1);
        self.start();
    }

    /// It is shut down in order, and started again.
    pub(super) fn restart(&mut self) {
        self.recovered = None;
        self.streamed = false;
        self.start();
    }

    fn start(&mut self) {
        self.life += 1;
        self.roll_back();
        self.parked = None;
        self.orphans.clear();
        self.log.push(Record::Other);
        self.flushed = self.log.len();
        let Self { table, .. } = Self::new(&self.rows, false);
        self.table = table;
        for tx in self.commits().collect::<Vec<_>>() {
            self.show(tx);
        }
    }
}
