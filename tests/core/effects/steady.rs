//! What travels when nothing goes wrong: which messages, in which order, and what is sent before what is heard.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::decide::update::Class;
use crate::decide::update::action::{Action, Answer, Fact, Fed, Flush, Moment, Opening, Session};
use crate::decide::update::chunk::Chunk;
use crate::decide::update::gather::Gathered;
use crate::decide::update::life::{Life, LifeId, Mark};
use crate::decide::update::replay::Replay;
use crate::decide::update::shared::Shared;
use crate::decide::update::survival::History;
use crate::decide::update::worker::Worker;

use super::line::Line;
use super::world::{Row, Value};
use super::{Item, Kind, Rows, Setup, Tape, Told, play};

fn setup(kind: Kind, size: u32, is_ahead: bool) -> Setup {
    let items = (0..12).map(|line| Item { line, key: line }).collect();
    Setup {
        kind,
        rows: vec![Row::Holds(Value::Old); 12],
        items,
        size,
        max_attempts: 3,
        workers: 1,
        is_synchronous: false,
        is_blind: false,
        is_ahead,
    }
}

#[test]
fn a_quiet_history_does_all_of_it() {
    for kind in [Kind::Lazy, Kind::Waiting, Kind::Trigger, Kind::Closure, Kind::Claims] {
        for (size, is_ahead) in [(1, false), (5, false), (1, true), (5, true)] {
            let setup = setup(kind, size, is_ahead);
            let line = Line::new(&setup, Tape { bytes: Vec::new(), story: None });
            let (books, line) = play(&setup, &Rows::default(), line);
            let all = vec![Some(Told::Counted(Class::Updated)); 12];
            assert_eq!((books.told, books.left), (all, 0), "{kind:?}, {size} a chunk, ahead: {is_ahead}");
            assert!((0..12).all(|key| line.world.value(key) == Some(Value::New)));
        }
    }
}

/// A worker on a line that answers when it is told to.
struct Wire<'a> {
    worker: Worker<'a, Rows>,
    shared: Shared<Rows>,
    life: Arc<Life>,
    lent: VecDeque<Box<Chunk<Rows>>>,
    chunks: usize,
}

impl<'a> Wire<'a> {
    fn tell(&mut self, fact: Fact<Rows>) -> String {
        let moment = Moment { now: Duration::ZERO, draw: 0.5, is_cut: false };
        self.worker.on(fact, moment, &mut self.shared);
        let mut sent = Vec::new();
        while let Some(action) = self.worker.next_action() {
            if matches!(action, Action::Done) {
                let is_told = sent.last().is_some_and(|last: &String| last == "done");
                sent.extend((!is_told).then(|| "done".to_owned()));
                break;
            }
            let feeds = matches!(action, Action::Feed { .. });
            sent.extend(self.carry_out(action));
            if feeds {
                let size = usize::from(self.chunks > 0);
                self.chunks -= size;
                let items = (0..size).map(|line| Item { line, key: line }).collect();
                let fed =
                    if size == 0 { Fed::End } else { Fed::Items(Gathered { items, twins: Vec::new() }) };
                sent.extend(Some(self.tell(Fact::Fed(fed))).filter(|more| !more.is_empty()));
            }
        }
        sent.join(", ")
    }

    fn carry_out(&mut self, action: Action<Rows>) -> Option<String> {
        match action {
            Action::SendBegin => Some("begin".into()),
            Action::SendWork(chunk, opening) => {
                let number = chunk.number;
                self.lent.push_back(chunk);
                Some(if opening == Opening::Begin {
                    format!("begin+work {number}")
                } else {
                    format!("work {number}")
                })
            }
            Action::SendCommit { .. } => Some("commit".into()),
            Action::Flush => Some("flush".into()),
            Action::Connect { .. } => Some("connect".into()),
            _ => None,
        }
    }

    fn worked(&mut self, answer: Answer) -> String {
        let chunk = self.lent.pop_front().expect("work was sent");
        self.tell(Fact::Worked(chunk, Ok(answer)))
    }
}

fn wire<'a>(
    rows: &'a Rows,
    settings: &'a crate::decide::update::worker::Settings,
    is_lazy: bool,
) -> Wire<'a> {
    let life_id = LifeId { started: 1, own: Vec::new() };
    let life = Arc::new(Life { id: life_id, history: History::default() });
    let shared = Shared::new(false);
    let mut wire =
        Wire { worker: Worker::new(rows, settings), shared, life, lent: VecDeque::new(), chunks: 4 };
    assert_eq!(wire.tell(Fact::Tick), "connect");
    let session = Session {
        life: Arc::clone(&wire.life),
        replay: Replay::Safe,
        may_mark: true,
        has_standby: false,
        is_lazy,
        may_go_ahead: is_lazy,
    };
    let first = wire.tell(Fact::Connected(session));
    assert_eq!(first, if is_lazy { "begin, work 1" } else { "begin+work 1" });
    wire
}

fn told(xid: u64) -> Answer {
    Answer::Told(Mark { xid: Some(xid), written: None }, vec![Class::Updated])
}

#[test]
fn a_commit_travels_with_the_work_of_the_next_chunk_in_one_round_trip() {
    let (rows, settings) = (Rows::default(), setup(Kind::Waiting, 1, false).settings());
    let mut wire = wire(&rows, &settings, false);
    for next in 2..=4 {
        assert_eq!(wire.worked(told(next)), format!("commit, begin+work {next}"));
        assert_eq!(wire.tell(Fact::Committed(Ok(true))), "");
    }
    assert_eq!(wire.worked(told(5)), "commit");
    assert_eq!(wire.tell(Fact::Committed(Ok(true))), "done");
}

#[test]
fn ahead_the_id_alone_is_waited_for_before_commit_and_the_next_chunk_are_sent() {
    let (rows, settings) = (Rows::default(), setup(Kind::Lazy, 1, true).settings());
    let mut wire = wire(&rows, &settings, true);
    assert_eq!(wire.tell(Fact::Began(Ok(1))), "commit, begin, work 2");
    for next in 3..=4 {
        // Two transactions are on their way, and no more.
        assert_eq!(wire.tell(Fact::Began(Ok(next))), "");
        assert_eq!(wire.worked(Answer::Whole(None)), "");
        assert_eq!(wire.tell(Fact::Committed(Ok(true))), format!("commit, begin, work {next}"));
    }
    assert_eq!(wire.tell(Fact::Began(Ok(5))), "");
    assert_eq!(wire.worked(Answer::Whole(None)), "");
    assert_eq!(wire.tell(Fact::Committed(Ok(true))), "");
    assert_eq!(wire.worked(Answer::Whole(None)), "commit, flush");
    assert_eq!(wire.tell(Fact::Committed(Ok(true))), "");
    let life_id = wire.life.id.clone();
    assert_eq!(wire.tell(Fact::Flushed(Ok(Flush { life_id, waited: true }))), "done");
}
