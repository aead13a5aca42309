//! Where an endpoint is: an address, or a name that is resolved for each connection.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use http::HeaderValue;
use http::uri::Authority;
use jitney_api::Workload;
use tokio::net::TcpStream;

use crate::keepalive;

/// `ip:port`, `[ip]:port` or `name:port`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// An address.
    Socket(SocketAddr),
    /// A name and a port.
    Name(Arc<str>),
}

/// One address of a backend, and who is to answer there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Where it is.
    pub address: Address,
    /// Whose sidecar answers there; `None`: connections are bare.
    pub peer: Option<Peer>,
    /// The zone that it is in, if that is known.
    pub zone: Option<Arc<str>>,
}

/// A sidecar that is to answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Whose it is.
    pub workload: Workload,
    /// Connections are never bare, even while one of both has no certificate.
    pub is_strict: bool,
}

/// What is wrong with an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not host:port")]
pub struct AddressError(String);

impl Address {
    /// Makes a connection.
    pub(crate) async fn connect(&self) -> io::Result<TcpStream> {
        let stream = match self {
            Self::Socket(address) => TcpStream::connect(address).await,
            Self::Name(name) => TcpStream::connect(&**name).await,
        }?;
        stream.set_nodelay(true)?;
        keepalive::ask(&stream)?;
        Ok(stream)
    }

    /// The `Host` of a call that came without one.
    pub(crate) fn host(&self) -> HeaderValue {
        HeaderValue::try_from(self.to_string()).unwrap_or_else(|_| HeaderValue::from_static("localhost"))
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Socket(address));
        }
        let authority: Authority = text.parse().map_err(|_| AddressError(text.to_owned()))?;
        match authority.port_u16() {
            Some(_) if !text.contains('@') && !authority.host().is_empty() => Ok(Self::Name(text.into())),
            _ => Err(AddressError(text.to_owned())),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Socket(address)
    }
}

impl From<Address> for Target {
    fn from(address: Address) -> Self {
        Self {
            address,
            peer: None,
            zone: None,
        }
    }
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Address::from(address).into()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}
