//! What is beside this sidecar, where it is told.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;

use super::claims::{self, Claim};
use super::{Fault, unreadable};
use crate::push::config;

/// The ports of services that a sidecar is beside, by number.
pub(super) type Ports = BTreeMap<u16, Port>;

/// A port of a service that a sidecar is beside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Port {
    /// Names of the policies that are in force there.
    pub(super) policies: Vec<String>,
    /// Nobody looks at what is spoken there.
    pub(super) is_opaque: bool,
    /// Calls that these are not for.
    pub(super) claims: Vec<Claim>,
}

pub(super) fn read(content: Bytes) -> Result<Ports, Fault> {
    let message = config::Sidecar::decode(content).map_err(|error| unreadable(&error))?;
    let ports = message.ports.into_iter().enumerate();
    let port = |(index, port): (usize, config::Port)| {
        let number = u16::try_from(port.number).map_err(|_| Fault {
            field: format!("ports[{index}].number"),
            reason: format!("found {}, expected 1 to 65535", port.number),
            missing: None,
            is_beyond: false,
        })?;
        let known = Port {
            policies: port.policies,
            is_opaque: port.opaque,
            claims: claims::read(port.claims, &format!("ports[{index}].claims"))?,
        };
        Ok((number, known))
    };
    ports.map(port).collect()
}
