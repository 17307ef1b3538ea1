//! What is set for a statement on its session, as a script that begins its transaction, and what takes it back.

use std::fmt::Write as _;

use crate::pg::ceiling;
use crate::settings::{Raise, Settings};

/// By which a backend stops the statement of a client that died.
const NOTICES: &str = "client_connection_check_interval";

/// The settings by which Gathers and index builds are kept to their slots.
const LIMITS: [&str; 2] = ["max_parallel_workers_per_gather", "max_parallel_maintenance_workers"];

pub(super) struct SessionScript<'a> {
    pub(super) settings: &'a Settings,
    /// More workers would be those of other members of the fleet.
    pub(super) worker_limit: Option<u32>,
    /// How far its ceiling is raised.
    pub(super) raise: Option<Raise>,
    /// Slots that are held for it: its ceiling is higher by as many.
    pub(super) beyond: u32,
    /// Whether the backend has to be told each time to stop the statement of a client that died.
    pub(super) pooled: bool,
}

impl SessionScript<'_> {
    /// `set_config` takes lists and units as a configuration file does; only what must come before
    /// any query of a transaction is SET.
    pub(super) fn start(&self, application_name: String) -> String {
        let local = self.settings.transaction;
        let mut script = String::from(if local { "BEGIN;" } else { "" });
        let mut settings = self.settings.effective_settings();
        if self.pooled {
            settings.insert(0, (NOTICES.to_owned(), "1s".to_owned()));
        }
        settings.push(("application_name".to_owned(), application_name));
        if !local {
            // A warning may say that nobody waited for a standby: a COMMIT of ours sees to that itself.
            let silenced = |(name, value): &&mut (String, String)| {
                name.eq_ignore_ascii_case("client_min_messages") && value.eq_ignore_ascii_case("error")
            };
            settings.iter_mut().filter(silenced).for_each(|(_, value)| "warning".clone_into(value));
        }
        let (first, rest): (Vec<_>, Vec<_>) = settings.iter().partition(|(name, _)| is_of_transaction(name));
        for (name, value) in first {
            let _ = write!(script, "SET {}{name} TO {};", if local { "LOCAL " } else { "" }, literal(value));
        }
        for (name, value) in rest {
            let _ = write!(
                script,
                "SELECT pg_catalog.set_config({}, {}, {local});",
                literal(name),
                literal(value)
            );
        }
        script.extend(self.raise.map(|raise| ceiling::raise(raise, self.settings)));
        if self.beyond > 0 {
            let _ = write!(
                script,
                "SELECT pg_catalog.set_config('max_parallel_workers', \
                   (pg_catalog.current_setting('max_parallel_workers')::int + {})::text, {local});",
                self.beyond
            );
        }
        if let Some(limit) = self.worker_limit {
            for name in LIMITS {
                let _ = write!(
                    script,
                    "SELECT pg_catalog.set_config('{name}', least(pg_catalog.current_setting('{name}')::int, {limit})::text, {local});"
                );
            }
        }
        script
    }

    /// What was set for the session, where the statement has no transaction: a proxy may give its backend to somebody
    /// else. Each begins with a semicolon.
    pub(super) fn unset(&self) -> String {
        if self.settings.transaction {
            return String::new();
        }
        let settings = self.settings.effective_settings();
        let wished = settings.iter().map(|(name, _)| name.as_str()).filter(|name| !is_of_transaction(name));
        let wished = wished.chain(self.pooled.then_some(NOTICES));
        let raised = (self.raise.is_some() || self.beyond > 0).then_some("max_parallel_workers");
        let limited = self.worker_limit.map_or(&[][..], |_| &LIMITS);
        let all = wished.chain(raised).chain(limited.iter().copied());
        all.fold(String::new(), |script, name| script + "; RESET " + name)
    }
}

/// What must come before any query of a transaction, and cannot be reset.
fn is_of_transaction(setting: &str) -> bool {
    setting.to_ascii_lowercase().starts_with("transaction_")
}

/// A string literal, quoted.
pub(super) fn literal(value: &str) -> String {
    let quoted = value.replace('\\', "\\\\").replace('\'', "''");
    format!("E'{quoted}'")
}
