//! `bandwidth`: of the config's own section for every workload, of `runtimeConfig` for this one.

use crate::config::{invalid, lookup, object_of, shown};
use crate::error::{CniError, Code};
use serde_json::{Map, Value};
use weft_model::bandwidth::{Bandwidth, Limit};

/// Reads one, in bits a second and bits; 0, absent and `null` are the same.
///
/// # Errors
/// Code 7 for what is no number, or a pair of numbers that is no limit.
pub fn read(field: &str, value: Option<&Value>) -> Result<Bandwidth, CniError> {
    let Some(map) = object_of(field, value)? else { return Ok(Bandwidth::default()) };
    Ok(Bandwidth { ingress: limit(field, map, "ingress")?, egress: limit(field, map, "egress")? })
}

/// As [`read`], with no key but the four: what an operator misspelt must not go unnoticed.
///
/// # Errors
/// Also code 2.
pub fn read_strictly(field: &str, value: &Value) -> Result<Bandwidth, CniError> {
    const KEYS: [&str; 4] = ["ingressRate", "ingressBurst", "egressRate", "egressBurst"];
    let map = object_of(field, Some(value))?;
    if let Some((key, value)) = map.into_iter().flatten().find(|(key, _)| !KEYS.contains(&key.as_str())) {
        let msg = format!("unsupported field {field}.{key} = {}: {} are allowed", shown(value), KEYS.join(", "));
        return Err(CniError::new(Code::UnsupportedField, msg));
    }
    read(field, Some(value))
}

fn limit(field: &str, map: &Map<String, Value>, direction: &str) -> Result<Option<Limit>, CniError> {
    let rate = number(field, map, &format!("{direction}Rate"))?;
    let burst = number(field, map, &format!("{direction}Burst"))?;
    Limit::new(rate, burst).map_err(|error| {
        let msg = format!("invalid {field}: {direction}Rate {rate}, {direction}Burst {burst}: {error}");
        CniError::new(Code::InvalidConfig, msg)
    })
}

fn number(field: &str, map: &Map<String, Value>, key: &str) -> Result<u64, CniError> {
    let Some(value) = lookup(map, key) else { return Ok(0) };
    value.as_u64().ok_or_else(|| invalid(&format!("{field}.{key}"), value, "a whole number, 0 for no limit"))
}
