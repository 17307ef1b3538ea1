//! PostgreSQL batch work that finishes on time, and shows what happened.

pub mod decide;
mod error;
pub mod event;
pub mod pg;
mod report;
mod run;
pub mod settings;
pub mod telemetry;

pub use decide::attempt::Outcome;
pub use error::{Error, Refusal};
pub use event::{Event, Observer};
pub use report::{Attempt, Execution};
pub use run::{Builder, Headcount, Job, Rows};
pub use settings::{Minimum, PlanShortfall, Policy, Settings};
