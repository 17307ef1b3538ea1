//! PostgreSQL batch work that finishes on time, and shows what happened.

pub mod decide;
mod error;
pub mod event;
pub mod pg;
mod report;
pub mod settings;
pub mod telemetry;

pub use decide::attempt::Outcome;
pub use error::{Error, Refusal};
pub use event::{Event, Observer};
pub use report::{Attempt, Execution};
pub use settings::{Minimum, PlanShortfall, Policy, Settings};
