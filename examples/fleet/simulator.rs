//! A fleet in virtual time: one pool, many jobs, and the decisions of the crate itself.
//!
//! Only the world is made up here: a [`Server`] that starts what is free, statements that take as long as
//! their work divided by their processes, outsiders, and clients that die. What a job does about it comes from
//! [`crate::decide`], the same values that the drivers ask. Time is in milliseconds; nothing sleeps.
//!
//! The world's constants are what was measured on real servers: 30 ms from a statement to its workers, 10 ms
//! for a cancel to end them, a second until a server notices that a client is dead (its locks go at once).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use crate::decide::admission::Admission;
use crate::decide::attempt::Outcome;
use crate::decide::attempt::{Attempts, Ended, Finished, Next, Pause, Spacing};
use crate::decide::launch::Demand;
use crate::decide::reservation::{Move, PlanWorkers, Reservation, Slots, Use, outsiders};
use crate::decide::verdict::{LeaderState, News, Patience, Pool, Tick, Verdict, Window};

use super::audit::Audit;
use super::night::{Defect, End, Fate, Grab, Night, Plan, Policy, Scenario};
use super::server::Server;

const LAUNCH: u64 = 30;
const CANCEL: u64 = 10;
const ORPHANED: u64 = 1000;
/// Between two looks at the pool, and between two looks from the head of the queue.
const LOOK: u64 = 20;
const ADMISSION_WAIT: u64 = 60_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Arrives(usize),
    /// The lock timeout of who stands in the queue.
    QueueLimit(usize),
    HeadLooks(usize),
    AdmissionLooks(usize),
    Launches(usize),
    Ticks(usize),
    Finishes(usize),
    Drained(usize),
    Resumes(usize),
    Dies(usize),
    OrphansEnd(u32),
    Grabs(usize),
    Leaves(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Away,
    Queued,
    Admitting { since: u64, looks_at: u64 },
    Running { began: u64 },
    Over,
}

struct Job {
    plan: Plan,
    attempts: Attempts,
    state: State,
    /// Outdates the events of an earlier state.
    era: u32,
    required: u32,
    window: Option<Window>,
    workers: u32,
    slots: u32,
    joined: u64,
    wasted: u64,
    fate: Option<Fate>,
}

struct World {
    scenario: Scenario,
    policy: Policy,
    now: u64,
    events: BinaryHeap<Reverse<(u64, u64, What, u32)>>,
    order: u64,
    jobs: Vec<Job>,
    draw: fastrand::Rng,
    server: Server,
    audit: Audit,
    /// Workers of outsiders, and of the dead.
    strangers: u32,
    /// The queue, and that of those with priority.
    queues: [VecDeque<usize>; 2],
    admitting: Vec<usize>,
    night: Night,
}

/// Plays a night to its end.
pub fn play(scenario: &Scenario, policy: Policy) -> Night {
    let mut world = World::new(scenario.clone(), policy);
    while let Some(Reverse((at, _, what, era))) = world.events.pop() {
        world.now = at;
        world.on(what, era);
        world.audit.compare(&world.server);
    }
    world.finish()
}

const fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}

impl World {
    fn new(scenario: Scenario, policy: Policy) -> Self {
        let spacing = match policy {
            Policy::Classic => Spacing::Fixed(ms(2000)),
            Policy::Prompt | Policy::Reserve => Spacing::Jittered(ms(2000)),
        };
        let jobs = scenario.jobs.iter().map(|&plan| Job {
            plan,
            attempts: Attempts::new(plan.target, plan.minimum, 5, spacing),
            state: State::Away,
            era: 0,
            required: 0,
            window: None,
            workers: 0,
            slots: 0,
            joined: 0,
            wasted: 0,
            fate: None,
        });
        let night = Night { fates: vec![], joined: vec![], granted: vec![], violations: vec![] };
        let mut world = Self {
            jobs: jobs.collect(),
            draw: fastrand::Rng::with_seed(scenario.seed),
            policy,
            now: 0,
            events: BinaryHeap::new(),
            order: 0,
            server: Server::new(scenario.pool, scenario.defect),
            audit: Audit::new(scenario.jobs.len(), scenario.pool, policy == Policy::Reserve),
            strangers: 0,
            queues: [VecDeque::new(), VecDeque::new()],
            admitting: vec![],
            night,
            scenario,
        };
        for n in 0..world.jobs.len() {
            world.at(world.jobs[n].plan.arrives, What::Arrives(n), 0);
            if let Some(dies) = world.jobs[n].plan.dies {
                world.at(dies.max(world.jobs[n].plan.arrives), What::Dies(n), 0);
            }
        }
        for n in 0..world.scenario.grabs.len() {
            world.at(world.scenario.grabs[n].at, What::Grabs(n), 0);
        }
        world
    }

