//! The SQLSTATE of a failure in events: plain data, so that an event is cheap to copy.

/// A SQLSTATE: five ASCII characters.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState([u8; 5]);

impl SqlState {
    /// For a connection that broke without a message: `connection_failure`.
    pub const CONNECTION_FAILURE: Self = Self(*b"08006");
    /// For a failure of the client itself: `internal_error`.
    pub const INTERNAL: Self = Self(*b"XX000");

    /// Reads a code; `None` unless it is five ASCII letters or digits.
    #[must_use]
    pub fn new(code: &str) -> Option<Self> {
        let bytes: [u8; 5] = code.as_bytes().try_into().ok()?;
        bytes.iter().all(u8::is_ascii_alphanumeric).then_some(Self(bytes))
    }

    /// The five characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("XX000")
    }

    /// The class, which is its first two characters.
    #[must_use]
    pub fn class(&self) -> &str {
        &self.as_str()[..2]
    }
}

impl std::fmt::Debug for SqlState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
