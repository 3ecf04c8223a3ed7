//! Names and numbers, each a type of its own.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

/// Why a text is no valid identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {what} {value:?}: {allowed}")]
pub struct InvalidId {
    /// Which identifier.
    pub what: &'static str,
    /// What was given.
    pub value: String,
    /// What is allowed.
    pub allowed: &'static str,
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $allowed:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks `value`.
            ///
            /// # Errors
            /// [`InvalidId`] with the value and what is allowed.
            pub fn new(value: impl Into<String>) -> Result<Self, InvalidId> {
                let value = value.into();
                let valid: fn(&str) -> bool = $valid;
                if valid(&value) {
                    Ok(Self(value))
                } else {
                    Err(InvalidId { what: $what, value, allowed: $allowed })
                }
            }

            /// The text itself.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(value: String) -> Result<Self, InvalidId> {
                Self::new(value)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(value: &str) -> Result<Self, InvalidId> {
                Self::new(value)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }
    };
}

text_id! {
    /// A group: what policies name. An app GUID, `k8s:<cluster>/<namespace>[/<name>]`, or whatever an
    /// operator writes into a policy. At most 255 bytes, because it is part of store keys.
    GroupId, "group id", "1 to 255 bytes without NUL",
    |v| !v.is_empty() && v.len() <= 255 && !v.contains('\0')
}

text_id! {
    /// A host's name for itself, made once and kept on its disk.
    NodeId, "node id", "1 to 63 characters of a-z, 0-9, '-', '.', beginning with a letter or digit",
    |v| {
        !v.is_empty()
            && v.len() <= 63
            && v.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.')
            && v.as_bytes()[0].is_ascii_alphanumeric()
    }
}

text_id! {
    /// A container id as CNI allows it (`^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`).
    ContainerId, "container id", "letters, digits, '_', '.', '-', beginning with a letter or digit",
    |v| {
        !v.is_empty()
            && v.as_bytes()[0].is_ascii_alphanumeric()
            && v.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
    }
}

text_id! {
    /// A network interface name as Linux and CNI allow it.
    IfName, "interface name", "1 to 15 bytes, not . or .., without '/', ':' and white space",
    |v| {
        !v.is_empty()
            && v.len() <= 15
            && v != "."
            && v != ".."
            && !v.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c == '\0')
    }
}

text_id! {
    /// What the agent gives with a reservation: random, and part of the link's alias, so that an
    /// incarnation of a workload is never taken for another.
    Token, "token", "8 to 40 characters of 0-9, a-f, '-'",
    |v| (8..=40).contains(&v.len()) && v.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b) || b == b'-')
}

/// A group's 16-bit number on the wire; 0 is "no identity" and not a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tag(NonZeroU16);

impl Tag {
    /// `None` for 0.
    #[must_use]
    pub fn new(number: u16) -> Option<Self> {
        NonZeroU16::new(number).map(Self)
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0.get()
    }
}

impl fmt::Display for Tag {
    /// Four upper-case hex digits, as CF's internal API writes tags.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04X}", self.0)
    }
}

impl FromStr for Tag {
    type Err = InvalidId;
    fn from_str(value: &str) -> Result<Self, InvalidId> {
        let invalid =
            || InvalidId { what: "tag", value: value.to_owned(), allowed: "four hexadecimal digits, 0001 to FFFF" };
        if value.len() != 4 || !value.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(invalid());
        }
        u16::from_str_radix(value, 16).ok().and_then(Self::new).ok_or_else(invalid)
    }
}

impl TryFrom<String> for Tag {
    type Error = InvalidId;
    fn try_from(value: String) -> Result<Self, InvalidId> {
        value.parse()
    }
}

impl From<Tag> for String {
    fn from(tag: Tag) -> Self {
        tag.to_string()
    }
}

/// A workload's place in its host's subnet: the offset of its address from the subnet's first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Slot(pub u16);

/// What a workload is to the runtime: its container and the name of its interface inside.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// The runtime's id of the container or sandbox.
    pub container_id: ContainerId,
    /// The interface's name inside.
    pub ifname: IfName,
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.container_id, self.ifname)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_four_hex_digits_and_never_zero() {
        assert_eq!("0A1f".parse::<Tag>().unwrap().to_string(), "0A1F");
        for bad in ["0000", "1", "00001", "+123", "zzzz", ""] {
            assert!(bad.parse::<Tag>().is_err(), "{bad}");
        }
    }

    #[test]
    fn identifiers_say_what_is_allowed() {
        let error = IfName::new("a/b").unwrap_err();
        assert_eq!(
            error.to_string(),
            "invalid interface name \"a/b\": 1 to 15 bytes, not . or .., without '/', ':' and white space"
        );
        assert!(ContainerId::new("../x").is_err());
        assert!(GroupId::new("x".repeat(256)).is_err());
    }
}
