//! Where and as whom to connect.

use std::path::PathBuf;
use std::time::Duration;

use super::{Error, Tls, TlsOptions, tls_options};
use crate::secret::Secret;

/// Address of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// Host name or IP address.
    Tcp(String),
    /// Directory of a Unix-domain socket.
    Unix(PathBuf),
}

/// Everything that opening a connection needs. The port of a Unix-domain socket is
/// part of its file name, as in libpq.
#[derive(Debug, Clone)]
pub struct ConnectConfig {
    /// Address.
    pub host: Host,
    /// Port.
    pub port: u16,
    /// User name in the startup message.
    pub user: String,
    /// Database in the startup message.
    pub database: Option<String>,
    /// Password or token, sent only if the peer asks for it.
    pub password: Option<Secret>,
    /// Further startup parameters, such as `options` or `replication`.
    pub parameters: Vec<(String, String)>,
    /// When the connection is encrypted.
    pub tls: Tls,
    /// What the connection string says of TLS: for whoever sets [`tls`](Self::tls).
    pub tls_options: TlsOptions,
    /// Limit for resolving, connecting and authenticating together.
    pub connect_timeout: Duration,
}

impl ConnectConfig {
    /// Default limit for connecting.
    pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

    /// A TCP peer; user as given, nothing else set.
    pub fn tcp(host: impl Into<String>, port: u16, user: impl Into<String>) -> Self {
        Self {
            host: Host::Tcp(host.into()),
            port,
            user: user.into(),
            database: None,
            password: None,
            parameters: Vec::new(),
            tls: Tls::Never,
            tls_options: TlsOptions::default(),
            connect_timeout: Self::CONNECT_TIMEOUT,
        }
    }

    /// Parses `postgresql://…` or libpq's `host=… port=…` form. Several hosts in
    /// one string are refused: each peer of storage has a string of its own. What it says
    /// of TLS is not in force yet.
    pub fn parse(text: &str, default_port: u16) -> Result<Self, Error> {
        let (tls_options, text) = tls_options::split(text).ok_or(Error::ConnectionString(None))?;
        let parsed: tokio_postgres::Config = text
            .parse()
            .map_err(|e| Error::ConnectionString(Some(Box::new(e))))?;
        let host = match parsed.get_hosts() {
            [tokio_postgres::config::Host::Tcp(name)] => Host::Tcp(name.clone()),
            [tokio_postgres::config::Host::Unix(path)] => Host::Unix(path.clone()),
            _ => return Err(Error::ConnectionString(None)),
        };
        let password = parsed
            .get_password()
            .map(|bytes| Secret::new(String::from_utf8_lossy(bytes).into_owned()));
        let mut parameters = Vec::new();
        if let Some(options) = parsed.get_options() {
            parameters.push(("options".to_owned(), options.to_owned()));
        }
        if let Some(name) = parsed.get_application_name() {
            parameters.push(("application_name".to_owned(), name.to_owned()));
        }
        Ok(Self {
            host,
            port: parsed.get_ports().first().copied().unwrap_or(default_port),
            user: parsed.get_user().unwrap_or("no_user").to_owned(),
            database: parsed.get_dbname().map(str::to_owned),
            password,
            parameters,
            tls: Tls::Never,
            tls_options,
            connect_timeout: Self::CONNECT_TIMEOUT,
        })
    }

    /// Adds a startup parameter.
    #[must_use]
    pub fn parameter(mut self, name: &str, value: impl Into<String>) -> Self {
        self.parameters.push((name.to_owned(), value.into()));
        self
    }

    /// Sets the password.
    #[must_use]
    pub fn password(mut self, password: Option<Secret>) -> Self {
        self.password = password;
        self
    }

    /// `host:port` or the socket's path, for messages.
    pub fn peer(&self) -> String {
        match &self.host {
            Host::Tcp(host) => format!("{host}:{}", self.port),
            Host::Unix(directory) => directory
                .join(format!(".s.PGSQL.{}", self.port))
                .display()
                .to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_connection_string_are_read() {
        for text in [
            "postgresql://no_user@ps-0:6401",
            "host=ps-0 port=6401 user=no_user",
        ] {
            let config = ConnectConfig::parse(text, 6400).unwrap();
            assert_eq!(config.peer(), "ps-0:6401");
            assert_eq!(config.user, "no_user");
        }
        assert_eq!(ConnectConfig::parse("host=ps-0", 6400).unwrap().port, 6400);
        assert!(ConnectConfig::parse("host=a,b", 1).is_err());
    }
}
