//! Why a connection would pass, or not.

use super::plain;
use std::fmt::Write;
use weft_api::explain::{DataPlane, Explanation, Judgement, PartyView, Verdict, in_words};

/// The outcome first, then who says so and why.
#[must_use]
pub fn explain(explanation: &Explanation) -> String {
    let Explanation { verdict, source, destination, service, .. } = explanation;
    let outcome = match verdict {
        Verdict::Allowed => "ALLOWED",
        Verdict::Denied => "DENIED",
        Verdict::Elsewhere => "NOT STOPPED HERE",
    };
    let mut page = format!("{outcome}: {} → {} {service}\n", party(source), party(destination));
    let mut line = |text: String| {
        // Writing to a String cannot fail.
        writeln!(page, "  {}", plain(&text)).unwrap_or_default();
    };
    for judgement in &explanation.judgements {
        line(judged(judgement));
        match &judgement.data_plane {
            Some(state) => line(format!("         {}", programs(state))),
            None => line("         no workload of this group is here: judged as this host would judge one".to_owned()),
        }
    }
    if explanation.judgements.is_empty() {
        line("neither side is a workload of this host, nor a group: nothing here judges it".to_owned());
    }
    if let Some(host) = &explanation.ask {
        line(format!("{host} has the last word: run weft explain there, and name the source by its group"));
    }
    page
}

fn party(party: &PartyView) -> String {
    let address = party.address.map(|address| address.to_string()).filter(|address| *address != party.name);
    let group = party.group.as_ref().map(ToString::to_string).filter(|group| *group != party.name);
    let known: Vec<String> =
        [Some(party.kind.clone()), address, group, party.host.clone()].into_iter().flatten().collect();
    plain(&format!("{} ({})", party.name, known.join(", ")))
}

fn judged(judgement: &Judgement) -> String {
    let Judgement { host, direction, because, rule, audit, .. } = judgement;
    let answer = match (judgement.passes, audit) {
        (true, true) => "denied, but passes: the host only logs (audit)",
        (true, false) => "passes",
        (false, _) => "denied",
    };
    let reason = match (because.as_str(), rule) {
        ("rule", Some(rule)) => format!("rule {}: {}", rule.id, rule.origin),
        (other, _) => in_words(other).to_owned(),
    };
    format!("{direction:<8} on {host}: {answer}; {reason}")
}

fn programs(state: &DataPlane) -> String {
    let rules = match state.rules {
        None => "rules of an earlier agent".to_owned(),
        Some(1) => "1 rule".to_owned(),
        Some(rules) => format!("{rules} rules"),
    };
    let isolated = if state.isolated { "isolated" } else { "not isolated" };
    let mut text = format!(
        "programs: revision {}, set {} ({rules}), generation {}, {isolated}",
        state.revision, state.set, state.generation
    );
    if !state.current {
        text.push_str(", NOT what the newest policies say (weft status)");
    }
    if !state.attached {
        text.push_str(", programs NOT on its link");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = r#"{"verdict":"denied","service":"tcp 8080","revision":12,
        "source":{"name":"10.255.1.5","kind":"workload","address":"10.255.1.5","group":"app"},
        "destination":{"name":"web-0","kind":"workload","address":"10.255.1.6","group":"web"},
        "judgements":[{"host":"c1","direction":"egress","passes":true,"because":"open","audit":false,
          "dataPlane":{"revision":12,"current":true,"attached":true,"set":4,"rules":0,"generation":3,"isolated":true}},
         {"host":"c1","direction":"ingress","passes":false,"because":"isolated","audit":false,
          "dataPlane":{"revision":11,"current":false,"attached":false,"set":5,"rules":null,"generation":7,"isolated":true}}]}"#;

    #[test]
    fn a_denied_connection() {
        assert_eq!(
            explain(&serde_json::from_str(ANSWER).unwrap()),
            "DENIED: 10.255.1.5 (workload, app) → web-0 (workload, 10.255.1.6, web) tcp 8080\n  \
             egress   on c1: passes; no rule says no, and none is needed\n           \
             programs: revision 12, set 4 (0 rules), generation 3, isolated\n  \
             ingress  on c1: denied; no policy allows it, and the workload is isolated\n           \
             programs: revision 11, set 5 (rules of an earlier agent), generation 7, isolated, NOT what the newest policies say (weft status), programs NOT on its link\n"
        );
    }

    #[test]
    fn another_host_has_the_last_word() {
        let mut answer: Explanation = serde_json::from_str(ANSWER).unwrap();
        answer.verdict = Verdict::Elsewhere;
        answer.judgements.truncate(1);
        answer.destination = PartyView {
            kind: "workload elsewhere".to_owned(),
            host: Some("n2 (192.0.2.2)".to_owned()),
            group: None,
            ..answer.destination
        };
        answer.ask.clone_from(&answer.destination.host);
        let shown = explain(&answer);
        assert!(shown.starts_with("NOT STOPPED HERE: "), "{shown}");
        assert!(
            shown.ends_with(
                "n2 (192.0.2.2) has the last word: run weft explain there, and name the source by its group\n"
            ),
            "{shown}"
        );
    }
}
