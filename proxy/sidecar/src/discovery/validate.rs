//! From a resource's bytes to something that this proxy can run, or the field that it cannot.

use outrigger_core::model::{
    EndpointSet, ProxyConfig, Service, ServiceName, SpiffeId, TrustBundle, Violation,
};
use outrigger_proto::{mesh::v1alpha1 as wire, type_url};
use outrigger_tls::Bundle;
use prost::Message;
use prost_types::Any;

/// The name under which a proxy asks for its own side.
pub(super) const SELF: &str = "self";

/// A resource that can be run as it is.
#[derive(Debug)]
pub(super) enum Resource {
    /// The proxy's own side.
    Config(ProxyConfig),
    /// Whom to trust.
    Bundle(Bundle),
    /// A destination.
    Service(Service),
    /// Its addresses.
    EndpointSet(EndpointSet),
}

/// The validation of what is sent to `own`.
pub(super) fn resource(
    own: Option<&SpiffeId>,
    type_url: &str,
    name: &str,
    any: &Any,
) -> Result<Resource, Violation> {
    if any.type_url != type_url {
        return Err(Violation::error("", "invalid", format!("is a {}, not a {type_url}", any.type_url)));
    }
    match type_url {
        type_url::PROXY_CONFIG => config(own, any),
        type_url::TRUST_BUNDLE => bundle(own, name, any),
        type_url::SERVICE => {
            let service = Service::try_from(decode::<wire::Service>(any)?)?;
            same_name(name, &service.name)?;
            Ok(Resource::Service(service))
        }
        type_url::ENDPOINT_SET => {
            Ok(Resource::EndpointSet(EndpointSet::try_from(decode::<wire::EndpointSet>(any)?)?))
        }
        _ => Err(Violation::error("", "unsupported", "this type is not supported by this version")),
    }
}

fn decode<M: Message + Default>(any: &Any) -> Result<M, Violation> {
    M::decode(any.value.as_slice())
        .map_err(|error| Violation::error("", "malformed", format!("is not a message of its type: {error}")))
}

fn same_name(name: &str, inside: &ServiceName) -> Result<(), Violation> {
    if name == inside.to_string() {
        Ok(())
    } else {
        Err(Violation::error("name", "invalid", format!("is '{inside}' in a resource called '{name}'")))
    }
}

fn config(own: Option<&SpiffeId>, any: &Any) -> Result<Resource, Violation> {
    let config = ProxyConfig::try_from(decode::<wire::ProxyConfig>(any)?)?;
    match own {
        Some(own) if config.workload_id == *own => Ok(Resource::Config(config)),
        _ => {
            let text = format!("is for {}, which this proxy is not", config.workload_id);
            Err(Violation::error("workload_id", "invalid", text))
        }
    }
}

fn bundle(own: Option<&SpiffeId>, name: &str, any: &Any) -> Result<Resource, Violation> {
    let bundle = TrustBundle::try_from(decode::<wire::TrustBundle>(any)?)?;
    let domain = bundle.trust_domain.as_str();
    if domain != name || own.is_none_or(|own| own.trust_domain().as_str() != domain) {
        let text = format!("'{domain}' is not the trust domain of this proxy");
        return Err(Violation::error("trust_domain", "invalid", text));
    }
    let bundle = Bundle::try_from(&bundle)
        .map_err(|error| Violation::error("x509_authorities", "invalid", error.to_string()))?;
    Ok(Resource::Bundle(bundle))
}
