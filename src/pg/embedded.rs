//! A private server for a demo or a test.
