//! The network config on stdin.
//!
//! Unknown keys are the spec's to add and are tolerated, except in our own section. Keys are matched
//! without regard to case, as Go does: containerd writes `HostPort` where others write `hostPort`.

use crate::error::{CniError, Code};
use crate::result::CniResult;
use crate::version::Version;
use serde_json::{Map, Value};
use weft_model::group::{GROUP_ANNOTATION, Identity};

/// A config: an object with a valid name; the rest is checked when it is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Config(Map<String, Value>);

impl Config {
    /// Reads it.
    ///
    /// # Errors
    /// Codes 6 and 7 with the reference's words.
    pub fn parse(stdin: &[u8]) -> Result<Self, CniError> {
        let decoding = |what: String| CniError::new(Code::Decoding, format!("error unmarshall network config: {what}"));
        let value: Value = serde_json::from_slice(stdin).map_err(|error| decoding(error.to_string()))?;
        let map = match value {
            Value::Object(map) => map,
            Value::Null => Map::new(),
            other => return Err(decoding(format!("{} is no object", kind(&other)))),
        };
        let config = Self(map);
        let name = config.text("name").map_err(|error| decoding(error.msg))?;
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            return Err(CniError::new(Code::InvalidConfig, "missing network name"));
        };
        // A network's name obeys the same rule as a container id.
        if weft_model::id::ContainerId::new(&name).is_err() {
            let error = CniError::new(Code::InvalidConfig, "invalid characters found in network name");
            return Err(error.details(name));
        }
        Ok(config)
    }

    /// Its version.
    ///
    /// # Errors
    /// Code 1 if we do not speak it, 6 if it is no text.
    pub fn version(&self) -> Result<Version, CniError> {
        let decoding = |error: CniError| {
            CniError::new(Code::Decoding, format!("decoding version from network config: {}", error.msg))
        };
        Version::parse(&self.text("cniVersion").map_err(decoding)?.unwrap_or_default())
    }

    /// The network's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.get("name").and_then(Value::as_str).unwrap_or_default()
    }

    /// As it came, for a plugin that does part of the work.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(&self.0).unwrap_or_default()
    }

    /// The same in an older version, `prevResult` too.
    ///
    /// # Errors
    /// `prevResult` is none: codes 1 and 6.
    pub fn in_version(&self, version: Version) -> Result<Self, CniError> {
        let mut map = self.0.clone();
        map.retain(|key, _| !key.eq_ignore_ascii_case("cniVersion"));
        map.insert("cniVersion".to_owned(), version.as_str().into());
        if let Some(previous) = CniResult::previous(self)? {
            map.retain(|key, _| !key.eq_ignore_ascii_case("prevResult"));
            map.insert("prevResult".to_owned(), previous.to_value(version));
        }
        Ok(Self(map))
    }

    /// The value of a key; `null` is as good as absent.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        lookup(&self.0, key)
    }

    /// Whether a key stands there, be it `null`.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.0.keys().any(|ours| ours.eq_ignore_ascii_case(key))
    }

    /// What it says of the workload's identity: Garden's metadata and the pod's annotations.
    ///
    /// # Errors
    /// Code 7 if one of them is there but no text: an identity is not guessed.
    pub fn identity(&self) -> Result<Identity, CniError> {
        let metadata = self.object("metadata")?;
        let field = |key: &str| -> Result<Option<String>, CniError> {
            let value = metadata.and_then(|map| lookup(map, key));
            Ok(text_of(&format!("metadata.{key}"), value)?.filter(|text| !text.is_empty()))
        };
        Ok(Identity {
            policy_group_id: field("policy_group_id")?,
            space_id: field("space_id")?,
            org_id: field("org_id")?,
            group_annotation: self.group_annotation()?,
            ..Identity::default()
        })
    }

    fn group_annotation(&self) -> Result<Option<String>, CniError> {
        const ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";
        let Some(runtime) = self.object("runtimeConfig")? else {
            return Ok(None);
        };
        let field = format!("runtimeConfig[{ANNOTATIONS:?}]");
        let Some(annotations) = object_of(&field, lookup(runtime, ANNOTATIONS))? else {
            return Ok(None);
        };
        // Annotation keys are data: exact, and an empty value is a value.
        text_of(&format!("{field}[{GROUP_ANNOTATION:?}]"), annotations.get(GROUP_ANNOTATION))
    }

    /// An object of the config.
    ///
    /// # Errors
    /// Code 7 if it is something else.
    pub fn object(&self, key: &str) -> Result<Option<&Map<String, Value>>, CniError> {
        object_of(key, self.get(key))
    }

    fn text(&self, key: &str) -> Result<Option<String>, CniError> {
        text_of(key, self.get(key))
    }
}

/// The value of a key, exact or else in any case; `null` is as good as absent.
pub(crate) fn lookup<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    map.get(key)
        .or_else(|| map.iter().find(|(ours, _)| ours.eq_ignore_ascii_case(key)).map(|(_, value)| value))
        .filter(|value| !value.is_null())
}

pub(crate) fn object_of<'a>(field: &str, value: Option<&'a Value>) -> Result<Option<&'a Map<String, Value>>, CniError> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(map)) => Ok(Some(map)),
        Some(other) => Err(invalid(field, other, "an object")),
    }
}

pub(crate) fn list<'a>(field: &str, value: Option<&'a Value>) -> Result<&'a [Value], CniError> {
    match value {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(values)) => Ok(values),
        Some(other) => Err(invalid(field, other, "a list")),
    }
}

pub(crate) fn text_of(field: &str, value: Option<&Value>) -> Result<Option<String>, CniError> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(invalid(field, other, "a string")),
    }
}

/// Code 7 with the field, what was given and what is allowed.
pub(crate) fn invalid(field: &str, value: &Value, allowed: &str) -> CniError {
    CniError::new(Code::InvalidConfig, format!("invalid {field} {}: must be {allowed}", shown(value)))
}

/// A value as an error shows it: whole if short.
pub(crate) fn shown(value: &Value) -> String {
    const LIMIT: usize = 80;
    let text = value.to_string();
    match text.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
