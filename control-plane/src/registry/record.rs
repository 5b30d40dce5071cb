//! A registration as the store keeps it.

use std::{collections::BTreeMap, net::IpAddr};

use outrigger_proto::registry::v1alpha1 as proto;
use prost::Message;

use super::claim::{AddressRules, Claim, InvalidClaim, protocol_number};

/// What is committed of a workload: its membership, never its heartbeats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Who, and where.
    pub claim: Claim,
    /// From the join token, never from the claim.
    pub labels: BTreeMap<String, String>,
    /// Its lease ran out, and it has not come back; a restart must not bring it back to life.
    pub lapsed: bool,
}

/// The store holds something else than a registration.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// Not a message of ours.
    #[error("it cannot be decoded")]
    Undecodable(#[from] prost::DecodeError),
    /// Its identity is none.
    #[error("its identity is malformed")]
    Identity(#[from] outrigger_core::model::InvalidName),
    /// Its claim would be refused.
    #[error("its claim is invalid")]
    Claim(#[from] InvalidClaim),
    /// It holds no claim.
    #[error("it holds no workload")]
    Empty,
}

/// The stored form. Field numbers are never reused.
#[derive(Clone, PartialEq, Message)]
struct Stored {
    #[prost(message, optional, tag = "1")]
    workload: Option<proto::Workload>,
    #[prost(string, tag = "2")]
    identity: String,
    #[prost(btree_map = "string, string", tag = "3")]
    labels: BTreeMap<String, String>,
    #[prost(bool, tag = "4")]
    lapsed: bool,
}

impl Registration {
    /// The bytes to store.
    pub fn encode(&self) -> Vec<u8> {
        let claim = &self.claim;
        let ports = claim.pairs.iter().map(|pair| proto::WorkloadPort {
            name: pair.name.as_ref().map(ToString::to_string).unwrap_or_default(),
            application_port: pair.application_port.into(),
            protocol: protocol_number(pair.protocol),
            address: match pair.address.ip() {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            },
            port: pair.address.port().into(),
        });
        Stored {
            workload: Some(proto::Workload {
                id: claim.name.id.to_string(),
                ports: ports.collect(),
                weight: claim.weight,
                epoch: claim.epoch,
                ..proto::Workload::default()
            }),
            identity: claim.identity.to_string(),
            labels: self.labels.clone(),
            lapsed: self.lapsed,
        }
        .encode_to_vec()
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// It is something else.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let stored = Stored::decode(bytes)?;
        let workload = stored.workload.ok_or(Malformed::Empty)?;
        // Loopback was judged when it was registered; the setting of today does not drop yesterday's members.
        let rules = AddressRules { allow_loopback: true };
        Ok(Self {
            claim: Claim::new(&stored.identity.parse()?, &workload, rules)?,
            labels: stored.labels,
            lapsed: stored.lapsed,
        })
    }
}

#[cfg(test)]
mod tests {
    use outrigger_core::model::AppProtocol;

    use super::*;
    use crate::registry::{Pair, WorkloadName};

    #[test]
    fn a_registration_survives_a_round_trip() {
        let registration = Registration {
            claim: Claim {
                name: WorkloadName { namespace: "demo".parse().unwrap(), id: "price-1".parse().unwrap() },
                identity: "spiffe://outrigger.local/ns/demo/sa/price".parse().unwrap(),
                account: ("demo".parse().unwrap(), "price".parse().unwrap()),
                pairs: vec![
                    Pair {
                        name: Some("http".parse().unwrap()),
                        application_port: 8080,
                        protocol: AppProtocol::Http1,
                        address: "127.0.0.1:17006".parse().unwrap(),
                    },
                    Pair {
                        name: None,
                        application_port: 9090,
                        protocol: AppProtocol::Detect,
                        address: "[2001:db8::1]:17007".parse().unwrap(),
                    },
                ],
                weight: 7,
                epoch: 3,
            },
            labels: BTreeMap::from([("version".to_owned(), "v1".to_owned())]),
            lapsed: true,
        };
        assert_eq!(Registration::decode(&registration.encode()).unwrap(), registration);
    }

    #[test]
    fn other_bytes_are_malformed() {
        assert!(matches!(Registration::decode(&[0xff]), Err(Malformed::Undecodable(_))));
        assert!(matches!(Registration::decode(&[]), Err(Malformed::Empty)));
    }
}
