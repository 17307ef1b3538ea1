//! Plan inspection: how many workers a statement can have, and why not more.
