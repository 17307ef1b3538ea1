//! A second set of books: what a night promises, checked after each event.
//!
//! The simulator decides by what its [`Server`] says. The audit never does: it hears what became of
//! processes (a job was granted slots, its workers started, it ended, it was killed), adds that up itself, and
//! compares. So a promise can be broken, and a test puts in the [`Defect`](super::night::Defect)s that break each.

use super::night::Violation;
use super::server::Server;

#[derive(Default)]
pub struct Audit {
    reserves: bool,
    pool: u32,
    jobs: Vec<Entry>,
    /// Slots that living jobs were granted, and workers that run for anybody, as added up here.
    granted: u32,
    running: u32,
    /// Jobs to look at when the event is over.
    touched: Vec<usize>,
    found: Vec<Violation>,
}

#[derive(Clone, Copy, Default)]
struct Entry {
    gone: bool,
    slots: u32,
    workers: u32,
}

impl Audit {
    pub fn new(jobs: usize, pool: u32, reserves: bool) -> Self {
        Self { reserves, pool, jobs: vec![Entry::default(); jobs], ..Self::default() }
    }

    /// The slots of a job are so many now.
    pub fn granted(&mut self, n: usize, slots: u32) {
        self.granted = self.granted + slots - self.jobs[n].slots;
        self.jobs[n].slots = slots;
        self.touched.push(n);
    }

    /// The workers of a job are so many now.
    pub fn works(&mut self, n: usize, workers: u32) {
        self.running = self.running + workers - self.jobs[n].workers;
        self.jobs[n].workers = workers;
        self.touched.push(n);
    }

    /// Workers of an outsider's, or of a dead job's, started, or ended.
    pub const fn stranger(&mut self, started: u32, ended: u32) {
        self.running = self.running + started - ended;
    }

    /// The process of a job is no more.
    pub fn gone(&mut self, n: usize) {
        self.jobs[n].gone = true;
        self.granted -= std::mem::take(&mut self.jobs[n].slots);
        self.touched.push(n);
    }

    /// The event is over: the books must agree.
    pub fn compare(&mut self, server: &Server) {
        self.note(self.granted > self.pool, Violation::MoreSlotsThanThePool);
        self.note(self.running > self.pool, Violation::MoreWorkersThanThePool);
        for n in std::mem::take(&mut self.touched) {
            let Entry { gone, slots, workers } = self.jobs[n];
            let held = server.held_by(n);
            self.note(gone && held > 0, Violation::SlotsOfTheDead);
            self.note(!gone && held != slots, Violation::SlotsAstray);
            self.note(self.reserves && !gone && workers > held, Violation::WorkersWithoutSlots);
        }
    }

    fn note(&mut self, broken: bool, violation: Violation) {
        if broken && !self.found.contains(&violation) {
            self.found.push(violation);
        }
    }

    /// The night is over: nobody is left to hold anything. Each promise that was broken, once.
    pub fn close(mut self, server: &Server) -> Vec<Violation> {
        self.note(server.held() > 0, Violation::SlotsOfTheDead);
        self.note(server.used() > 0 || self.running > 0, Violation::WorkersWithoutEnd);
        self.found
    }
}
