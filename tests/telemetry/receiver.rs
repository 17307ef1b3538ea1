//! What an OTLP receiver that is not ours got.

use std::collections::BTreeMap;

use mock_collector::ServerHandle;

/// A span as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) name: String,
    pub(crate) id: Vec<u8>,
    /// Empty for the first of a trace.
    pub(crate) parent: Vec<u8>,
    /// In hexadecimal digits.
    pub(crate) trace: String,
    /// 1 internal, 3 client.
    pub(crate) kind: i32,
    /// 0 unset, 2 error.
    pub(crate) status: i32,
    pub(crate) events: usize,
    attributes: BTreeMap<String, String>,
    pub(crate) service: String,
}

impl Received {
    /// The attribute with its type on the wire, as in `IntValue(4)`.
    pub(crate) fn attribute(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("", String::as_str)
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// All spans that have arrived, in no order.
pub(crate) async fn received(server: &ServerHandle) -> Vec<Received> {
    server
        .with_collector(|collector| {
            collector
                .spans()
                .iter()
                .map(|test| {
                    let span = test.span();
                    let shown = |value: &dyn std::fmt::Debug| {
                        let text = format!("{value:?}");
                        text.trim_start_matches("Some(AnyValue { value: Some(")
                            .trim_end_matches(") })")
                            .to_owned()
                    };
                    let service =
                        test.resource_attrs().iter().find(|pair| pair.key == "service.name").unwrap();
                    Received {
                        name: span.name.clone(),
                        id: span.span_id.clone(),
                        parent: span.parent_span_id.clone(),
                        trace: hex(&span.trace_id),
                        kind: span.kind,
                        status: span.status.as_ref().map_or(0, |status| status.code),
                        events: span.events.len(),
                        attributes: span
                            .attributes
                            .iter()
                            .map(|pair| (pair.key.clone(), shown(&pair.value)))
                            .collect(),
                        service: shown(&service.value),
                    }
                })
                .collect()
        })
        .await
}
