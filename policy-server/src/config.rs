//! From flags, environment and file to a configuration, or to all that is wrong with it.

use crate::auth::{Auth, Token};
use clap::{Parser, ValueEnum};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// weft's policy server: Cloud Foundry's network policy API on top of etcd.
///
/// Flags win over the environment, and both over the file.
#[derive(Debug, Clone, Default, Parser)]
#[command(name = "weft-policy-server", version)]
pub struct Flags {
    /// A TOML file with the same names as the flags (`token-files` is a table: name = file)
    #[arg(long, value_name = "FILE", env = "WEFT_POLICY_SERVER_CONFIG")]
    pub config: Option<PathBuf>,
    /// Where to listen [default: 127.0.0.1:4002]
    #[arg(long, value_name = "ADDRESS:PORT", env = "WEFT_LISTEN")]
    pub listen: Option<String>,
    /// etcd's client URLs [default: http://127.0.0.1:2379]
    #[arg(long, value_name = "URL,...", value_delimiter = ',', env = "WEFT_ETCD")]
    pub etcd: Vec<String>,
    /// Where hosts' leases are in etcd [default: /coreos.com/network]
    #[arg(long, value_name = "PREFIX", env = "WEFT_ETCD_PREFIX")]
    pub etcd_prefix: Option<String>,
    /// A file with the bearer token clients must show; its owner is called `admin` in audit lines.
    /// The environment variable WEFT_TOKEN may hold the token itself
    #[arg(long, value_name = "FILE", env = "WEFT_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// Let everybody in. Only on a loopback address
    #[arg(long)]
    pub development_no_auth: bool,
    /// An origin browsers may ask from, or `*`
    #[arg(long, value_name = "ORIGIN,...", value_delimiter = ',', env = "WEFT_CORS_ORIGINS")]
    pub cors_origins: Vec<String>,
    /// How log lines look [default: text]
    #[arg(long, value_enum, env = "WEFT_LOG_FORMAT")]
    pub log_format: Option<LogFormat>,
    /// Which log lines are written, as in `info,weft_store=debug` [default: info]
    #[arg(long, value_name = "FILTER", env = "WEFT_LOG")]
    pub log: Option<String>,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// A JSON document a line.
    Json,
}

/// The file.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct File {
    listen: Option<String>,
    etcd: Vec<String>,
    etcd_prefix: Option<String>,
    token_file: Option<PathBuf>,
    token_files: BTreeMap<String, PathBuf>,
    development_no_auth: bool,
    cors_origins: Vec<String>,
    log_format: Option<LogFormat>,
    log: Option<String>,
}

/// What the server runs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where it listens.
    pub listen: SocketAddr,
    /// etcd's client URLs.
    pub etcd: Vec<String>,
    /// Where hosts' leases are in etcd.
    pub etcd_prefix: String,
    /// Who may use it.
    pub auth: Auth,
    /// Origins browsers may ask from.
    pub cors_origins: Vec<String>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which log lines are written.
    pub log: String,
}

/// Everything that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(pub Vec<String>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl Config {
    /// Puts flags and file together. `token`: the variable `WEFT_TOKEN`.
    ///
    /// # Errors
    /// [`ConfigErrors`], one sentence a fault.
    pub fn load(flags: Flags, token: Option<String>) -> Result<Self, ConfigErrors> {
        let mut errors = Vec::new();
        let file = flags.config.as_deref().map(read_file);
        let file = file.transpose().map_err(|error| ConfigErrors(vec![error]))?.unwrap_or_default();
        let listen = flags.listen.or(file.listen).unwrap_or_else(|| "127.0.0.1:4002".to_owned());
        let listen = address(&listen).map_err(|error| errors.push(error)).ok();
        let etcd = first_given(flags.etcd, file.etcd, "http://127.0.0.1:2379");
        errors.extend(etcd.iter().filter_map(|url| url_fault(url)));
        let etcd_prefix = flags.etcd_prefix.or(file.etcd_prefix);
        let etcd_prefix = etcd_prefix.unwrap_or_else(|| "/coreos.com/network".to_owned());
        if !etcd_prefix.starts_with('/') || etcd_prefix.ends_with('/') {
            errors.push(format!("etcd-prefix {etcd_prefix:?}: must begin with '/' and not end with it"));
        }
        let mut sources: Vec<_> = file.token_files.into_iter().collect();
        sources.extend(flags.token_file.or(file.token_file).map(|path| ("admin".to_owned(), path)));
        let before = errors.len();
        let tokens = read_tokens(sources, token, &mut errors);
        let tokens = (errors.len() == before).then_some(tokens);
        let development = flags.development_no_auth || file.development_no_auth;
        let auth = choose(tokens, development, listen, &mut errors);
        match (listen, auth) {
            (Some(listen), Some(auth)) if errors.is_empty() => Ok(Self {
                listen,
                etcd,
                etcd_prefix,
                auth,
                cors_origins: if flags.cors_origins.is_empty() { file.cors_origins } else { flags.cors_origins },
                log_format: flags.log_format.or(file.log_format).unwrap_or_default(),
                log: flags.log.or(file.log).unwrap_or_else(|| "info".to_owned()),
            }),
            _ => Err(ConfigErrors(errors)),
        }
    }
}

