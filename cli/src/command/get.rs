//! `get`: objects as tables, or as documents that `apply` takes back.

mod watch;

use std::time::SystemTime;

use outrigger_core::{
    model::{Kind, Name, Object, ObjectRef, ResilienceOverrides, Spec, Timeouts},
    policy, wire,
};
use outrigger_proto::policy::v1alpha1 as proto;

use crate::{
    args::{Format, GetArgs, Global, KindArg},
    connect::{self, ControlPlane},
    duration,
    failure::Failure,
    output::Output,
    view,
};

impl From<KindArg> for Kind {
    fn from(kind: KindArg) -> Self {
        match kind {
            KindArg::Service => Self::Service,
            KindArg::Route => Self::Route,
            KindArg::TrafficPolicy => Self::TrafficPolicy,
            KindArg::MeshConfig => Self::MeshConfig,
        }
    }
}

/// Shows one object, or all of a kind.
pub(crate) async fn run(global: &Global, output: &Output, args: GetArgs) -> Result<(), Failure> {
    let kind = Kind::from(args.kind.kind);
    let name = args.kind.one(args.name.as_ref())?;
    let namespace = args.namespace.as_deref();
    let only = name.map(|name| reference(kind, &name, namespace)).transpose()?;
    let control_plane = ControlPlane::new(global)?;
    if args.watch {
        return watch::run(&control_plane, output, watch::Of { kind, only, namespace }).await;
    }
    let found = match &only {
        Some(only) => vec![control_plane.get(only.into()).await?],
        None => control_plane.list(connect::kind(kind), namespace.unwrap_or_default()).await?,
    };
    let objects = found.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
    show(output, kind, &objects, only.is_some())
}

/// Reads a name of the command line: `NAME` or `NAMESPACE/NAME`; of a service also `NAME.NAMESPACE`, as it is called in the
/// mesh.
pub(crate) fn reference(kind: Kind, name: &str, namespace: Option<&str>) -> Result<ObjectRef, Failure> {
    let parse = |text: &str| text.parse::<Name>().map_err(|error| Failure::Usage(error.to_string()));
    let called = name.split_once('.').filter(|_| kind == Kind::Service && !name.contains('/'));
    let whole = name.split_once('/').or(called.map(|(name, namespace)| (namespace, name)));
    let (namespace, name) = match (whole, namespace) {
        (Some((own, _)), Some(other)) if own != other && other != "default" => {
            return Err(Failure::Usage(format!(
                "two namespaces for one object: {own} in its name and {other} from --namespace"
            )));
        }
        (Some((namespace, name)), _) => (namespace, name),
        (None, namespace) => (namespace.unwrap_or("default"), name),
    };
    Ok(ObjectRef {
        kind,
        namespace: match kind {
            Kind::MeshConfig => None,
            Kind::Service | Kind::Route | Kind::TrafficPolicy => Some(parse(namespace)?),
        },
        name: parse(name)?,
    })
}

/// Reads an object of the control plane.
pub(crate) fn decode(object: &proto::Object) -> Result<Object, Failure> {
    wire::policy::object(object).map_err(|violations| {
        let what = violations.first().map(ToString::to_string).unwrap_or_default();
        Failure::refused(
            format!("the control plane sent an object that this version cannot read: {what}"),
            "use the `outrigger` of the control plane's version",
        )
    })
}

fn show(output: &Output, kind: Kind, objects: &[Object], single: bool) -> Result<(), Failure> {
    match (output.format(), objects) {
        (Format::Table, []) => {
            output.note(&format!("no {} found", kind.as_str()));
            Ok(())
        }
        (Format::Table, objects) => output.print(&table(output, kind, objects, SystemTime::now())),
        (Format::Yaml, objects) => {
            output.print(objects.iter().map(policy::to_yaml).collect::<Vec<_>>().join("---\n").trim_end())
        }
        (Format::Json, [object]) if single => output.result(&policy::to_json(object), String::new),
        (Format::Json, objects) => {
            let items: Vec<_> = objects.iter().map(policy::to_json).collect();
            output.result(&serde_json::json!({ "items": items }), String::new)
        }
    }
}