    fn at(&mut self, time: u64, what: What, era: u32) {
        self.order += 1;
        self.events.push(Reverse((time, self.order, what, era)));
    }

    fn after(&mut self, delay: u64, what: What, job: usize) {
        self.at(self.now + delay, what, self.jobs[job].era);
    }

    fn on(&mut self, what: What, era: u32) {
        let current = |n: usize| self.jobs[n].era == era && self.jobs[n].state != State::Over;
        match what {
            What::Arrives(n) if self.jobs[n].state == State::Away => self.arrives(n),
            What::QueueLimit(n) if current(n) => self.queue_limit(n),
            What::HeadLooks(n) if current(n) => self.head_looks(n),
            What::AdmissionLooks(n) if current(n) => self.admission_looks(n),
            What::Launches(n) if current(n) => self.launches(n),
            What::Ticks(n) if current(n) => self.ticks(n),
            What::Finishes(n) if current(n) => self.finishes(n),
            What::Drained(n) if current(n) => self.drained(n),
            What::Resumes(n) if current(n) => self.begins(n),
            What::Dies(n) if self.jobs[n].state != State::Over => self.dies(n),
            What::OrphansEnd(workers) | What::Leaves(workers) => {
                self.strangers -= workers;
                self.server.exit(workers);
                self.audit.stranger(0, workers);
                self.changed();
            }
            What::Grabs(n) => self.grabs(n),
            _ => {}
        }
    }

    const fn pool(&self) -> Pool {
        Pool { used: self.server.used(), size: self.server.size() }
    }

    fn slots(&self) -> Slots {
        Slots {
            pool: self.server.size(),
            size: self.server.size(),
            held: self.server.held(),
            outsiders: Some(outsiders([Use { workers: self.strangers, slots: 0 }])),
            priority_waits: !self.queues[1].is_empty(),
        }
    }

    /// Its Gathers run together, and share its target.
    fn launch(&self, n: usize) -> PlanWorkers {
        let workers = Some(self.jobs[n].plan.target);
        PlanWorkers { workers, gathers: self.scenario.gathers, own_pool: None }
    }

    fn wish(&self, n: usize) -> Reservation {
        let plan = self.jobs[n].plan;
        let Scenario { reserve_wait, degrade_after, .. } = self.scenario;
        let patience = degrade_after.map(ms);
        Reservation::new(self.launch(n), plan.target, plan.minimum, ms(reserve_wait), patience)
            .with_priority(plan.priority)
    }

    fn arrives(&mut self, n: usize) {
        if self.policy != Policy::Reserve {
            return self.begins(n);
        }
        let job = &mut self.jobs[n];
        (job.state, job.joined) = (State::Queued, self.now);
        let queue = usize::from(job.plan.priority);
        self.queues[queue].push_back(n);
        self.night.joined.push(n);
        self.after(self.scenario.reserve_wait, What::QueueLimit(n), n);
        if self.queues[queue].front() == Some(&n) {
            self.becomes_head(n);
        }
    }

    fn becomes_head(&mut self, n: usize) {
        if let Some(patience) = self.scenario.degrade_after {
            let due = self.jobs[n].joined + patience;
            self.at(due.max(self.now), What::HeadLooks(n), self.jobs[n].era);
        }
        self.after(0, What::HeadLooks(n), n);
    }

    fn queue_limit(&mut self, n: usize) {
        let queue = usize::from(self.jobs[n].plan.priority);
        if self.queues[queue].front() == Some(&n) {
            return self.head_looks(n);
        }
        self.gives_up(n);
    }

    fn gives_up(&mut self, n: usize) {
        self.leaves_queue(n);
        self.ends(n, End::Ended(Outcome::BelowMinimum));
    }

    fn leaves_queue(&mut self, n: usize) {
        let queue = usize::from(self.jobs[n].plan.priority);
        let was_head = self.queues[queue].front() == Some(&n);
        self.queues[queue].retain(|&other| other != n);
        self.jobs[n].era += 1;
        if was_head && let Some(&next) = self.queues[queue].front() {
            self.becomes_head(next);
        }
        self.changed();
    }

