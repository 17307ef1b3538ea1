//! What was counted on a server that another one has replaced, or that has crashed since.
//!
//! What is there stays as it was counted. What is certainly gone is done again, as if it had never been. Of the rest the
//! rows are read, where that cannot do the work twice; else it is unresolved. Either way it counts anew.

use std::sync::Arc;

use super::super::labor::Labor;
use super::super::past::{Counted, Sum};
use super::Worker;
use super::outcome::Unresolved;
use crate::decide::chunk::course::{Replay, Status};
use crate::decide::chunk::survival::Survival;
use crate::event::{Event, Resolution};
use crate::pg::{Failure, xact};

/// Transactions asked after at once.
const AT_ONCE: usize = 1_000;

/// What became of a chunk that was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    There,
    Gone,
    Unknown,
}

impl<L: Labor> Worker<'_, L> {
    /// Looks after what was counted elsewhere. `false` when the session was lost over it.
    pub(super) async fn check_past(&mut self) -> bool {
        let shop = self.shop;
        if !shop.past.is_behind() {
            return true;
        }
        let Some(life) = self.line.as_ref().map(|line| Arc::clone(&line.life)) else { return false };
        let (mut counted, sums) = shop.past.take(&life);
        self.check_sums(sums);
        while !counted.is_empty() {
            let rest = counted.split_off(AT_ONCE.min(counted.len()));
            match self.find(&counted).await {
                Ok(found) => {
                    counted.into_iter().zip(found).for_each(|(counted, found)| self.on_found(counted, found));
                }
                Err(lost) => {
                    counted.into_iter().chain(rest).for_each(|counted| shop.past.keep(counted));
                    self.lose(&lost);
                    return false;
                }
            }
            counted = rest;
        }
        true
    }

    async fn find(&self, counted: &[Counted<L::Kept>]) -> Result<Vec<Found>, Failure> {
        let Some(line) = &self.line else { return Err(Failure::lost("no session")) };
        let survivals: Vec<Survival> = counted.iter().map(|counted| counted.survival(&line.life)).collect();
        let told = counted.iter().zip(&survivals).filter(|(_, survival)| **survival == Survival::Told);
        let xids: Vec<&str> = told.filter_map(|(counted, _)| counted.mark.xid.as_deref()).collect();
        let statuses = if xids.is_empty() { Vec::new() } else { xact::statuses(&line.client, &xids).await? };
        let mut statuses = statuses.into_iter();
        let found = counted.iter().zip(survivals).map(|(counted, survival)| match survival {
            Survival::Told if counted.mark.xid.is_none() => Found::There,
            Survival::Told => match statuses.next() {
                Some(Status::Committed) => Found::There,
                Some(Status::Aborted) => Found::Gone,
                _ => Found::Unknown,
            },
            Survival::Gone => Found::Gone,
            Survival::Unknown => Found::Unknown,
        });
        Ok(found.collect())
    }

    fn on_found(&mut self, counted: Counted<L::Kept>, found: Found) {
        let shop = self.shop;
        if found == Found::There {
            if let Some(line) = &self.line {
                shop.past.keep(Counted { life: Arc::clone(&line.life), ..counted });
            }
            return;
        }
        let classes = counted.done.classes();
        shop.books.uncount(counted.done.updated, counted.done.already.len() as u64);
        shop.books.observe(&Event::CommitInDoubt);
        let items = shop.labor.restore(counted.kept);
        let mut chunk = shop.chunk(items, Vec::new(), false);
        match (found, shop.labor.replay()) {
            (Found::Unknown, Replay::Unsafe) => {
                return self.unresolved(
                    &chunk,
                    Unresolved::Replaced,
                    &Failure::lost("another server answers"),
                );
            }
            (Found::Unknown, Replay::Safe) => {
                chunk.reread = true;
                chunk.course = chunk.course.unsure();
                chunk.counted = classes;
                shop.books.resolved(Resolution::Reread);
            }
            _ => shop.books.resolved(Resolution::Aborted),
        }
        match shop.feed.as_claims() {
            // Whoever comes first may have its rows.
            Some(claims) if !chunk.reread => claims.are_not_over(),
            _ => self.again.push(chunk),
        }
    }

    /// Of older chunks only the sums are known.
    fn check_sums(&self, sums: Vec<Sum>) {
        let Some(line) = &self.line else { return };
        let shop = self.shop;
        let (there, gone): (Vec<Sum>, Vec<Sum>) =
            sums.into_iter().partition(|sum| sum.has_survived(&line.life));
        there.into_iter().rev().for_each(|sum| shop.past.keep_sum(sum, &line.life));
        shop.books.forget(gone.iter().map(|sum| sum.updated).sum(), gone.iter().map(|sum| sum.already).sum());
    }
}