fn read_file(path: &Path) -> Result<File, String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| format!("config {shown}: {error}"))?;
    toml::from_str(&text).map_err(|error| format!("config {shown}: {error}"))
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .ok()
        .ok_or_else(|| format!("listen {text:?}: must be an IP address and a port, such as 127.0.0.1:4002"))
}

fn first_given(flags: Vec<String>, file: Vec<String>, default: &str) -> Vec<String> {
    let given = if flags.is_empty() { file } else { flags };
    if given.is_empty() { vec![default.to_owned()] } else { given }
}

fn url_fault(url: &str) -> Option<String> {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let good = rest.is_some_and(|host| !host.is_empty() && !host.contains(char::is_whitespace));
    (!good).then(|| format!("etcd {url:?}: must be a URL such as http://127.0.0.1:2379"))
}

fn read_tokens(sources: Vec<(String, PathBuf)>, env: Option<String>, errors: &mut Vec<String>) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut add = |name: String, place: String, secret: Result<String, String>| match secret
        .and_then(|secret| Token::new(name, &secret))
    {
        Ok(token) => tokens.push(token),
        Err(error) => errors.push(format!("{place}: {error}")),
    };
    for (name, path) in sources {
        let place = format!("token file {} of {name:?}", path.display());
        add(name, place, std::fs::read_to_string(path).map_err(|error| error.to_string()));
    }
    if let Some(secret) = env {
        add("admin".to_owned(), "WEFT_TOKEN".to_owned(), Ok(secret));
    }
    tokens
}

/// Tokens, or the explicit wish for none on a loopback address; every other combination is a mistake.
/// `tokens`: `None` if something is wrong with them, which has been said.
fn choose(
    tokens: Option<Vec<Token>>,
    development: bool,
    listen: Option<SocketAddr>,
    errors: &mut Vec<String>,
) -> Option<Auth> {
    let tokens = tokens?;
    let fault = match (tokens.is_empty(), development) {
        (false, false) => return Some(Auth::Tokens(tokens)),
        (true, true) if listen.is_none_or(|listen| listen.ip().is_loopback()) => return Some(Auth::Nobody),
        (true, true) => "development-no-auth: only on a loopback address; give a token-file to listen elsewhere",
        (true, false) => "token-file: missing; only development-no-auth on a loopback address starts without one",
        (false, true) => "development-no-auth: must not be given together with a token",
    };
    errors.push(fault.to_owned());
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(arguments: &[&str], token: Option<&str>) -> Result<Config, Vec<String>> {
        let arguments = std::iter::once(&"weft-policy-server").chain(arguments);
        let flags = Flags::try_parse_from(arguments).unwrap();
        Config::load(flags, token.map(str::to_owned)).map_err(|errors| errors.0)
    }

    #[test]
    fn without_a_token_only_loopback_and_only_when_asked() {
        assert_eq!(load(&["--development-no-auth"], None).unwrap().auth, Auth::Nobody);
        assert!(matches!(load(&["--listen", "0.0.0.0:4002"], Some("t")).unwrap().auth, Auth::Tokens(_)));
        for (arguments, token, word) in [
            (&[][..], None, "token-file"),
            (&["--listen", "0.0.0.0:1", "--development-no-auth"], None, "loopback"),
            (&["--development-no-auth"], Some("t"), "together"),
            (&[], Some(" "), "WEFT_TOKEN: the token is empty"),
            (&["--token-file", "/nonexistent"], None, "/nonexistent"),
        ] {
            let errors = load(arguments, token).unwrap_err();
            assert_eq!(errors.len(), 1, "{errors:?}");
            assert!(errors[0].contains(word), "{errors:?}");
        }
    }

    #[test]
    fn all_errors_at_once() {
        let arguments = ["--listen", "here", "--etcd", "x,http://ok,ftp://y", "--etcd-prefix", "p/"];
        let errors = load(&arguments, Some("")).unwrap_err();
        let begins: Vec<_> = errors.iter().map(|error| error.split(':').next().unwrap().to_owned()).collect();
        assert_eq!(begins.len(), 5, "{errors:?}");
        assert!(errors[0].starts_with("listen \"here\""), "{errors:?}");
        assert!(errors[4].starts_with("WEFT_TOKEN"), "{errors:?}");
    }

    #[test]
    fn the_file_has_the_flags_names_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let (token, file) = (folder.path().join("token"), folder.path().join("config.toml"));
        std::fs::write(&token, "secret\n").unwrap();
        let text = format!(
            "listen = \"127.0.0.1:1\"\nlog-format = \"json\"\netcd = [\"http://a:1\"]\n[token-files]\nci = {token:?}\n"
        );
        std::fs::write(&file, text).unwrap();
        let file = file.to_str().unwrap();
        let config = load(&["--config", file, "--listen", "127.0.0.1:2"], None).unwrap();
        assert_eq!(config.listen.port(), 2);
        assert_eq!((config.etcd, config.log_format), (vec!["http://a:1".to_owned()], LogFormat::Json));
        assert_eq!(config.auth, Auth::Tokens(vec![Token::new("ci", "secret").unwrap()]));
        std::fs::write(file, "lisen = 1").unwrap();
        assert!(load(&["--config", file], None).unwrap_err()[0].contains("lisen"));
    }
}
