//! Which server of several will do: libpq's `target_session_attrs`.
//!
//! The driver knows three of the six words, and asks the server for them with a statement. A server since 14 says
//! what it is when a session begins, so mostly nothing needs to be asked.

use tokio_postgres::Client;

use super::Failure;
use super::failure::Unfit;

/// What the session is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    PreferStandby,
}

/// libpq's words; the first is the default.
pub(super) const WORDS: &[(&str, Target)] = &[
    ("any", Target::Any),
    ("read-write", Target::ReadWrite),
    ("read-only", Target::ReadOnly),
    ("primary", Target::Primary),
    ("standby", Target::Standby),
    ("prefer-standby", Target::PreferStandby),
];

/// What a server is, to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ServerState {
    pub(super) standby: bool,
    pub(super) read_only: bool,
}

impl Target {
    /// The rounds through the hosts, each with what will do in it.
    pub(super) const fn rounds(self) -> &'static [Self] {
        match self {
            Self::Any => &[Self::Any],
            Self::ReadWrite => &[Self::ReadWrite],
            Self::ReadOnly => &[Self::ReadOnly],
            Self::Primary => &[Self::Primary],
            Self::Standby => &[Self::Standby],
            Self::PreferStandby => &[Self::Standby, Self::Any],
        }
    }

    /// Why a server will not do; `None` if it will.
    pub(super) const fn objection(self, state: ServerState) -> Option<&'static str> {
        let ServerState { standby, read_only } = state;
        match self {
            Self::Any | Self::PreferStandby => None,
            Self::ReadWrite if standby => Some("is a standby, which only reads"),
            Self::ReadWrite if read_only => {
                Some("only reads: default_transaction_read_only is on for this server, database or role")
            }
            Self::ReadOnly if !read_only && !standby => Some("can write, and target_session_attrs=read-only"),
            Self::Primary if standby => Some("is a standby, and target_session_attrs=primary"),
            Self::Standby if !standby => Some("is no standby, and one is wanted (target_session_attrs)"),
            Self::ReadWrite | Self::ReadOnly | Self::Primary | Self::Standby => None,
        }
    }
}

impl Target {
    /// Whether it is work that writes that such a server will not do for.
    pub(super) fn unfit(self, state: ServerState) -> Option<Unfit> {
        let ServerState { standby, read_only } = state;
        match self {
            Self::ReadWrite | Self::Primary if standby => Some(Unfit::Standby),
            Self::ReadWrite if read_only => Some(Unfit::ReadOnly),
            _ => None,
        }
    }
}

impl ServerState {
    /// From what the server reported when the session began (14 and later).
    pub(super) fn reported<'a>(parameter: impl Fn(&str) -> Option<&'a str>) -> Option<Self> {
        let standby = parameter("in_hot_standby")? == "on";
        let read_only = parameter("default_transaction_read_only")? == "on";
        Some(Self { standby, read_only })
    }

    /// Asks.
    pub(super) async fn of(client: &Client) -> Result<Self, Failure> {
        const STANDING: &str = "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('transaction_read_only') = 'on'";
        let rows = client.query_typed(STANDING, &[]).await?;
        let row = rows.first().ok_or_else(|| Failure::client("the server answered without a row"))?;
        Ok(Self { standby: row.try_get(0)?, read_only: row.try_get(1)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIMARY: ServerState = ServerState { standby: false, read_only: false };
    const READ_ONLY: ServerState = ServerState { standby: false, read_only: true };
    const STANDBY: ServerState = ServerState { standby: true, read_only: false };

    #[test]
    fn each_word_accepts_what_it_does_in_libpq() {
        for (word, primary, read_only, standby) in [
            ("any", true, true, true),
            ("read-write", true, false, false),
            ("read-only", false, true, true),
            ("primary", true, true, false),
            ("standby", false, false, true),
            ("prefer-standby", true, true, true),
        ] {
            let (_, target) = WORDS.iter().find(|(known, _)| *known == word).unwrap();
            let accepts = |state| target.objection(state).is_none();
            let accepted = (accepts(PRIMARY), accepts(READ_ONLY), accepts(STANDBY));
            assert_eq!(accepted, (primary, read_only, standby), "{word}");
        }
    }

    #[test]
    fn a_preferred_standby_is_looked_for_first() {
        assert_eq!(Target::PreferStandby.rounds(), [Target::Standby, Target::Any]);
    }

    #[test]
    fn an_old_server_reports_nothing() {
        assert_eq!(ServerState::reported(|_| None), None);
        let reported = |name: &str| Some(if name == "in_hot_standby" { "on" } else { "off" });
        assert_eq!(ServerState::reported(reported), Some(STANDBY));
    }
}
