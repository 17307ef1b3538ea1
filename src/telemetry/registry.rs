//! The same metrics in a `prometheus::Registry` of the embedder's.
//!
//! A service that exposes a registry already should not get a second endpoint. Histograms are
//! registered first, with our buckets: the bridge would give them Prometheus' defaults, which end at ten
//! seconds.

use std::sync::Arc;

use metrics_prometheus::failure::strategy::NoOp;
use prometheus::{Histogram, HistogramOpts, HistogramVec, Registry};

use super::Metrics;
use super::names::{self, Kind};
use crate::error::Error;

impl Metrics {
    /// Counts in this registry.
    ///
    /// Make one per registry and share it. Requires the feature `prometheus-registry`.
    ///
    /// # Errors
    ///
    /// A configuration error if the registry has one of our histograms already, as after a second call.
    pub fn in_registry(registry: Registry) -> Result<Self, Error> {
        // A metric that cannot be counted must not end somebody's process, not in a debug build either.
        let recorder = metrics_prometheus::Recorder::builder()
            .with_registry(registry)
            .with_failure_strategy(NoOp)
            .build();
        let taken = |error: prometheus::Error| Error::configuration("registry", error.to_string());
        for metric in names::ALL {
            let Kind::Histogram(buckets) = metric.kind else { continue };
            let options = HistogramOpts::new(metric.name, metric.help).buckets(buckets.to_vec());
            if metric.labels.is_empty() {
                recorder.try_register_metric(Histogram::with_opts(options).map_err(taken)?).map_err(taken)?;
            } else {
                let histogram = HistogramVec::new(options, metric.labels).map_err(taken)?;
                recorder.try_register_metric(histogram).map_err(taken)?;
            }
        }
        Ok(Self::with_recorder(Arc::new(recorder)))
    }
}
