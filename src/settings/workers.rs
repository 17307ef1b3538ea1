//! The bounds of what decides how a session comes by its workers.

use std::time::Duration;

use super::{HOUR, LEAVE, Policy, Raise, Settings, duration, within};
use crate::error::Error;

impl Settings {
    pub(super) fn check_ceiling(&self) -> Result<(), Error> {
        within("leave", self.leave, 0, 1024)?;
        let Some(raise) = self.ceiling else {
            let alone = [
                ("above_role", self.above_role && !self.guarantee),
                ("leave", self.leave != LEAVE && !self.gather && !self.guarantee),
            ];
            let wrong = alone.into_iter().find(|(_, given)| *given).map(|(option, _)| option);
            let problem = "it needs a `ceiling` or a `guarantee`; `leave` may go with `gather`, too";
            return wrong.map_or(Ok(()), |option| Err(Error::configuration(option, problem)));
        };
        if let Raise::To(workers) = raise {
            within("ceiling", workers, 1, 1024)?;
        }
        if self.reserve {
            let problem = "it takes workers beyond the pool, and `reserve` waits for slots of the pool: give one of them";
            return Err(Error::configuration("ceiling", problem));
        }
        if self.settings.iter().any(|(name, _)| name.eq_ignore_ascii_case("max_parallel_workers")) {
            let problem = "it sets max_parallel_workers, and so do `settings`: give one of them";
            return Err(Error::configuration("ceiling", problem));
        }
        Ok(())
    }

    pub(super) fn check_gather(&self) -> Result<(), Error> {
        duration("gather_after", self.gather_after, Duration::ZERO, 24 * HOUR)?;
        duration("gather_at_most", self.gather_at_most, Duration::from_millis(10), HOUR)?;
        let (option, others) = match (self.guarantee, self.gather) {
            (false, false) => return Ok(()),
            (true, gather) => ("guarantee", [("ceiling", self.ceiling.is_some()), ("gather", gather)]),
            (false, true) => ("gather", [("ceiling", self.ceiling.is_some()), ("guarantee", false)]),
        };
        if let Some((other, _)) = others.into_iter().find(|(_, given)| *given) {
            return Err(Error::configuration(
                option,
                format!("it cannot be combined with `{other}`: give one of them"),
            ));
        }
        if self.policy == Policy::Classic {
            return Err(Error::configuration(
                option,
                "the policy `classic` does not wait for room".to_owned(),
            ));
        }
        if self.admission_wait.is_zero() {
            return Err(Error::configuration(option, "it needs an `admission_wait` above 0".to_owned()));
        }
        if self.settings.iter().any(|(name, _)| name.eq_ignore_ascii_case("max_parallel_workers")) {
            let problem = "it sets max_parallel_workers itself: leave that out of the settings";
            return Err(Error::configuration(option, problem.to_owned()));
        }
        Ok(())
    }
}
