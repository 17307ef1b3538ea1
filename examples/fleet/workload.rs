//! Nights to play: when jobs come, how long they are, who disturbs them.

use super::night::{Grab, Plan, Scenario};

/// When jobs come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrivals {
    /// All at the same minute, as schedulers like it.
    Burst,
    /// One after the other.
    Steady,
    /// Four bursts.
    Waves,
}

/// What a night is made of.
#[derive(Debug, Clone, Copy)]
pub struct Workload {
    pub jobs: usize,
    pub pool: u32,
    pub arrivals: Arrivals,
    /// Workers demanded by all jobs together, as a multiple of what the pool could give in the time in which
    /// they come. Only for jobs that come one after the other.
    pub load: f64,
    /// The most workers that a job wants.
    pub widest: u32,
    /// Share of the pool that outsiders take, about half of the time.
    pub outsiders: f64,
    /// Share of jobs whose process is killed.
    pub crashes: f64,
    /// Share of jobs with priority.
    pub priority: f64,
    pub seed: u64,
}

impl Workload {
    /// Jobs alone: no outsiders, no crashes, no priority.
    pub const fn plain(jobs: usize, pool: u32, arrivals: Arrivals, seed: u64) -> Self {
        Self { jobs, pool, arrivals, load: 0.8, widest: 8, outsiders: 0.0, crashes: 0.0, priority: 0.0, seed }
    }

    pub fn scenario(&self) -> Scenario {
        let mut draw = fastrand::Rng::with_seed(self.seed);
        let widest = self.widest.clamp(1, self.pool);
        let mut jobs = Vec::with_capacity(self.jobs);
        let mut arrives = 0;
        for n in 0..self.jobs {
            let target = draw.u32(widest.div_ceil(4)..=widest);
            // Many short jobs and a few that are a hundred times as long: 2 s to 10 min of one process.
            let work = (2_000.0 * 300.0_f64.powf(draw.f64().powi(2))) as u64;
            let gap = work as f64 / f64::from(self.pool) / self.load;
            arrives = match self.arrivals {
                Arrivals::Burst => draw.u64(0..1000),
                Arrivals::Steady => arrives + (gap * 2.0 * draw.f64()) as u64,
                Arrivals::Waves => (n * 4 / self.jobs) as u64 * 600_000 + draw.u64(0..1000),
            };
            let dies = draw.f64() < self.crashes;
            jobs.push(Plan {
                arrives,
                target,
                minimum: target.div_ceil(2),
                work,
                priority: draw.f64() < self.priority,
                dies: dies.then(|| arrives + draw.u64(0..60_000)),
            });
        }
        let last = jobs.iter().map(|job| job.arrives).max().unwrap_or(0) + 60_000;
        let mut grabs = Vec::new();
        let most = (f64::from(self.pool) * self.outsiders) as u32;
        let mut at = draw.u64(0..5_000);
        while most > 0 && at < last {
            let lasts = draw.u64(1_000..10_000);
            grabs.push(Grab { at, workers: draw.u32(1..=most), lasts });
            at += lasts + draw.u64(1_000..10_000);
        }
        Scenario {
            pool: self.pool,
            jobs,
            grabs,
            reserve_wait: 24 * 3_600_000,
            gathers: 1,
            degrade_after: None,
            seed: self.seed,
            defect: None,
        }
    }
}
