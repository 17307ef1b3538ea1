//! The trace that a run belongs to: joined from the environment, passed on in a comment.
//!
//! Batch systems start a process per job and hand the trace over as `TRACEPARENT` and `TRACESTATE`
//! (OpenTelemetry, "Environment variables as context propagation carriers"; W3C Trace Context). A
//! span that is open in this process is nearer, and wins.

use tracing::Span;

/// A trace and a span of another process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    traceparent: String,
    tracestate: Option<String>,
}

/// The context in this process's environment: `TRACEPARENT` and `TRACESTATE`.
#[must_use]
pub fn trace_context() -> Option<TraceContext> {
    TraceContext::from_env(|name| std::env::var(name).ok())
}

impl TraceContext {
    /// Reads both variables from an environment. `None` if there is none, or one that is not valid (a
    /// broken value starts a new trace, as W3C asks), or if `OTEL_PROPAGATORS` leaves `tracecontext` out.
    #[must_use]
    pub fn from_env(get: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let propagators = get("OTEL_PROPAGATORS").filter(|list| !list.trim().is_empty());
        if propagators.is_some_and(|list| !list.split(',').any(|name| name.trim() == "tracecontext")) {
            return None;
        }
        let traceparent = get("TRACEPARENT").filter(|value| is_valid(value))?;
        Some(Self { traceparent, tracestate: get("TRACESTATE").filter(|value| !value.is_empty()) })
    }

    /// The trace's id: 32 hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> &str {
        self.traceparent.split('-').nth(1).unwrap_or_default()
    }

    /// The comment that carries this context into SQL; see [`sql_comment`].
    #[must_use]
    pub fn sql_comment(&self) -> String {
        comment(&self.traceparent)
    }

    /// Makes this context the parent of a span that has not been entered. Without an OpenTelemetry
    /// layer, or without the feature `otlp`, nothing happens.
    pub fn adopt(&self, span: &Span) {
        imp::set_parent(span, &self.traceparent, self.tracestate.as_deref());
    }
}

/// `version-traceid-spanid-flags` in lower-case hexadecimal; neither id is zero.
fn is_valid(traceparent: &str) -> bool {
    let parts: Vec<&str> = traceparent.split('-').collect();
    let hex = |part: &str, len| {
        part.len() == len && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let known = parts.first() != Some(&"00") || parts.len() == 4;
    known
        && parts.len() >= 4
        && hex(parts[0], 2)
        && parts[0] != "ff"
        && hex(parts[1], 32)
        && hex(parts[2], 16)
        && hex(parts[3], 2)
        && [parts[1], parts[2]].iter().all(|id| id.bytes().any(|b| b != b'0'))
}

/// The `traceparent` of a span, to hand on. `None` without an OpenTelemetry layer.
#[must_use]
pub fn traceparent_of(span: &Span) -> Option<String> {
    imp::traceparent_of(span)
}

/// The id of the trace that a span belongs to. `None` without an OpenTelemetry layer.
#[must_use]
pub fn trace_id_of(span: &Span) -> Option<String> {
    traceparent_of(span)?.split('-').nth(1).map(str::to_owned)
}

/// The comment that carries the context of a span into SQL, in sqlcommenter's form:
/// `/*traceparent='00-...'*/`. `None` without an OpenTelemetry layer.
#[must_use]
pub fn sql_comment(span: &Span) -> Option<String> {
    traceparent_of(span).map(|traceparent| comment(&traceparent))
}

fn comment(traceparent: &str) -> String {
    format!("/*traceparent='{traceparent}'*/")
}

#[cfg(feature = "otlp")]
mod imp {
    use std::collections::HashMap;

    use opentelemetry::propagation::TextMapPropagator;
    use opentelemetry::trace::TraceContextExt;
    use opentelemetry_sdk::propagation::TraceContextPropagator;
    use tracing::Span;
    use tracing_opentelemetry::OpenTelemetrySpanExt;

    pub(super) fn set_parent(span: &Span, traceparent: &str, tracestate: Option<&str>) {
        let mut carrier = HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]);
        if let Some(tracestate) = tracestate {
            carrier.insert("tracestate".to_owned(), tracestate.to_owned());
        }
        let context = TraceContextPropagator::new().extract(&carrier);
        if context.span().span_context().is_valid() {
            // No layer, no trace to join.
            let _ = span.set_parent(context);
        }
    }

    pub(super) fn traceparent_of(span: &Span) -> Option<String> {
        let mut carrier = HashMap::new();
        TraceContextPropagator::new().inject_context(&span.context(), &mut carrier);
        carrier.remove("traceparent")
    }
}

#[cfg(not(feature = "otlp"))]
mod imp {
    use tracing::Span;

    pub(super) const fn set_parent(_: &Span, _: &str, _: Option<&str>) {}

    pub(super) const fn traceparent_of(_: &Span) -> Option<String> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(traceparent: &str, valid: bool) {
        let context = TraceContext::from_env(|name| (name == "TRACEPARENT").then(|| traceparent.to_owned()));
        assert_eq!(context.is_some(), valid, "{traceparent}");
    }

    #[test]
    fn only_a_valid_traceparent_is_joined() {
        check("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", true);
        check("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-later", true);
        check("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-extra", false);
        check("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", false);
        check("00-00000000000000000000000000000000-b7ad6b7169203331-01", false);
        check("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", false);
        check("00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01", false);
        check("", false);
        check("garbage", false);
    }

    #[test]
    fn a_process_told_not_to_propagate_joins_nothing() {
        let joined = |propagators: &str| {
            let get = |name: &str| match name {
                "TRACEPARENT" => Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
                "OTEL_PROPAGATORS" => Some(propagators.to_owned()),
                _ => None,
            };
            TraceContext::from_env(get).is_some()
        };
        assert_eq!(["", "baggage, tracecontext", "none", "b3"].map(joined), [true, true, false, false]);
    }

    #[test]
    fn without_a_layer_there_is_no_comment() {
        assert_eq!(sql_comment(&Span::none()), None);
    }
}
