//! The command `headcount`.

fn main() {}
