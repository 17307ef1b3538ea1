//! Telemetry from the event to what an operator's own programs receive.
//!
//! - `contract`: the table of names against what two real exporters gather, in both directions; what
//!   alerts rest on (zeros from the start, gauges of the last run); the cost of an event
//! - `prometheus`: `promtool check metrics`, a scrape, a real Pushgateway, the textfile
//! - `otlp`: gRPC and HTTP; names, parents, attributes, the joined trace, a receiver that is gone
//! - `log`: level and sentence of each line

mod contract;
mod log;
mod otlp;
mod prometheus;
mod receiver;
mod script;
