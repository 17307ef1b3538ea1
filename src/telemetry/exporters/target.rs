//! Where spans go: the option, and the variables of the environment that OpenTelemetry defines.
//!
//! The SDK reads headers, timeouts, the sampler and the limits of the batch by itself. It leaves out the
//! switches (`OTEL_SDK_DISABLED`, `OTEL_TRACES_EXPORTER`) and knows no option, so those are read here.

use std::fmt;

use reqwest::Url;

use super::http;
use crate::error::Error;

const TRACES: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
const ALL: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const EXAMPLE: &str = "not a URL with a scheme, as in http://127.0.0.1:4318 or grpc://127.0.0.1:4317";

/// Where spans go.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    /// gRPC, or protobuf over HTTP.
    pub grpc: bool,
    /// With the path, for HTTP.
    pub(super) endpoint: String,
}

impl Target {
    /// Decides from the option `--otlp` and the environment. `None`: no export.
    ///
    /// `OTEL_SDK_DISABLED=true` switches all off. The option comes before
    /// `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, that before `OTEL_EXPORTER_OTLP_ENDPOINT`; with neither, spans are
    /// sent to the local collector only if `OTEL_TRACES_EXPORTER=otlp` asks for it. The protocol is what
    /// `OTEL_EXPORTER_OTLP_(TRACES_)PROTOCOL` says, else gRPC for `grpc://`, `grpcs://` and port 4317, else HTTP.
    ///
    /// # Errors
    ///
    /// A configuration error that names the option or the variable.
    pub fn resolve(
        option: Option<&str>,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, Error> {
        let env =
            |name: &str| env(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        if env("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        let exporters = env("OTEL_TRACES_EXPORTER");
        let asked =
            exporters.as_deref().is_some_and(|list| list.split(',').any(|name| name.trim() == "otlp"));
        if option.is_none() && exporters.is_some() && !asked {
            return Ok(None);
        }
        let found = (option.map(|url| (url.to_owned(), "otlp")))
            .or_else(|| env(TRACES).map(|url| (url, TRACES)))
            .or_else(|| env(ALL).map(|url| (url, ALL)));
        let protocol = protocol(env)?;
        let (url, field) = match found {
            Some(found) => found,
            None if asked && protocol == Some(true) => ("http://localhost:4317".to_owned(), ALL),
            None if asked => ("http://localhost:4318".to_owned(), ALL),
            None => return Ok(None),
        };
        Self::parse(&url, field, protocol, field == TRACES).map(Some)
    }

    fn parse(text: &str, field: &str, grpc: Option<bool>, path_as_is: bool) -> Result<Self, Error> {
        let wrong = |problem: &str| Error::configuration(field, problem);
        let (rest, scheme_says) = match text.split_once("://") {
            Some(("grpc", rest)) => (format!("http://{rest}"), Some(true)),
            Some(("grpcs", rest)) => (format!("https://{rest}"), Some(true)),
            Some(("http" | "https", _)) => (text.to_owned(), None),
            _ => return Err(wrong(EXAMPLE)),
        };
        let mut url = Url::parse(&rest).map_err(|_| wrong(EXAMPLE))?;
        if !url.username().is_empty() || url.password().is_some() || http::may_hide_a_password(text) {
            return Err(wrong(
                "credentials belong in OTEL_EXPORTER_OTLP_HEADERS; in the URL they would not be sent",
            ));
        }
        let grpc = scheme_says.or(grpc).unwrap_or(url.port() == Some(4317));
        if !grpc && !path_as_is && !url.path().ends_with("/v1/traces") {
            let base = url.path().trim_end_matches('/').to_owned();
            url.set_path(&format!("{base}/v1/traces"));
        }
        Ok(Self { grpc, endpoint: url.into() })
    }

    /// The address, without credentials and query.
    #[must_use]
    pub fn shown(&self) -> String {
        Url::parse(&self.endpoint).as_ref().map(http::shown).unwrap_or_default()
    }

    pub(super) fn is_tls(&self) -> bool {
        self.endpoint.starts_with("https://")
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({}, {})", if self.grpc { "grpc" } else { "http" }, self.shown())
    }
}

/// Whether the environment asks for gRPC.
fn protocol(env: impl Fn(&str) -> Option<String>) -> Result<Option<bool>, Error> {
    for name in ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"] {
        match env(name).as_deref() {
            None => (),
            Some("grpc") => return Ok(Some(true)),
            Some("http/protobuf") => return Ok(Some(false)),
            Some(other) => {
                return Err(Error::configuration(
                    name,
                    format!("`{other}` is neither grpc nor http/protobuf"),
                ));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `expected` as in `Debug`; the empty text means no export.
    fn check(option: Option<&str>, env: &[(&str, &str)], expected: &str) {
        let get = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let target = Target::resolve(option, get).unwrap();
        assert_eq!(
            target.map(|target| format!("{target:?}")).unwrap_or_default(),
            expected,
            "{option:?} {env:?}"
        );
    }

    #[test]
    fn scheme_and_port_choose_the_protocol() {
        check(Some("http://h:4318"), &[], "Target(http, http://h:4318/v1/traces)");
        check(Some("http://h:4317"), &[], "Target(grpc, http://h:4317/)");
        check(Some("grpc://h:14317"), &[], "Target(grpc, http://h:14317/)");
        check(Some("grpcs://h"), &[], "Target(grpc, https://h/)");
        check(Some("https://h/otlp/"), &[], "Target(http, https://h/otlp/v1/traces)");
        check(Some("http://h/v1/traces"), &[], "Target(http, http://h/v1/traces)");
        let grpc = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
        check(Some("http://h:9"), &[grpc], "Target(grpc, http://h:9/)");
        check(
            Some("http://h:9"),
            &[grpc, ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")],
            "Target(http, http://h:9/v1/traces)",
        );
    }

    #[test]
    fn the_option_comes_before_the_environment() {
        let env = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4318"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://traces:4318/in"),
        ];
        check(Some("http://h:4318"), &env, "Target(http, http://h:4318/v1/traces)");
        check(None, &env, "Target(http, http://traces:4318/in)");
        check(None, &env[..1], "Target(http, http://all:4318/v1/traces)");
    }

    #[test]
    fn nothing_is_sent_unless_asked_and_the_switches_hold() {
        check(None, &[], "");
        check(None, &[("OTEL_TRACES_EXPORTER", "otlp")], "Target(http, http://localhost:4318/v1/traces)");
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4318");
        check(None, &[endpoint, ("OTEL_TRACES_EXPORTER", "none")], "");
        check(None, &[endpoint, ("OTEL_TRACES_EXPORTER", "console")], "");
        check(Some("http://h:9"), &[("OTEL_TRACES_EXPORTER", "none")], "Target(http, http://h:9/v1/traces)");
        check(Some("http://h:4318"), &[("OTEL_SDK_DISABLED", "true")], "");
    }

    #[test]
    fn a_wrong_target_names_its_origin_and_no_password() {
        let refused = |option: Option<&str>, name: &str, value: &str| {
            let get = |key: &str| (key == name).then(|| value.to_owned());
            Target::resolve(option, get).unwrap_err().to_string()
        };
        assert!(refused(Some("h:4317"), "", "").starts_with("otlp: "));
        let text = refused(None, "OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://me:secret@h");
        assert!(text.starts_with("OTEL_EXPORTER_OTLP_ENDPOINT: ") && !text.contains("secret"), "{text}");
        assert!(refused(Some("http://h"), "OTEL_EXPORTER_OTLP_PROTOCOL", "http/json").contains("http/json"));
        for url in ["http://me:secret@h:9", "http://me:9/secret@h:9", "http://me:?secret@h"] {
            let text = refused(Some(url), "", "");
            assert!(text.contains("OTEL_EXPORTER_OTLP_HEADERS") && !text.contains("secret"), "{text}");
        }
    }
}
