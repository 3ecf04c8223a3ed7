//! What is wrong is said once, again when it changes, and now and then while it lasts: passes repeat
//! every second, and a log that repeats with them hides what came first.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How often a lasting complaint is repeated.
const REMIND: Duration = Duration::from_secs(600);

/// Complaints that last.
#[derive(Default)]
pub(super) struct Complaints(BTreeMap<&'static str, (String, Instant)>);

impl Complaints {
    /// Notes a complaint; whether to say it.
    pub(super) fn raise(&mut self, about: &'static str, text: &str) -> bool {
        let said = self.0.get(about).is_some_and(|(last, since)| last.as_str() == text && since.elapsed() < REMIND);
        if !said {
            self.0.insert(about, (text.to_owned(), Instant::now()));
        }
        !said
    }

    /// Ends a complaint; whether there was one.
    pub(super) fn end(&mut self, about: &'static str) -> bool {
        self.0.remove(about).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_is_said_once_and_again_when_it_changes() {
        let mut complaints = Complaints::default();
        assert!(complaints.raise("a", "x") && !complaints.raise("a", "x"));
        assert!(complaints.raise("b", "x") && complaints.raise("a", "y"));
        assert!(complaints.end("a") && !complaints.end("a"));
        assert!(complaints.raise("a", "y"));
    }
}
