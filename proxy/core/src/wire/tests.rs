use outrigger_proto::{mesh::v1alpha1 as mesh, policy::v1alpha1 as proto};
use proptest::prelude::*;
use prost::Message;

use super::{policy::object, strategies};
use crate::model::{EndpointSet, Object, ProxyConfig, Service, TrustBundle};

/// Over the bytes, not only the message: what a stream carries is what comes back.
fn carried<M: Message + Default>(message: &M) -> M {
    M::decode(message.encode_to_vec().as_slice()).unwrap()
}

proptest! {
    #[test]
    fn a_proxy_config_survives_the_wire(config in strategies::proxy_config()) {
        let wire = carried(&mesh::ProxyConfig::from(&config));
        prop_assert_eq!(ProxyConfig::try_from(wire), Ok(config));
    }

    #[test]
    fn a_service_survives_the_wire(service in strategies::service()) {
        let wire = carried(&mesh::Service::from(&service));
        prop_assert_eq!(Service::try_from(wire), Ok(service));
    }

    #[test]
    fn an_endpoint_set_survives_the_wire(set in strategies::endpoint_set()) {
        let wire = carried(&mesh::EndpointSet::from(&set));
        prop_assert_eq!(EndpointSet::try_from(wire), Ok(set));
    }

    #[test]
    fn a_trust_bundle_survives_the_wire(bundle in strategies::trust_bundle()) {
        let wire = carried(&mesh::TrustBundle::from(&bundle));
        prop_assert_eq!(TrustBundle::try_from(wire), Ok(bundle));
    }

    #[test]
    fn an_object_survives_the_wire(written in strategies::object()) {
        let wire = carried(&proto::Object::from(&written));
        prop_assert_eq!(object(&wire), Ok::<Object, _>(written));
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(wire) = mesh::Service::decode(bytes.as_slice()) {
            drop(Service::try_from(wire));
        }
        if let Ok(wire) = mesh::EndpointSet::decode(bytes.as_slice()) {
            drop(EndpointSet::try_from(wire));
        }
        if let Ok(wire) = proto::Object::decode(bytes.as_slice()) {
            drop(object(&wire));
        }
    }
}
