//! The policy server's API, as its clients use it.

use crate::args::ServerArgs;
use crate::error::CliError;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::time::Duration;
use ureq::http::Response;
use ureq::{Agent, Body};
use weft_api::enforced::{EnforcedReport, REVISION_HEADER};
use weft_api::policies::{PolicyBody, PolicyList};
use weft_model::id::GroupId;
use weft_model::policy::Policy;

const POLICIES: &str = "/networking/v1/external/policies";
/// Beyond what the server itself waits for.
const PATIENCE: Duration = Duration::from_secs(10);
/// 60,000 policies are about 10 MiB.
const MAX_ANSWER: u64 = 512 << 20;

/// A policy server.
pub struct Server {
    url: String,
    token: Option<String>,
}

impl Server {
    /// The server the arguments name. `token`: the variable `WEFT_TOKEN`.
    ///
    /// # Errors
    /// [`CliError::Url`], [`CliError::Token`].
    pub fn new(args: &ServerArgs, token: Option<String>) -> Result<Self, CliError> {
        let url = args.server.trim_end_matches('/');
        if !url.strip_prefix("http://").is_some_and(|host| !host.is_empty() && !host.contains(char::is_whitespace)) {
            return Err(CliError::Url { url: args.server.clone() });
        }
        let token = match &args.token_file {
            None => token,
            Some(file) => {
                let wrong = |complaint| CliError::Token { file: file.clone(), complaint };
                let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
                Some(text)
            }
        };
        let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        Ok(Self { url: url.to_owned(), token })
    }

    /// The policies that name `group`, or all.
    ///
    /// # Errors
    /// [`CliError`].
    pub fn list(&self, group: Option<&GroupId>) -> Result<PolicyList, CliError> {
        let path = filtered(group.map(|group| ("id", group)).as_slice());
        let mut list: PolicyList = self.read(&path, self.get(&path, PATIENCE)?)?;
        if let Some(group) = group {
            let names = |policy: &PolicyBody| [&policy.source.id, &policy.destination.id].contains(&&group.to_string());
            list.policies.retain(names);
            list.total_policies = list.policies.len();
        }
        Ok(list)
    }

    /// Whether exactly this policy is there.
    ///
    /// # Errors
    /// [`CliError`].
    pub fn has(&self, policy: &Policy) -> Result<bool, CliError> {
        let path = filtered(&[("source_id", &policy.source), ("dest_id", &policy.destination)]);
        let list: PolicyList = self.read(&path, self.get(&path, PATIENCE)?)?;
        Ok(list.policies.contains(&PolicyBody::from(policy)))
    }

    /// Adds a policy; the revision that has it.
    ///
    /// # Errors
    /// [`CliError`].
    pub fn create(&self, policy: &Policy) -> Result<i64, CliError> {
        self.change(POLICIES, policy)
    }

    /// Removes a policy; the revision that no longer has it.
    ///
    /// # Errors
    /// [`CliError`].
    pub fn delete(&self, policy: &Policy) -> Result<i64, CliError> {
        self.change(&format!("{POLICIES}/delete"), policy)
    }

    /// Waits until every host enforces `revision`.
    ///
    /// # Errors
    /// [`CliError`]; hosts that are too slow are none.
    pub fn wait(&self, revision: i64, timeout: Duration) -> Result<EnforcedReport, CliError> {
        let path = format!("/weft/v1/enforced?revision={revision}&timeout={}ms", timeout.as_millis());
        self.read(&path, self.get(&path, timeout + PATIENCE)?)
    }

    fn change(&self, path: &str, policy: &Policy) -> Result<i64, CliError> {
        let body = json!({ "policies": [PolicyBody::from(policy)] });
        let request = agent(PATIENCE).post(self.at(path));
        let response = self.answer(path, self.authorized(request).send_json(body))?;
        let revision = response.headers().get(REVISION_HEADER);
        let revision = revision.and_then(|value| value.to_str().ok()?.parse().ok());
        revision.ok_or_else(|| CliError::ServerAnswer {
            url: self.at(path),
            complaint: "it names no revision; is it a weft-policy-server?".to_owned(),
        })
    }

    fn get(&self, path: &str, timeout: Duration) -> Result<Response<Body>, CliError> {
        self.answer(path, self.authorized(agent(timeout).get(self.at(path))).call())
    }

    fn authorized<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match &self.token {
            Some(token) => request.header("Authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    /// A 200, or what went wrong.
    fn answer(&self, path: &str, answer: Result<Response<Body>, ureq::Error>) -> Result<Response<Body>, CliError> {
        let url = self.at(path);
        let mut response =
            answer.map_err(|error| CliError::Server { url: url.clone(), complaint: error.to_string() })?;
        let status = response.status().as_u16();
        if status == 200 {
            return Ok(response);
        }
        let text = response.body_mut().read_to_string().unwrap_or_default();
        let json = serde_json::from_str::<Value>(&text).ok();
        let error = json.and_then(|json| json.get("error")?.as_str().map(str::to_owned));
        let message = error.unwrap_or_else(|| text.trim().to_owned());
        Err(CliError::Refused { url, status, message })
    }

    fn read<T: DeserializeOwned>(&self, path: &str, mut response: Response<Body>) -> Result<T, CliError> {
        let body = response.body_mut().with_config().limit(MAX_ANSWER);
        body.read_json().map_err(|error| CliError::ServerAnswer { url: self.at(path), complaint: error.to_string() })
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }
}

/// Answers of any status are looked at; a proxy for the outside world never knows our servers.
fn agent(timeout: Duration) -> Agent {
    let config = Agent::config_builder();
    let config = config.http_status_as_error(false).max_redirects(0).proxy(None).timeout_global(Some(timeout));
    config.build().new_agent()
}

/// The path of a list with filters. In a filter a comma separates, so groups with one in their id cannot
/// be asked for; whoever asks looks at what comes back.
fn filtered(filters: &[(&str, &GroupId)]) -> String {
    let filters = filters.iter().filter(|(_, group)| !group.as_str().contains(','));
    let query: Vec<_> = filters.map(|(key, group)| format!("{key}={}", encode(group.as_str()))).collect();
    if query.is_empty() { POLICIES.to_owned() } else { format!("{POLICIES}?{}", query.join("&")) }
}

/// Percent-encodes all but what RFC 3986 calls unreserved.
pub(crate) fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let encoded = |byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(encoded).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_survive_the_query_string() {
        let group = |id: &str| GroupId::new(id).unwrap();
        let (a, b) = (group("a,b"), group("c/d"));
        assert_eq!(filtered(&[("id", &a)]), POLICIES);
        assert_eq!(filtered(&[("source_id", &a), ("dest_id", &b)]), format!("{POLICIES}?dest_id=c%2Fd"));
        assert_eq!(encode("k8s:east/shop&a=b"), "k8s%3Aeast%2Fshop%26a%3Db");
        assert_eq!(encode("1081ceac-f5c4.x_y~"), "1081ceac-f5c4.x_y~");
        assert_eq!(encode("ü"), "%C3%BC");
    }
}
