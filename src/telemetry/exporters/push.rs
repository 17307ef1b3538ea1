//! The push at the end: one POST to a Pushgateway, for a job that is gone before it is scraped.
//!
//! POST replaces the metrics of the same name within the group and keeps the others, so a failed run does
//! not wipe out the time of the last success. The group is `job="headcount"` and the task: two tasks
//! never overwrite each other, and metrics without a task (the pool, cancels) do not collide either,
//! since the Pushgateway gives each the labels of its group.

use std::time::Duration;

use reqwest::{Client, Url};

use super::http;
use super::prometheus::TEXT_FORMAT;
use crate::error::Error;

/// A Pushgateway and the group to push to. Never shows credentials.
#[derive(Clone)]
pub struct Push {
    url: Url,
    client: Client,
}

impl Push {
    /// `url` is the Pushgateway's address (`http://host:9091`), or a whole group
    /// (`.../metrics/job/nightly/task/rollup`), which is then used as it is. It may hold a user and password.
    /// `limit` bounds the whole push.
    ///
    /// # Errors
    ///
    /// A configuration error that names `--push`, without the URL, which may hold a password.
    pub fn new(url: &str, task: &str, limit: Duration) -> Result<Self, Error> {
        let wrong = |problem: &str| Error::configuration("push", problem);
        if http::may_hide_a_password(url) {
            return Err(wrong(
                "`/`, `?` and `#` in a user or password are written %2F, %3F and %23; `@` elsewhere %40",
            ));
        }
        let mut url = Url::parse(url).map_err(|_| wrong("not a URL, as in http://127.0.0.1:9091"))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(wrong("the URL must begin with http:// or https:// and name a host"));
        }
        if !url.path().contains("/metrics/job") {
            let base = url.path().trim_end_matches('/').to_owned();
            url.set_path(&format!("{base}/metrics/job/headcount/{}", group(task)));
        }
        let client = http::client(url.scheme() == "https")
            .timeout(limit)
            .build()
            .map_err(|error| Error::other("cannot make an HTTP client", error.without_url()))?;
        Ok(Self { url, client })
    }

    /// Where it goes, without credentials and query.
    #[must_use]
    pub fn shown(&self) -> String {
        http::shown(&self.url)
    }

    /// Posts the text of a scrape.
    ///
    /// # Errors
    ///
    /// One clause: what the Pushgateway, or the way to it, said.
    pub async fn send(&self, metrics: String) -> Result<(), String> {
        let request = self.client.post(self.url.clone()).header("content-type", TEXT_FORMAT).body(metrics);
        let response = request.send().await.map_err(http::clause)?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let body = response.text().await.unwrap_or_default();
        let first_line: String = body.lines().next().unwrap_or_default().chars().take(200).collect();
        Err(format!("it answered {status}: {first_line}").trim_end_matches([':', ' ']).to_owned())
    }
}

impl std::fmt::Debug for Push {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Push({})", self.shown())
    }
}

/// The task's part of the group. URLs fold the two names that mean folders, so those go in base64.
fn group(task: &str) -> String {
    match task {
        "." => "task@base64/Lg==".to_owned(),
        ".." => "task@base64/Li4=".to_owned(),
        name => format!("task/{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str, task: &str, expected: &str) {
        let push = Push::new(url, task, Duration::from_secs(1)).unwrap();
        assert_eq!(push.shown(), expected);
        assert_eq!(format!("{push:?}"), format!("Push({expected})"));
    }

    #[test]
    fn each_task_has_its_group_and_credentials_do_not_show() {
        check("http://h:9091", "rollup", "http://h:9091/metrics/job/headcount/task/rollup");
        check("http://me:secret@h:9091/gw/", "a", "http://h:9091/gw/metrics/job/headcount/task/a");
        check("http://h:9091/metrics/job/x/task/y?q=1", "a", "http://h:9091/metrics/job/x/task/y");
        check("http://h:9091", "..", "http://h:9091/metrics/job/headcount/task@base64/Li4=");
    }

    #[test]
    fn a_wrong_url_is_refused_without_being_shown() {
        for url in [
            "",
            "h:9091",
            "ftp://me:secret@h",
            "http://me:secret@:x",
            "http://me:9/secret@h:9091",
            "http://me:?secret@h",
        ] {
            let error = Push::new(url, "a", Duration::from_secs(1)).unwrap_err();
            assert!(error.is_configuration());
            assert!(
                error.to_string().starts_with("push: ") && !error.to_string().contains("secret"),
                "{error}"
            );
        }
    }
}
