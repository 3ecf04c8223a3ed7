//! JSON as Go's decoder reads it, because clients of Cloud Foundry's API were written against it: keys
//! in any case, of a repeated key the last value wins, `null` is absence, bytes that are no UTF-8
//! become U+FFFD.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// A document.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node {
    Null,
    Bool,
    Whole(i64),
    /// A number that is no whole one, or too large: 1.0 and 1e3 too.
    Number(f64),
    Text(String),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
}

impl Node {
    /// Reads one document and nothing after it.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text = String::from_utf8_lossy(bytes);
        let mut documents = serde_json::Deserializer::from_str(&text).into_iter::<Self>();
        let node = match documents.next() {
            Some(Ok(node)) => node,
            Some(Err(error)) if !error.is_eof() => return Err(error.to_string()),
            Some(Err(_)) | None => return Err("unexpected end of JSON input".to_owned()),
        };
        let rest = text.get(documents.byte_offset()..).unwrap_or_default();
        match rest.trim_start_matches([' ', '\t', '\r', '\n']).chars().next() {
            None => Ok(node),
            Some(stray) => Err(format!("invalid character {stray:?} after top-level value")),
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool => "a boolean",
            Self::Whole(_) => "a number",
            Self::Number(_) => "a number that is not whole, or out of range",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }
}

/// A value of the wrong type, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WrongType {
    path: String,
    wanted: &'static str,
    got: &'static str,
}

impl WrongType {
    fn new(wanted: &'static str, got: &Node) -> Self {
        Self { path: String::new(), wanted, got: got.kind() }
    }

    /// The same, seen from outside `place` (`destination` or `[3]`).
    pub(crate) fn inside(mut self, place: &str) -> Self {
        let dot = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("{place}{dot}{}", self.path);
        self
    }
}

impl fmt::Display for WrongType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, wanted, got } = self;
        let what = if path.is_empty() { "the body" } else { path };
        write!(f, "{what} must be {wanted}, not {got}")
    }
}

/// The fields of an object; of `null` none.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a>(&'a [(String, Node)]);

impl<'a> Fields<'a> {
    pub(crate) fn of(node: &'a Node) -> Result<Self, WrongType> {
        match node {
            Node::Null => Ok(Self(&[])),
            Node::Object(fields) => Ok(Self(fields)),
            other => Err(WrongType::new("an object", other)),
        }
    }

    pub(crate) fn text(self, key: &str) -> Result<String, WrongType> {
        match self.get(key) {
            None => Ok(String::new()),
            Some(Node::Text(text)) => Ok(text.clone()),
            Some(other) => Err(WrongType::new("text", other).inside(key)),
        }
    }

    pub(crate) fn whole(self, key: &str) -> Result<i64, WrongType> {
        match self.get(key) {
            None => Ok(0),
            Some(Node::Whole(number)) => Ok(*number),
            Some(other) => Err(WrongType::new("a whole number", other).inside(key)),
        }
    }

    pub(crate) fn list(self, key: &str) -> Result<&'a [Node], WrongType> {
        match self.get(key) {
            None => Ok(&[]),
            Some(Node::List(list)) => Ok(list),
            Some(other) => Err(WrongType::new("a list", other).inside(key)),
        }
    }

    pub(crate) fn fields(self, key: &str) -> Result<Self, WrongType> {
        self.get(key).map_or(Ok(Self(&[])), Self::of).map_err(|error| error.inside(key))
    }

    fn get(self, key: &str) -> Option<&'a Node> {
        self.0
            .iter()
            .rev()
            .find(|(name, node)| name.eq_ignore_ascii_case(key) && *node != Node::Null)
            .map(|(_, node)| node)
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Bool)
    }

    fn visit_i64<E>(self, number: i64) -> Result<Node, E> {
        Ok(Node::Whole(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Node, E> {
        #[expect(clippy::cast_precision_loss, reason = "only its kind is looked at")]
        let large = || Node::Number(number as f64);
        Ok(i64::try_from(number).map_or_else(|_| large(), Node::Whole))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Node, E> {
        Ok(Node::Number(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Node, E> {
        Ok(Node::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut fields = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            fields.push(entry);
        }
        Ok(Node::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_in_any_case_and_the_last_value_wins() {
        let node = Node::parse(br#"{"Id":"a","ID":"b","x":{},"id":null}"#).unwrap();
        let fields = Fields::of(&node).unwrap();
        assert_eq!(fields.text("id").as_deref(), Ok("b"));
        assert_eq!(fields.text("other").as_deref(), Ok(""));
    }

    #[test]
    fn what_follows_the_document_is_an_error() {
        assert!(Node::parse(b" {} \r\n").is_ok());
        assert_eq!(Node::parse(b"{}x").unwrap_err(), "invalid character 'x' after top-level value");
        for cut in ["", "  ", "{", r#"{"a":"#, "[1,"] {
            let error = Node::parse(cut.as_bytes()).unwrap_err();
            assert_eq!(error, "unexpected end of JSON input", "{cut:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_utf8_are_replaced() {
        let node = Node::parse(b"{\"id\":\"a\xff\"}").unwrap();
        let id = Fields::of(&node).unwrap().text("id").unwrap();
        assert_eq!(id, "a\u{fffd}");
    }

    #[test]
    fn errors_name_the_place() {
        for number in ["1.0", "1e3", "18446744073709551615", "true"] {
            let body = format!(r#"{{"ports":{{"start":{number}}}}}"#);
            let node = Node::parse(body.as_bytes()).unwrap();
            let ports = Fields::of(&node).unwrap().fields("ports").unwrap();
            let error = ports.whole("start").unwrap_err();
            let error = error.inside("ports").inside("[2]").inside("policies");
            let text = error.to_string();
            assert!(text.starts_with("policies[2].ports.start must be a whole number, not "), "{text}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        let deep = "[".repeat(100_000);
        assert!(Node::parse(deep.as_bytes()).is_err());
    }
}
