//! What the workers of a run share.

use std::time::Duration;

use super::chunk::Chunk;
use super::claims::Claims;
use super::counted::{Counted, Done, Past};
use super::fault_scope::Streak;
use super::material::Material;

/// One for all workers of a run.
pub struct Shared<M: Material> {
    numbers: u64,
    /// Keys in a row that failed alone.
    pub(super) streak: Streak,
    /// What was counted, while another server may lack it.
    pub past: Past<M::Kept>,
    /// What is known of the claims, where there are any.
    pub claims: Option<Claims<M::Key>>,
    /// Whether the source has nothing more.
    pub is_exhausted: bool,
    /// When the caller wanted the run to end: whoever notices first sets the clock.
    pub(super) halted: Option<Duration>,
}

impl<M: Material> Shared<M> {
    /// `claims`: whether items are claimed.
    #[must_use]
    pub fn new(claims: bool) -> Self {
        let claims = claims.then(Claims::new);
        Self {
            numbers: 0,
            streak: Streak::default(),
            past: Past::new(),
            claims,
            is_exhausted: false,
            halted: None,
        }
    }

    /// Whether nothing more will come, as far as is known.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        self.claims.as_ref().map_or(self.is_exhausted, Claims::is_over)
    }

    /// The number of a new chunk, from 1.
    pub(super) const fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Others may have the rows.
    pub(super) fn let_go(&mut self, material: &M, items: &[M::Item]) {
        if let Some(claims) = &mut self.claims {
            claims.let_go(&material.keys(items));
        }
    }

    /// Keeps what was counted, for another server may lack it.
    pub fn keep(&mut self, material: &M, chunk: Chunk<M>) {
        let order = chunk.order();
        let attempt = chunk.attempt;
        if let (Some(life), Some((kept, bytes))) =
            (attempt.life, material.keep(chunk.items, &attempt.classes))
        {
            let done = Done::of(&attempt.classes);
            self.past.keep(Counted { order, life, mark: attempt.mark, kept, done, bytes });
        }
    }
}
