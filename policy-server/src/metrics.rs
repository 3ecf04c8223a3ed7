//! Counters and gauges, in Prometheus' text format 0.0.4.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use weft_store::policy::PolicyView;

/// What the server counts.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    requests: Mutex<BTreeMap<Request, Times>>,
    store_errors: Mutex<BTreeMap<&'static str, u64>>,
    policies: AtomicI64,
    tags: AtomicI64,
    revision: AtomicI64,
}

/// Requests that are counted together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Request {
    pub(crate) method: &'static str,
    pub(crate) route: String,
    pub(crate) status: u16,
}

#[derive(Debug, Default, Clone, Copy)]
struct Times {
    count: u64,
    seconds: f64,
}

impl Metrics {
    pub(crate) fn request(&self, request: Request, took: Duration) {
        let mut requests = lock(&self.requests);
        let times = requests.entry(request).or_default();
        times.count += 1;
        times.seconds += took.as_secs_f64();
    }

    /// `answer`: the error text the client got.
    pub(crate) fn store_error(&self, answer: &'static str) {
        *lock(&self.store_errors).entry(answer).or_default() += 1;
    }

    /// What a whole view says of sizes.
    pub(crate) fn seen(&self, view: &PolicyView) {
        let number = |length| i64::try_from(length).unwrap_or(i64::MAX);
        self.policies.store(number(view.policies.len()), Ordering::Relaxed);
        self.tags.store(number(view.tags.len()), Ordering::Relaxed);
        self.revision.fetch_max(view.revision, Ordering::Relaxed);
    }

    pub(crate) fn text(&self, uptime: Duration) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        self.write(&mut text, uptime).unwrap_or_default();
        text
    }

    fn write(&self, text: &mut String, uptime: Duration) -> fmt::Result {
        let requests = lock(&self.requests).clone();
        let name = "weft_policy_server_requests_total";
        head(text, name, "counter", "Requests by method, route and status.")?;
        for (labels, times) in &requests {
            writeln!(text, "{name}{{{labels}}} {}", times.count)?;
        }
        let name = "weft_policy_server_request_seconds_total";
        head(text, name, "counter", "Time spent on requests.")?;
        for (labels, times) in &requests {
            writeln!(text, "{name}{{{labels}}} {}", times.seconds)?;
        }
        let name = "weft_policy_server_store_errors_total";
        head(text, name, "counter", "Failures of the store by what clients were told.")?;
        for (answer, count) in lock(&self.store_errors).iter() {
            writeln!(text, "{name}{{answer=\"{answer}\"}} {count}")?;
        }
        for (name, gauge, help) in [
            ("weft_policies", &self.policies, "Policies when last read."),
            ("weft_policy_tags", &self.tags, "Tags in use when last read."),
            ("weft_policy_revision", &self.revision, "Newest revision seen."),
        ] {
            head(text, name, "gauge", help)?;
            writeln!(text, "{name} {}", gauge.load(Ordering::Relaxed))?;
        }
        let name = "weft_policy_server_uptime_seconds";
        head(text, name, "gauge", "Time since the server's start.")?;
        writeln!(text, "{name} {}", uptime.as_secs_f64())
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, route, status } = self;
        // Routes are templates of ours and need no escaping.
        write!(f, "method=\"{method}\",route=\"{route}\",status=\"{status}\"")
    }
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) -> fmt::Result {
    writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}")
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
