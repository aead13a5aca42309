//! One address of a backend, as written.

use std::fmt::{self, Display, Formatter};
use std::net::Ipv6Addr;
use std::str::FromStr;
use std::sync::Arc;

/// `host:port`, where the host is a name, an IPv4 address, or an IPv6 address in brackets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// A name or an address; an IPv6 address without its brackets.
    pub host: Box<str>,
    /// The port, not 0.
    pub port: u16,
}

/// An endpoint, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Its address.
    pub endpoint: Endpoint,
    /// The zone that it is in, if that is known.
    pub zone: Option<Arc<str>>,
}

/// The text is no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAnEndpoint {
    /// A URL was written.
    #[error("expected host:port without a scheme and a path")]
    Url,
    /// The port is missing, 0, or no number.
    #[error("expected host:port with a port from 1 to 65535")]
    Port,
    /// The host is neither name nor address.
    #[error("expected a host name, an IPv4 address or an IPv6 address in brackets before the port")]
    Host,
}

impl From<Endpoint> for Located {
    fn from(endpoint: Endpoint) -> Self {
        Self { endpoint, zone: None }
    }
}

impl FromStr for Endpoint {
    type Err = NotAnEndpoint;

    fn from_str(text: &str) -> Result<Self, NotAnEndpoint> {
        if text.contains('/') {
            return Err(NotAnEndpoint::Url);
        }
        let (host, port) = text.rsplit_once(':').ok_or(NotAnEndpoint::Port)?;
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port
            .parse()
            .ok()
            .filter(|port| digits && *port != 0)
            .ok_or(NotAnEndpoint::Port)?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match bracketed {
            Some(address) => address
                .parse::<Ipv6Addr>()
                .map(|_| address)
                .map_err(|_| NotAnEndpoint::Host)?,
            None if is_host(host) => host,
            None => return Err(NotAnEndpoint::Host),
        };
        Ok(Self {
            host: host.into(),
            port,
        })
    }
}

fn is_host(host: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    !host.is_empty() && host.len() <= 253 && host.bytes().all(allowed)
}

impl Display for Endpoint {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}
