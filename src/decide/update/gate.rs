//! Whether a worker may run ahead of the server's answers.
//!
//! Who sends a chunk's COMMIT before the answer to its work must be content with all or nothing: every key is updated,
//! or the chunk is rolled back, and made again the plain way that tells its keys apart. So it pays only where
//! chunk after chunk finds every row as expected. A few such chunks are asked for at first, and twice as many
//! after each one that disappoints: what was rolled back is work done twice, and a line in the server's log.

/// Chunks in a row that must be updated as a whole, at first.
const FIRST: u32 = 8;
/// They are never more.
const MOST: u32 = 4096;

/// How work that changes all keys or none fails where a key is not changed: a text that is no boolean
/// (`invalid_text_representation`). So does a key that is no value of its type.
pub const PARTED: &str = "22P02";

/// Counts chunks that were updated as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipelineGate {
    row: u32,
    needed: u32,
}

impl PipelineGate {
    /// Not ahead yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { row: 0, needed: FIRST }
    }

    /// Whether the next chunk may go ahead.
    #[must_use]
    pub const fn is_ahead(&self) -> bool {
        self.row >= self.needed
    }

    /// A chunk was worked on; `whole` if all its keys were updated.
    pub const fn on_worked(&mut self, whole: bool) {
        self.row = if whole { self.row.saturating_add(1) } else { 0 };
    }

    /// A chunk that went ahead was not updated as a whole.
    pub const fn on_parted(&mut self) {
        self.row = 0;
        self.needed = if self.needed < MOST { self.needed * 2 } else { MOST };
    }
}

impl Default for PipelineGate {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many whole chunks it takes to be ahead.
    fn awaited(gate: &PipelineGate) -> u32 {
        let mut gate = gate.clone();
        let mut chunks = 0;
        while !gate.is_ahead() {
            gate.on_worked(true);
            chunks += 1;
        }
        chunks
    }

    #[test]
    fn some_whole_chunks_in_a_row_are_needed() {
        let mut gate = PipelineGate::new();
        assert_eq!(awaited(&gate), FIRST);
        gate.on_worked(true);
        assert_eq!(awaited(&gate), FIRST - 1);
        gate.on_worked(false);
        assert_eq!(awaited(&gate), FIRST);
    }

    #[test]
    fn each_disappointment_asks_for_twice_as_many_within_a_bound() {
        let mut gate = PipelineGate::new();
        for expected in [16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 4096, 4096] {
            gate.on_parted();
            assert_eq!(awaited(&gate), expected);
        }
    }
}
