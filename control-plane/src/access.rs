//! Who may call what: one table, and the decision by it. `docs/reference/api-access.md` is its rendering. What the table
//! does not name is nobody's.

use std::collections::BTreeSet;

use outrigger_core::model::{IdentityKind, Name, SpiffeId};
use serde::{Deserialize, Serialize};

#[cfg(test)]
mod tests;

/// Which port a call comes in by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// The operators': the policy port.
    Policy,
    /// The proxies': the discovery port.
    Discovery,
}

impl Door {
    /// Its port, as an operator sets it, and how a client is led to it.
    fn port(self) -> &'static str {
        match self {
            Self::Policy => {
                "the policy port (policy.listen, 17100 by default): name it with --server or OUTRIGGER_SERVER"
            }
            Self::Discovery => {
                "the discovery port (discovery.listen, 17110 by default): name it with --control-plane or \
                 OUTRIGGER_CONTROL_PLANE__ADDRESS"
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Discovery => "discovery",
        }
    }

    /// What is said to a call of `path`, which this door does not know: most often it is the other one's.
    pub fn unknown(self, path: &str) -> String {
        let port = self.name();
        match TABLE.iter().find(|rule| rule.path == path) {
            Some(rule) => {
                format!("this is the {port} port; {} is served on {}", rule.method, rule.door.port())
            }
            None => format!(
                "this is the {port} port, and there is no such call; is the client of another version?"
            ),
        }
    }
}

/// One line of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// The path of the call, as in its request.
    pub path: &'static str,
    /// Its name in the audit log and in metrics.
    pub method: &'static str,
    /// The port that serves it.
    pub door: Door,
    /// Whoever has a join token for it, in the request itself.
    pub join_token: bool,
    /// A workload, for itself alone.
    pub workload: bool,
    /// An operator with the role `reader`.
    pub reader: bool,
    /// An operator with the role `admin`.
    pub admin: bool,
    /// What an operator's namespaces do to it.
    pub namespaces: Namespaces,
}

/// How far a call reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespaces {
    /// No operator's call.
    None,
    /// The namespaces named in the request: each must be among the operator's.
    Named,
    /// The whole mesh: an operator of some namespaces only is refused.
    Mesh,
}

const fn operators(path: &'static str, method: &'static str, reader: bool, namespaces: Namespaces) -> Rule {
    Rule {
        path,
        method,
        door: Door::Policy,
        join_token: false,
        workload: false,
        reader,
        admin: true,
        namespaces,
    }
}

const fn proxies(path: &'static str, method: &'static str, join_token: bool) -> Rule {
    Rule {
        path,
        method,
        door: Door::Discovery,
        join_token,
        workload: true,
        reader: false,
        admin: false,
        namespaces: Namespaces::None,
    }
}