    fn head_looks(&mut self, n: usize) {
        let wish = self.wish(n);
        match wish.on_look(ms(self.now - self.jobs[n].joined), self.slots()) {
            Move::Take(taken) if self.server.take(n, taken) => {
                self.jobs[n].slots = taken;
                self.audit.granted(n, taken);
                self.night.granted.push(n);
                let within = self.launch(n).share(taken, self.server.size()).unwrap_or(taken);
                self.jobs[n].attempts.within(within);
                self.leaves_queue(n);
                self.begins(n);
            }
            Move::Take(_) | Move::Wait => {}
            Move::GiveUp => self.gives_up(n),
        }
    }

    /// The next attempt: first admission, unless the policy has none.
    fn begins(&mut self, n: usize) {
        let job = &mut self.jobs[n];
        job.required = job.attempts.begin().1;
        job.era += 1;
        if self.policy == Policy::Classic || job.required == 0 {
            return self.starts(n);
        }
        job.state = State::Admitting { since: self.now, looks_at: self.now };
        self.admitting.push(n);
        self.after(ADMISSION_WAIT, What::AdmissionLooks(n), n);
        self.admission_looks(n);
    }

    fn admission_looks(&mut self, n: usize) {
        let State::Admitting { since, .. } = self.jobs[n].state else { return };
        let mut admission = Admission::new(self.jobs[n].required, ms(ADMISSION_WAIT));
        if admission.on_look(ms(self.now - since), Some(self.pool()), None).is_some() {
            self.admitting.retain(|&other| other != n);
            self.starts(n);
        }
    }

    fn starts(&mut self, n: usize) {
        let (patience, interval) = match self.policy {
            Policy::Classic => (Patience::Classic { wait: ms(1000), window: ms(2000) }, 500),
            Policy::Prompt | Policy::Reserve => {
                (Patience::Prompt { settle: ms(100), launch_wait: ms(1000) }, 10)
            }
        };
        let job = &mut self.jobs[n];
        job.era += 1;
        job.state = State::Running { began: self.now };
        job.window = Some(Window::new(Demand::of(job.required, &[job.plan.target]), patience));
        self.after(LAUNCH, What::Launches(n), n);
        self.after(interval, What::Ticks(n), n);
    }

    /// The Gathers take what is free, once. They know nothing of slots, only what each may ask for.
    fn launches(&mut self, n: usize) {
        let launch = match self.scenario.defect {
            Some(Defect::EachGatherHasAll) => PlanWorkers { gathers: 1, ..self.launch(n) },
            _ => self.launch(n),
        };
        let job = &mut self.jobs[n];
        let share =
            if self.policy == Policy::Reserve { launch.share(job.slots, self.server.size()) } else { None };
        let gathers = self.scenario.gathers.max(1);
        let asked = share.map_or(job.plan.target, |share| job.plan.target.min(share * gathers));
        job.workers = self.server.launch(asked);
        self.audit.works(n, job.workers);
        let lasts = job.plan.work / u64::from(job.workers + 1);
        self.after(lasts, What::Finishes(n), n);
    }

    fn ticks(&mut self, n: usize) {
        let pool = Some(self.pool());
        let interval = if self.policy == Policy::Classic { 500 } else { 10 };
        let job = &mut self.jobs[n];
        let (State::Running { began }, Some(window)) = (job.state, &mut job.window) else { return };
        let (at, workers, leader) = (ms(self.now - began), job.workers, LeaderState::Active);
        let pids: Vec<i32> = (1..).take(workers as usize).collect();
        match window.on_tick(Tick { at, workers, leader, pool, processes: None }, &pids) {
            None => self.after(interval, What::Ticks(n), n),
            Some(News::Verdict(Verdict::Short(_))) => {
                job.era += 1;
                if self.scenario.defect == Some(Defect::SlotsAreFreedEarly) {
                    self.server.close(n);
                    self.audit.granted(n, 0);
                }
                self.after(CANCEL, What::Drained(n), n);
            }
            Some(_) => {}
        }
    }

    fn spent(&self, n: usize) -> u64 {
        let State::Running { began } = self.jobs[n].state else { return 0 };
        (self.now - began) * u64::from(self.jobs[n].workers + 1)
    }

    fn free_workers(&mut self, n: usize) {
        self.server.exit(std::mem::take(&mut self.jobs[n].workers));
        self.audit.works(n, 0);
    }

