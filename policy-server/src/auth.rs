//! Who may ask: static bearer tokens.

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use sha2::{Digest, Sha256};
use std::fmt;
use std::hint::black_box;

/// The name of whoever asks where no token is asked for.
const NOBODY: &str = "development-no-auth";

/// Who may use the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    /// Whoever shows one of these tokens.
    Tokens(Vec<Token>),
    /// Everybody: for development on a loopback address only.
    Nobody,
}

/// A token and the name its bearer has in audit lines. Only a hash of the token is kept.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    name: String,
    digest: [u8; 32],
}

impl Token {
    /// A token for `name`. White space around the secret is not part of it: files end in a newline.
    ///
    /// # Errors
    /// A sentence if the secret is empty or has characters no HTTP header can carry.
    pub fn new(name: impl Into<String>, secret: &str) -> Result<Self, String> {
        let secret = secret.trim();
        if secret.is_empty() {
            return Err("the token is empty".to_owned());
        }
        if !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("the token must be printable ASCII without spaces".to_owned());
        }
        Ok(Self { name: name.into(), digest: Sha256::digest(secret).into() })
    }

    /// Its bearer's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({})", self.name)
    }
}

/// Why a request is not let in; the texts are Cloud Foundry's (`handlers/auth_middleware.go`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unauthorized {
    /// No `Authorization` header.
    #[error("missing authorization header")]
    Missing,
    /// A token nobody has.
    #[error("failed to verify token with uaa")]
    Unknown,
}

impl Auth {
    /// The name of whoever sent these headers.
    ///
    /// # Errors
    /// [`Unauthorized`].
    pub fn check(&self, headers: &HeaderMap) -> Result<String, Unauthorized> {
        let Self::Tokens(tokens) = self else {
            return Ok(NOBODY.to_owned());
        };
        let header = headers.get(AUTHORIZATION).ok_or(Unauthorized::Missing)?;
        let shown = Sha256::digest(bare(header.as_bytes())).into();
        tokens
            .iter()
            .find(|token| same(&token.digest, &shown))
            .map(|token| token.name.clone())
            .ok_or(Unauthorized::Unknown)
    }
}

/// The token without `Bearer `, then without `bearer `: as Cloud Foundry's server strips them, so that
/// whatever passes there passes here.
fn bare(header: &[u8]) -> &[u8] {
    let header = header.strip_prefix(b"Bearer ").unwrap_or(header);
    header.strip_prefix(b"bearer ").unwrap_or(header)
}

/// Compares in a time that does not depend on where the two differ.
fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    let difference = a.iter().zip(b).fold(0, |sum, (a, b)| black_box(sum | (a ^ b)));
    black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(header: Option<&str>) -> Result<String, Unauthorized> {
        let auth = Auth::Tokens(vec![Token::new("ci", "first").unwrap(), Token::new("ops", " second\n").unwrap()]);
        let mut headers = HeaderMap::new();
        if let Some(value) = header {
            headers.insert(AUTHORIZATION, value.parse().unwrap());
        }
        auth.check(&headers)
    }

    #[test]
    fn spellings_of_the_header_that_pass_and_fail() {
        for (header, name) in
            [("Bearer first", "ci"), ("bearer first", "ci"), ("first", "ci"), ("Bearer bearer second", "ops")]
        {
            assert_eq!(check(Some(header)).as_deref(), Ok(name), "{header}");
        }
        for header in ["", "Bearer ", "Bearer  first", "BEARER first", "Basic first", "Bearer firs", "Bearer firstt"] {
            assert_eq!(check(Some(header)), Err(Unauthorized::Unknown), "{header}");
        }
        assert_eq!(check(None), Err(Unauthorized::Missing));
    }

    #[test]
    fn a_token_is_never_empty_and_never_printed() {
        assert!(Token::new("x", " \n").is_err());
        assert!(Token::new("x", "a b").is_err());
        let shown = format!("{:?}", Token::new("ci", "secret").unwrap());
        assert!(!shown.contains("secret"), "{shown}");
    }
}
