//! Whether work may be done twice.

/// What a commit of unknown fate means for its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replay {
    /// Doing it again is reading the rows: one that holds the new value is left alone.
    Safe,
    /// Others have a say in what it does: triggers, the caller's own code. Done twice it may count twice, so a
    /// commit of unknown fate ends as *unresolved*.
    Unsafe,
}
