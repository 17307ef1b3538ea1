//! What the tests stand on. It knows nothing of the library under test.

/// Private servers: the file is the command's, which starts one for its demo.
pub mod server;