/// Every call that there is.
pub const TABLE: [Rule; 25] = [
    operators("/outrigger.policy.v1alpha1.PolicyService/Apply", "policy.Apply", false, Namespaces::Named),
    operators("/outrigger.policy.v1alpha1.PolicyService/Get", "policy.Get", true, Namespaces::Named),
    operators("/outrigger.policy.v1alpha1.PolicyService/List", "policy.List", true, Namespaces::Named),
    operators("/outrigger.policy.v1alpha1.PolicyService/Delete", "policy.Delete", false, Namespaces::Named),
    operators("/outrigger.policy.v1alpha1.PolicyService/Watch", "policy.Watch", true, Namespaces::Named),
    operators("/outrigger.policy.v1alpha1.PolicyService/History", "policy.History", true, Namespaces::Named),
    operators(
        "/outrigger.policy.v1alpha1.PolicyService/Rollback",
        "policy.Rollback",
        false,
        Namespaces::Named,
    ),
    operators(
        "/outrigger.policy.v1alpha1.PolicyService/ListAudit",
        "policy.ListAudit",
        false,
        Namespaces::Mesh,
    ),
    operators("/outrigger.backup.v1alpha1.BackupService/Backup", "backup.Backup", false, Namespaces::Mesh),
    operators(
        "/outrigger.identity.v1alpha1.TokenService/CreateToken",
        "identity.CreateToken",
        false,
        Namespaces::Named,
    ),
    operators(
        "/outrigger.identity.v1alpha1.AuthorityService/GetAuthorities",
        "identity.GetAuthorities",
        true,
        Namespaces::Mesh,
    ),
    operators(
        "/outrigger.identity.v1alpha1.AuthorityService/PrepareAuthority",
        "identity.PrepareAuthority",
        false,
        Namespaces::Mesh,
    ),
    operators(
        "/outrigger.identity.v1alpha1.AuthorityService/ActivateAuthority",
        "identity.ActivateAuthority",
        false,
        Namespaces::Mesh,
    ),
    operators(
        "/outrigger.identity.v1alpha1.AuthorityService/TaintAuthority",
        "identity.TaintAuthority",
        false,
        Namespaces::Mesh,
    ),
    operators(
        "/outrigger.identity.v1alpha1.AuthorityService/RevokeAuthority",
        "identity.RevokeAuthority",
        false,
        Namespaces::Mesh,
    ),
    operators(
        "/outrigger.status.v1alpha1.StatusService/ListProxies",
        "status.ListProxies",
        true,
        Namespaces::Mesh,
    ),
    operators(
        "/outrigger.status.v1alpha1.StatusService/WaitConverged",
        "status.WaitConverged",
        true,
        Namespaces::Mesh,
    ),
    operators(
        "/outrigger.status.v1alpha1.StatusService/ListWorkloads",
        "status.ListWorkloads",
        true,
        Namespaces::Mesh,
    ),
    operators("/outrigger.status.v1alpha1.StatusService/Hops", "status.Hops", true, Namespaces::Mesh),
    operators(
        "/outrigger.status.v1alpha1.StatusService/ListEndpoints",
        "status.ListEndpoints",
        true,
        Namespaces::Mesh,
    ),
    proxies("/outrigger.identity.v1alpha1.IdentityService/Issue", "identity.Issue", true),
    proxies(
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
        "discovery.DeltaAggregatedResources",
        false,
    ),
    proxies("/outrigger.registry.v1alpha1.RegistryService/Session", "registry.Session", false),
    proxies("/outrigger.status.v1alpha1.ProxyStatusService/Report", "status.Report", false),
    proxies("/outrigger.telemetry.v1alpha1.TelemetryService/Report", "telemetry.Report", false),
];

/// The line of `path` at `door`.
pub fn rule(door: Door, path: &str) -> Option<&'static Rule> {
    TABLE.iter().find(|rule| rule.door == door && rule.path == path)
}

/// What an operator may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Look.
    Reader,
    /// Look and change.
    Admin,
}

/// An operator's role, and where it holds. Kept in the store under the operator's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// What.
    pub role: Role,
    /// Where; `None`: in the whole mesh, its own objects included.
    pub namespaces: Option<BTreeSet<String>>,
}

impl Grant {
    /// `role` in the whole mesh.
    pub fn mesh(role: Role) -> Self {
        Self { role, namespaces: None }
    }

    /// Whether it holds for what is in `namespace`; `None`: for what belongs to the mesh.
    pub fn covers(&self, namespace: Option<&Name>) -> bool {
        match (&self.namespaces, namespace) {
            (None, _) => true,
            (Some(granted), Some(namespace)) => granted.contains(namespace.as_str()),
            (Some(_), None) => false,
        }
    }
}

/// Who calls, as far as the connection proves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// Nobody: no certificate was shown.
    Anonymous,
    /// A workload of the mesh.
    Workload(SpiffeId),
    /// An operator.
    Operator {
        /// Who.
        id: SpiffeId,
        /// What the store says that it may do; `None`: nothing.
        grant: Option<Grant>,
    },
}

impl Caller {
    /// The caller that showed a certificate for `id`, or none. `grant` looks up an operator's role.
    pub fn new(id: Option<&SpiffeId>, grant: impl FnOnce(&Name) -> Option<Grant>) -> Self {
        match id.map(|id| (id, id.kind())) {
            Some((id, IdentityKind::Workload { .. })) => Self::Workload(id.clone()),
            Some((id, IdentityKind::Operator { name })) => {
                Self::Operator { id: id.clone(), grant: grant(name) }
            }
            // No client is the control plane; the handshake refuses it. Were it to get here, it gets nothing.
            Some((id, IdentityKind::ControlPlane)) => Self::Operator { id: id.clone(), grant: None },
            None => Self::Anonymous,
        }
    }

    /// For the audit log: the SPIFFE ID, or `anonymous`.
    pub fn principal(&self) -> &str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Workload(id) | Self::Operator { id, .. } => id.as_str(),
        }
    }
}

