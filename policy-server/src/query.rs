//! Query strings and the filters they ask for.
//!
//! Go's server ignores the malformed parts of a query, so that a mistyped filter answers *all*
//! policies. Here a query that cannot be read is refused.

use std::collections::BTreeSet;
use weft_model::policy::Policy;

/// The first value of each key asked for, percent-decoded.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// # Errors
    /// A sentence that names the part that cannot be read.
    pub(crate) fn parse(raw: Option<&str>) -> Result<Self, String> {
        let parts = raw.unwrap_or_default().split('&');
        let pairs = parts.filter(|part| !part.is_empty()).map(|part| {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            match (decode(key), decode(value)) {
                (Some(key), Some(value)) if !part.contains(';') => Ok((key, value)),
                _ => Err(format!("invalid query {part:?}: must be key=value, percent-encoded UTF-8, without ';'")),
            }
        });
        pairs.collect::<Result<_, _>>().map(Self)
    }

    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        let mut pairs = self.0.iter();
        pairs.find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// A comma-separated list; an empty value is a list of nothing.
    fn ids(&self, key: &str) -> Option<BTreeSet<String>> {
        self.get(key).map(|value| value.split(',').map(str::to_owned).collect())
    }
}

/// Percent-decoding, `+` for a space.
fn decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => (hex(bytes.next()?)? << 4) | hex(bytes.next()?)?,
            other => other,
        });
    }
    String::from_utf8(decoded).ok()
}

fn hex(digit: u8) -> Option<u8> {
    let digit = char::from(digit).to_digit(16)?;
    u8::try_from(digit).ok()
}

/// Which policies a list shows.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Filter {
    /// All.
    All,
    /// Those whose source or destination is one of these.
    Either(BTreeSet<String>),
    /// Those whose source and destination are each one of these, where given.
    Both { source: Option<BTreeSet<String>>, destination: Option<BTreeSet<String>> },
}

impl Filter {
    /// `id` takes precedence; `source_id` and `dest_id` go together.
    pub(crate) fn of(query: &Query) -> Self {
        let (source, destination) = (query.ids("source_id"), query.ids("dest_id"));
        match query.ids("id") {
            Some(ids) => Self::Either(ids),
            None if source.is_none() && destination.is_none() => Self::All,
            None => Self::Both { source, destination },
        }
    }

    pub(crate) fn shows(&self, policy: &Policy) -> bool {
        let (source, destination) = (policy.source.as_str(), policy.destination.as_str());
        let within = |ids: &Option<BTreeSet<String>>, id| ids.as_ref().is_none_or(|ids| ids.contains(id));
        match self {
            Self::All => true,
            Self::Either(ids) => ids.contains(source) || ids.contains(destination),
            Self::Both { source: sources, destination: destinations } => {
                within(sources, source) && within(destinations, destination)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_model::id::GroupId;
    use weft_model::policy::{PortRange, Protocol};

    fn shows(query: &str) -> bool {
        let query = Query::parse(Some(query)).unwrap();
        Filter::of(&query).shows(&Policy {
            source: GroupId::new("app one").unwrap(),
            destination: GroupId::new("k8s:east/shop/web").unwrap(),
            protocol: Protocol::Tcp,
            ports: PortRange::new(80, 80).unwrap(),
        })
    }

    #[test]
    fn filters_as_cloud_foundry_reads_them() {
        for query in [
            "",
            "&&",
            "ID=x",
            "unknown=x",
            "id=app+one",
            "id=x,app%20one",
            "id=x%2Capp%20one",
            "id=k8s:east/shop/web",
            "id=app+one&id=x",
            "id=app+one&source_id=x",
            "source_id=app+one",
            "dest_id=x,k8s%3Aeast%2Fshop%2Fweb",
            "source_id=app+one&dest_id=k8s:east/shop/web",
        ] {
            assert!(shows(query), "{query}");
        }
        for query in [
            "id",
            "id=",
            "id=,",
            "id=x",
            "id=x&id=app+one",
            "source_id=x",
            "source_id=&dest_id=k8s:east/shop/web",
            "source_id=app+one&dest_id=x",
        ] {
            assert!(!shows(query), "{query}");
        }
    }

    #[test]
    fn a_query_that_cannot_be_read_is_refused() {
        for query in ["id=%zz", "id=%2", "id=app1;x", "id=%ff", "%zz=x", "a;b"] {
            let error = Query::parse(Some(query)).unwrap_err();
            assert!(error.contains(query), "{error}");
        }
    }
}
