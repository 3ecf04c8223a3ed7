//! The policy API through the lab: what is no policy is refused in Cloud Foundry's words, and nothing
//! of a refused request is kept.

use serde_json::Value;
use weft_tests::lab;

const POLICIES: &str = "/networking/v1/external/policies";

#[test]
fn bad_requests_are_refused_and_keep_nothing() {
    let lab = lab("rest");
    let policy =
        |destination: &str| format!(r#"{{"policies":[{{"source":{{"id":"a"}},"destination":{destination}}}]}}"#);
    let cases = [
        ("this is not JSON".to_owned(), "unmarshal json"),
        (
            policy(r#"{"id":"b","protocol":"icmp","ports":{"start":1,"end":1}}"#),
            "invalid destination protocol, specify either udp or tcp",
        ),
        (policy(r#"{"id":"b","protocol":"tcp","ports":{"start":0,"end":0}}"#), "missing start port"),
        (
            policy(r#"{"id":"b","protocol":"tcp","ports":{"start":9,"end":8}}"#),
            "invalid port range 9-8, start must be less than or equal to end",
        ),
        (r#"{"policies":[]}"#.to_owned(), "missing policies"),
    ];
    for (body, want) in cases {
        let (status, answer) = lab.rest("POST", POLICIES, Some(&body)).unwrap();
        let error: Value = serde_json::from_str(&answer).unwrap_or_else(|_| panic!("not JSON: {answer}"));
        assert_eq!(status, 400, "{answer}");
        assert!(error["error"].as_str().unwrap().contains(want), "{answer}");
    }
    let (status, listed) = lab.rest("GET", POLICIES, None).unwrap();
    assert_eq!((status, listed.trim()), (200, r#"{"total_policies":0,"policies":[]}"#));
}