    fn finishes(&mut self, n: usize) {
        let useful = self.spent(n);
        let State::Running { began } = self.jobs[n].state else { return };
        let draw = self.draw.f64();
        let job = &mut self.jobs[n];
        let workers = job.workers;
        let verdict = job.window.as_mut().map_or(Verdict::FinishedEarly, Window::on_end);
        let ended = Ended::Finished(Finished {
            verdict,
            achieved: workers,
            short: false,
            unproven: false,
            within: job.plan.target,
        });
        let Next::Accept(outcome) = job.attempts.on_ended(ended, true, draw) else {
            unreachable!("what finished is kept")
        };
        self.free_workers(n);
        self.ends(n, End::Ended(outcome));
        let Job { fate, plan, .. } = &mut self.jobs[n];
        if let Some(fate) = fate {
            (fate.useful, fate.waited) = (useful, began - plan.arrives);
        }
    }

    fn drained(&mut self, n: usize) {
        let spent = self.spent(n);
        let draw = self.draw.f64();
        let job = &mut self.jobs[n];
        job.wasted += spent;
        let most = job.window.as_ref().map_or(0, Window::most_workers);
        let Some(Verdict::Short(reason)) = job.window.as_ref().and_then(Window::verdict) else { return };
        let next = job.attempts.on_ended(Ended::Rejected(reason, most), true, draw);
        self.free_workers(n);
        self.jobs[n].state = State::Away;
        self.jobs[n].era += 1;
        match next {
            Next::Retry(Pause::UntilRoom) => self.after(0, What::Resumes(n), n),
            Next::Retry(Pause::For(delay)) => self.after(delay.as_millis() as u64, What::Resumes(n), n),
            Next::Accept(outcome) => self.ends(n, End::Ended(outcome)),
            Next::BelowMinimum | Next::Fail => self.ends(n, End::Ended(Outcome::BelowMinimum)),
        }
        self.changed();
    }

    /// Its locks go with its connection; its statement goes on until the server notices.
    fn dies(&mut self, n: usize) {
        self.jobs[n].wasted += self.spent(n);
        if self.jobs[n].state == State::Queued {
            self.leaves_queue(n);
        }
        self.admitting.retain(|&other| other != n);
        let workers = std::mem::take(&mut self.jobs[n].workers);
        self.strangers += workers;
        self.audit.works(n, 0);
        self.audit.stranger(workers, 0);
        self.server.cut(n);
        self.at(self.now + ORPHANED, What::OrphansEnd(workers), 0);
        self.ends(n, End::Died);
    }

    fn ends(&mut self, n: usize, end: End) {
        if end != End::Died {
            self.server.close(n);
        }
        self.audit.gone(n);
        let job = &mut self.jobs[n];
        job.state = State::Over;
        job.era += 1;
        job.fate = Some(Fate {
            end,
            waited: self.now - job.plan.arrives.min(self.now),
            ended: self.now,
            attempts: job.attempts.current(),
            wasted: job.wasted,
            useful: 0,
        });
        self.changed();
    }

    fn grabs(&mut self, n: usize) {
        let Grab { workers, lasts, .. } = self.scenario.grabs[n];
        let taken = self.server.launch(workers);
        self.audit.stranger(taken, 0);
        self.strangers += taken;
        self.at(self.now + lasts, What::Leaves(taken), 0);
    }

    /// Something was freed: whoever could go now sees it at the next look of its own rhythm. Looks in between
    /// would see what the last one saw.
    fn changed(&mut self) {
        for queue in 0..2 {
            if let Some(&head) = self.queues[queue].front() {
                let next = LOOK - (self.now - self.jobs[head].joined) % LOOK;
                self.after(next, What::HeadLooks(head), head);
            }
        }
        let free = self.pool().free();
        for at in 0..self.admitting.len() {
            let n = self.admitting[at];
            let job = &mut self.jobs[n];
            if let State::Admitting { since, looks_at } = &mut job.state
                && job.required <= free
                && *looks_at <= self.now
            {
                *looks_at = self.now + LOOK - (self.now - *since) % LOOK;
                let due = *looks_at - self.now;
                self.after(due, What::AdmissionLooks(n), n);
            }
        }
    }

    fn finish(mut self) -> Night {
        self.night.violations = self.audit.close(&self.server);
        let fates = self.jobs.iter().map(|job| job.fate.expect("no job waits for ever"));
        self.night.fates = fates.collect();
        self.night
    }
}