/// Why a call is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No certificate where one is needed.
    #[error("this call needs a client certificate")]
    Anonymous,
    /// A workload at an operator's call.
    #[error("{0} is a workload; this call is for operators")]
    Workload(SpiffeId),
    /// An operator at a proxy's call.
    #[error("{0} is an operator; this call is for workloads")]
    Operator(SpiffeId),
    /// An operator whose certificate has run out since the connection was opened.
    #[error("the certificate of {0} has expired since this connection was opened")]
    Expired(SpiffeId),
    /// An operator without a role.
    #[error("{0} has no role")]
    NoRole(SpiffeId),
    /// A reader at an admin's call.
    #[error("{0} is a reader; this call needs the role admin")]
    Reader(SpiffeId),
    /// An operator outside of its namespaces.
    #[error("{id} has no role in {place}")]
    Namespace {
        /// Who.
        id: SpiffeId,
        /// Where: `namespace demo`, or `the whole mesh`.
        place: String,
    },
}

impl Denied {
    /// Stable, for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Workload(_) => "workload",
            Self::Operator(_) => "operator",
            Self::Expired(_) => "expired",
            Self::NoRole(_) => "no_role",
            Self::Reader(_) => "reader",
            Self::Namespace { .. } => "namespace",
        }
    }

    /// Why `caller` may not touch what is in `namespace`, if it may not.
    ///
    /// # Errors
    /// The reason.
    pub fn outside(caller: &Caller, namespace: Option<&Name>) -> Result<(), Self> {
        match caller {
            Caller::Anonymous => Err(Self::Anonymous),
            Caller::Workload(id) => Err(Self::Workload(id.clone())),
            Caller::Operator { id, grant: None } => Err(Self::NoRole(id.clone())),
            Caller::Operator { grant: Some(grant), .. } if grant.covers(namespace) => Ok(()),
            Caller::Operator { id, .. } => {
                let place = namespace.map_or_else(
                    || "the whole mesh".to_owned(),
                    |namespace| format!("namespace {namespace}"),
                );
                Err(Self::Namespace { id: id.clone(), place })
            }
        }
    }
}

impl Rule {
    /// Whether `caller` may make this call. A call that also takes a join token is let through without a certificate:
    /// only its request tells.
    ///
    /// # Errors
    /// The reason why not.
    pub fn decide(&self, caller: &Caller) -> Result<(), Denied> {
        match caller {
            Caller::Anonymous if self.join_token => Ok(()),
            Caller::Anonymous => Err(Denied::Anonymous),
            Caller::Workload(_) if self.workload => Ok(()),
            Caller::Workload(id) => Err(Denied::Workload(id.clone())),
            Caller::Operator { id, .. } if self.door == Door::Discovery => Err(Denied::Operator(id.clone())),
            Caller::Operator { id, grant: None } => Err(Denied::NoRole(id.clone())),
            Caller::Operator { id, grant: Some(grant) } => {
                let allowed = match grant.role {
                    Role::Reader => self.reader,
                    Role::Admin => self.admin,
                };
                match (allowed, self.namespaces) {
                    (false, _) => Err(Denied::Reader(id.clone())),
                    (true, Namespaces::Mesh) => Denied::outside(caller, None),
                    (true, Namespaces::Named | Namespaces::None) => Ok(()),
                }
            }
        }
    }
}

/// The table as a page.
pub fn render() -> String {
    let mark = |allowed| if allowed { "yes" } else { "-" };
    let mut page = String::from(
        "# Who may call what\n\n\
         Callers are known by their client certificate: a workload's comes from a join token, an operator's from the \
         control plane's state\ndirectory. A caller without one is *none*; *join token* is such a caller with a valid \
         token in its request. Everything not in the\ntable is refused. This page is rendered from \
         `control-plane/src/access.rs`; a test walks every line with every kind of caller.\n\n\
         | call | port | none | join token | workload | reader | admin | an operator's namespaces |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for rule in &TABLE {
        let port = match rule.door {
            Door::Policy => "policy",
            Door::Discovery => "discovery",
        };
        let namespaces = match rule.namespaces {
            Namespaces::None => "-",
            Namespaces::Named => "those named in the request",
            Namespaces::Mesh => "the whole mesh",
        };
        let workload = if rule.workload { "its own" } else { "-" };
        page.push_str(&format!(
            "| `{}` | {port} | - | {} | {workload} | {} | {} | {namespaces} |\n",
            rule.method,
            mark(rule.join_token),
            mark(rule.reader),
            mark(rule.admin),
        ));
    }
    page.push_str(
        "\nWhat names no namespace is of all those that the operator may read; a rollback of the whole store needs the whole \
         mesh.\nA workload acts for itself alone: namespace, service account and node id come from its certificate, never from \
         a message.\nEvery refusal is counted (`outrigger_control_plane_refused_calls_total`) and written to the audit \
         log. Of a flood of refusals the log keeps a\nfew for each kind of caller, and the number of those left out.\n",
    );
    page
}
