//! Claims where another server takes over: a row that this process has counted there may be had once more.

use std::sync::Arc;
use std::time::Duration;

use crate::decide::update::Class;
use crate::decide::update::action::{Action, Answer, Ask, Fact, Fed, Moment, Report, Session};
use crate::decide::update::chunk::Chunk;
use crate::decide::update::life::{Life, LifeId, Mark};
use crate::decide::update::replay::Replay;
use crate::decide::update::resolver::Status;
use crate::decide::update::shared::Shared;
use crate::decide::update::survival::{History, Lsn};
use crate::decide::update::worker::{Settings, Worker};

use super::line::LOST;
use super::world::{Row, Value};
use super::{Item, Kind, Rows, Setup};

const ROW: Item = Item { line: 0, key: 0 };

fn settings() -> Settings {
    let rows = vec![Row::Holds(Value::Old)];
    let (kind, size, max_attempts, workers) = (Kind::Claims, 1, 3, 2);
    let items = vec![ROW];
    let (is_synchronous, is_blind, is_ahead) = (false, true, false);
    Setup { kind, rows, items, size, max_attempts, workers, is_synchronous, is_blind, is_ahead }.settings()
}

/// Two workers of one run.
struct Pair<'a> {
    workers: [Worker<'a, Rows>; 2],
    shared: Shared<Rows>,
    rows: &'a Rows,
    now: Duration,
    lent: Option<Box<Chunk<Rows>>>,
    counted: i32,
}

impl<'a> Pair<'a> {
    fn new(rows: &'a Rows, settings: &'a Settings) -> Self {
        let workers = [Worker::new(rows, settings), Worker::new(rows, settings)];
        Self { workers, shared: Shared::new(true), rows, now: Duration::ZERO, lent: None, counted: 0 }
    }

    /// What it sends then.
    fn tell(&mut self, at: usize, fact: Fact<Rows>) -> String {
        let moment = Moment { now: self.now, draw: 0.5, is_cut: false };
        self.workers[at].on(fact, moment, &mut self.shared);
        let mut sent = Vec::new();
        while let Some(action) = self.workers[at].next_action() {
            sent.push(match action {
                Action::Feed { .. } => self.tell(at, Fact::Fed(Fed::Claim)),
                Action::Connect { .. } => "connect".to_owned(),
                Action::Claim(Ask::Free(_, others)) => format!("claim all but {others:?}"),
                Action::Claim(_) => "claim".to_owned(),
                Action::SendWork(chunk, _) => {
                    self.lent = Some(chunk);
                    "work".to_owned()
                }
                Action::SendCommit { .. } => "commit".to_owned(),
                Action::RollBack => "roll back".to_owned(),
                Action::AskFate(_) => "ask".to_owned(),
                Action::Report(Report::Count(chunk)) => {
                    self.counted += 1;
                    self.shared.keep(self.rows, *chunk);
                    continue;
                }
                Action::Report(Report::Uncount { .. }) => {
                    self.counted -= 1;
                    continue;
                }
                _ => continue,
            });
        }
        sent.retain(|sent| !sent.is_empty());
        sent.join(", ")
    }

    /// Has a session in that life of the server. After the first a standby has taken over that has the commits.
    fn connect(&mut self, at: usize, number: u32) -> String {
        let (timeline, log) = (Some(number), Some(Lsn(u64::from(number) * 100)));
        let streamed = number > 1;
        let recovered = log.filter(|_| streamed);
        let history = History { system: Some(1), timeline, recovered, streamed, at: log };
        let life = Life { id: LifeId { started: i64::from(number), own: Vec::new() }, history };
        self.tell(
            at,
            Fact::Connected(Session {
                life: Arc::new(life),
                replay: Replay::Safe,
                may_mark: true,
                has_standby: false,
                is_lazy: false,
                may_go_ahead: false,
            }),
        )
    }

    fn worked(&mut self, at: usize, class: Class) -> String {
        let chunk = self.lent.take().expect("work was sent");
        let mark = Mark { xid: Some(700), written: Some(Lsn(150)) };
        self.tell(at, Fact::Worked(chunk, Ok(Answer::Told(mark, vec![class]))))
    }

    /// The first has claimed the row and worked on it; its COMMIT is on its way.
    fn first_commits(&mut self) {
        assert_eq!(self.tell(0, Fact::Tick), "connect");
        assert_eq!(self.tell(1, Fact::Tick), "connect");
        assert_eq!(self.connect(0, 1), "claim all but []");
        assert_eq!(self.tell(0, Fact::Claimed(None, Ok(vec![ROW]))), "work");
        assert_eq!(self.worked(0, Class::Updated), "commit, claim all but []");
    }
}

#[test]
fn nobody_claims_while_another_worker_asks_what_became_of_what_was_counted() {
    let (rows, settings) = (Rows::default(), settings());
    let mut pair = Pair::new(&rows, &settings);
    pair.first_commits();
    assert_eq!(pair.tell(0, Fact::Committed(Ok(true))), "");
    assert_eq!(pair.counted, 1);
    assert_eq!(pair.tell(0, Fact::Claimed(None, Err(LOST))), "connect");
    assert_eq!(pair.connect(0, 2), "ask");
    assert_eq!(pair.connect(1, 2), "", "the row may be free here, and is counted");
    assert_eq!(pair.tell(0, Fact::Fates(Ok(vec![Status::Unknown]))), "");
    assert_eq!(pair.counted, 0);
    pair.now = pair.workers[0].wakes_at().expect("a pause after the loss");
    assert_eq!(pair.tell(0, Fact::Tick), "work");
    pair.now = pair.workers[1].wakes_at().expect("it looks again");
    assert_eq!(pair.tell(1, Fact::Tick), "claim all but [0]");
    assert_eq!(pair.worked(0, Class::Updated), "commit, claim all but [0]");
    assert_eq!(pair.tell(0, Fact::Committed(Ok(true))), "");
    assert_eq!(pair.counted, 1);
}

#[test]
fn rows_that_are_had_before_a_commit_elsewhere_is_counted_are_let_go() {
    let (rows, settings) = (Rows::default(), settings());
    let mut pair = Pair::new(&rows, &settings);
    pair.first_commits();
    assert_eq!(pair.connect(1, 2), "claim all but []", "nothing is counted yet");
    assert_eq!(pair.tell(0, Fact::Committed(Ok(true))), "");
    assert_eq!(pair.counted, 1);
    assert_eq!(pair.tell(1, Fact::Claimed(None, Ok(vec![ROW]))), "roll back");
    assert_eq!(pair.tell(1, Fact::RolledBack(Ok(()))), "ask");
    assert_eq!(pair.tell(1, Fact::Fates(Ok(vec![Status::Unknown]))), "work");
    assert_eq!(pair.counted, 0);
}