fn table(output: &Output, kind: Kind, objects: &[Object], now: SystemTime) -> String {
    let header: &[&str] = match kind {
        Kind::Service => &["NAME", "PORTS", "SELECTOR", "REVISION", "AGE", "CONDITIONS"],
        Kind::Route => &["NAME", "PARENTS", "BACKENDS", "REVISION", "AGE", "CONDITIONS"],
        Kind::TrafficPolicy => &["NAME", "TARGETS", "SAYS", "REVISION", "AGE", "CONDITIONS"],
        Kind::MeshConfig => &["NAME", "EXTERNAL", "CLUSTER DOMAIN", "REVISION", "AGE", "CONDITIONS"],
    };
    let rows = objects
        .iter()
        .map(|object| {
            let metadata = &object.metadata;
            let mut row = vec![full(metadata.namespace.as_ref(), &metadata.name)];
            row.extend(spec(&object.spec, metadata.namespace.as_ref()));
            row.push(metadata.revision.to_string());
            row.push(duration::age(metadata.created, now));
            row.push(conditions(object));
            row
        })
        .collect();
    output.table(header, rows, &[])
}

/// `NAMESPACE/NAME`, as objects are called everywhere; what is the whole mesh's has no namespace.
fn full(namespace: Option<&Name>, name: &Name) -> String {
    namespace.map_or_else(|| name.to_string(), |namespace| format!("{namespace}/{name}"))
}

/// The two columns that differ between kinds; what the object names without a namespace is in its own, `home`.
fn spec(spec: &Spec, home: Option<&Name>) -> [String; 2] {
    match spec {
        Spec::Service(service) => {
            let ports = service.ports.iter().map(|port| match &port.name {
                Some(name) => format!("{}/{name}", port.port),
                None => port.port.to_string(),
            });
            [join(ports), view::labels(&service.selector)]
        }
        Spec::Route(route) => {
            let parents =
                route.parents.iter().map(|parent| full(parent.namespace.as_ref().or(home), &parent.name));
            let backends = route.rules.iter().map(|rule| {
                join(rule.backends.iter().map(|backend| {
                    let name = full(backend.namespace.as_ref().or(home), &backend.name);
                    format!("{name}={}", backend.weight)
                }))
            });
            [join(parents), backends.collect::<Vec<_>>().join("; ")]
        }
        Spec::TrafficPolicy(policy) => {
            let targets = policy.targets.iter().map(|target| match target.port {
                Some(port) => format!("{}:{port}", full(home, &target.name)),
                None => full(home, &target.name),
            });
            [join(targets), join(said(&policy.overrides).map(str::to_owned))]
        }
        Spec::MeshConfig(config) => [
            match config.external_traffic {
                outrigger_core::model::ExternalTraffic::Deny => "deny",
                outrigger_core::model::ExternalTraffic::Connect443 => "CONNECT to 443",
            }
            .to_owned(),
            config.cluster_domain.clone(),
        ],
    }
}

/// The parts that are not left to the defaults.
fn said(overrides: &ResilienceOverrides) -> impl Iterator<Item = &'static str> {
    let ResilienceOverrides { timeouts, retry, budget, outlier, limits } = overrides;
    [
        ("timeouts", *timeouts != Timeouts::default()),
        ("retry", retry.is_some()),
        ("retryBudget", budget.is_some()),
        ("outlier", outlier.is_some()),
        ("limits", limits.is_some()),
    ]
    .into_iter()
    .filter_map(|(part, said)| said.then_some(part))
}

fn conditions(object: &Object) -> String {
    let broken: Vec<String> = object
        .conditions
        .iter()
        .filter(|condition| !condition.status)
        .map(|condition| format!("{}: {}", condition.kind, condition.reason))
        .collect();
    match (object.conditions.is_empty(), broken.is_empty()) {
        (true, _) => "-".to_owned(),
        (false, true) => join(object.conditions.iter().map(|condition| condition.kind.clone())),
        (false, false) => format!("not {}", broken.join(", not ")),
    }
}

fn join(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::{Kind, reference};

    #[test]
    fn a_name_may_carry_its_namespace() {
        let text =
            |kind, name, namespace| reference(kind, name, namespace).map(|found| found.to_string()).ok();
        assert_eq!(text(Kind::Route, "price", None).as_deref(), Some("Route default/price"));
        assert_eq!(text(Kind::Route, "price", Some("demo")).as_deref(), Some("Route demo/price"));
        assert_eq!(text(Kind::Route, "demo/price", None).as_deref(), Some("Route demo/price"));
        assert_eq!(text(Kind::Route, "demo/price", Some("other")), None);
        assert_eq!(text(Kind::Service, "price.demo", None).as_deref(), Some("Service demo/price"));
        assert_eq!(text(Kind::Service, "price.demo", Some("other")), None);
        assert_eq!(text(Kind::Route, "price.demo", None), None);
        assert_eq!(text(Kind::MeshConfig, "mesh", None).as_deref(), Some("MeshConfig mesh"));
        assert_eq!(text(Kind::Route, "Price", None), None);
    }
}
