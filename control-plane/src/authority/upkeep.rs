//! Keeps what runs out from running out: the intermediates, the control plane's own SVID, and the operators'
//! credentials in the state directory, each renewed at half of its life. Says when each ends, and warns when less than a
//! quarter is left: then a renewal has been failing for days.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use outrigger_core::model::{InvalidName, Name, SpiffeId, TrustBundle};
use outrigger_tls::{
    Bundle, Identity, InvalidBundle, InvalidCertificate, Svid,
    credential::{self, CredentialError},
    grpc::OperatorAuthorities,
};
use parking_lot::Mutex;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};
use tokio_util::sync::CancellationToken;

use super::{Authority, AuthorityError, PortNames, Validity};
use crate::{access::Role, clock::Clock};

/// The operators that the control plane makes credentials for: a directory of that name, and their role.
pub const OPERATORS: [(&str, Role); 2] = [("admin", Role::Admin), ("reader", Role::Reader)];

/// How often everything is looked at. Half of the shortest life is twelve hours.
const INTERVAL: Duration = Duration::from_mins(10);
/// Less than this share of a life left is a warning.
const LOW: f64 = 0.25;

/// Why something could not be renewed.
#[derive(Debug, thiserror::Error)]
pub enum UpkeepError {
    /// The authority.
    #[error("the authority cannot be renewed")]
    Authority(#[from] AuthorityError),
    /// The trust bundle.
    #[error("the trust bundle cannot be used")]
    Bundle(#[from] InvalidBundle),
    /// The operators' intermediate.
    #[error("the operators' authority cannot be used")]
    Operators(#[from] InvalidCertificate),
    /// An operator's name.
    #[error("an operator's name cannot be used")]
    Name(#[from] InvalidName),
    /// An operator's credential.
    #[error("an operator's credential cannot be written")]
    Credential(#[from] CredentialError),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    certificate: &'static str,
}

/// Renews what is due. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Upkeep(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    authority: Arc<Authority>,
    identity: Identity,
    operators: OperatorAuthorities,
    names: PortNames,
    directory: PathBuf,
    clock: Clock,
    not_after: Family<Labels, Gauge>,
    /// Credentials on disk have one writer at a time.
    turn: Mutex<()>,
}

impl Upkeep {
    /// Makes the control plane's identity, with `names` in its certificate, and the operators' credentials, as directories
    /// in `directory`. Blocks: for the start of a process.
    ///
    /// # Errors
    /// Something cannot be made or written.
    pub fn start(
        authority: Arc<Authority>,
        names: PortNames,
        directory: &Path,
        clock: Clock,
        registry: &mut Registry,
    ) -> Result<Self, UpkeepError> {
        let not_after = Family::<Labels, Gauge>::default();
        registry.register_with_unit(
            "certificate_not_after",
            "When each authority and each credential of the control plane ends, in seconds since the epoch",
            Unit::Seconds,
            not_after.clone(),
        );
        let identity = Identity::empty();
        let operators = OperatorAuthorities::new(authority.operator_authorities())?;
        let upkeep = Self(Arc::new(Shared {
            authority,
            identity,
            operators,
            names,
            directory: directory.to_owned(),
            clock,
            not_after,
            turn: Mutex::default(),
        }));
        upkeep.step()?;
        Ok(upkeep)
    }

    /// The control plane's identity, for its ports.
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// Under whom operators are.
    pub fn operators(&self) -> &OperatorAuthorities {
        &self.0.operators
    }

    /// Looks after everything until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = stop.cancelled() => return,
            }
            let upkeep = self.clone();
            match tokio::task::spawn_blocking(move || upkeep.step()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    let source = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::error!(%error, source, "a certificate could not be renewed; it is tried again soon");
                }
                Err(error) => tracing::error!(%error, "the renewal of certificates was cut off"),
            }
        }
    }

    /// Renews what is past half of its life or hangs on an authority that is not in force any more, takes the bundle that
    /// is, and shows when everything ends. Blocks.
    ///
    /// # Errors
    /// Something could not be renewed; the rest was not looked at.
    pub fn step(&self) -> Result<(), UpkeepError> {
        let Shared { authority, identity, operators, names, directory, clock, turn, .. } = &*self.0;
        let _turn = turn.lock();
        let now = clock.now();
        authority.renew()?;
        let above = authority.operator_authorities();
        operators.set(&above)?;
        let bundle = authority.bundle();
        if identity.bundle().is_none_or(|current| TrustBundle::from(&*current) != bundle) {
            identity.set_bundle(Bundle::try_from(&bundle)?);
        }
        let current = identity.svid().filter(|svid| {
            !validity(svid).past_half(now) && svid.chain().get(1..).is_some_and(|chain| chain == above)
        });
        let svid = match current {
            Some(svid) => svid,
            None => {
                identity.set_svid(authority.control_plane(names)?);
                identity.svid().ok_or(AuthorityError::Svid(outrigger_tls::InvalidSvid::Empty))?
            }
        };
        for (name, validity) in authority.validities() {
            self.show(name, validity, now);
        }
        for name in ["other_root", "other_workload"] {
            match authority.other_validity() {
                Some((shown, validity)) if shown == name => self.show(name, validity, now),
                _ => drop(self.0.not_after.remove(&Labels { certificate: name })),
            }
        }
        self.show("control_plane", validity(&svid), now);
        for (name, _) in OPERATORS {
            let shown = self.operator(&directory.join(name), &name.parse()?, now)?;
            self.show(name, shown, now);
        }
        Ok(())
    }

    /// The credential in `directory`, made anew when it is missing, unusable, another's or past half of its life.
    fn operator(&self, directory: &Path, name: &Name, now: SystemTime) -> Result<Validity, UpkeepError> {
        let Shared { authority, identity, .. } = &*self.0;
        let id = SpiffeId::operator(authority.trust_domain().clone(), name.clone());
        let TrustBundle { x509_authorities: roots, outgoing, .. } = authority.bundle();
        match credential::load(directory) {
            Ok(kept) => {
                let ours = kept.svid.id() == &id
                    && kept.bundle.outgoing().revoked == outgoing.revoked
                    && kept
                        .bundle
                        .authorities()
                        .iter()
                        .map(AsRef::as_ref)
                        .eq(roots.iter().map(Vec::as_slice));
                let validity = validity(&kept.svid);
                if ours && !validity.past_half(now) {
                    return Ok(validity);
                }
            }
            // Others could read it: it is not for us to decide what to do about that.
            Err(error @ CredentialError::Open { .. }) => return Err(error.into()),
            Err(CredentialError::Missing(_)) => {}
            Err(error) => tracing::warn!(%error, operator = %name, "the operator's credential is made anew"),
        }
        let svid = authority.operator(name)?;
        if let Some(bundle) = identity.bundle() {
            credential::save(directory, &svid, &bundle)?;
            tracing::info!(operator = %name, directory = %directory.display(), "operator's credential written");
        }
        Ok(validity(&svid))
    }

    fn show(&self, certificate: &'static str, validity: Validity, now: SystemTime) {
        let seconds = validity.not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        self.0
            .not_after
            .get_or_create(&Labels { certificate })
            .set(i64::try_from(seconds).unwrap_or(i64::MAX));
        if validity.share_left(now) < LOW {
            let hours = validity.not_after.duration_since(now).unwrap_or_default().as_secs() / 3600;
            tracing::warn!(certificate, hours, "less than a quarter of the certificate's life is left");
        }
    }
}

fn validity(svid: &Svid) -> Validity {
    Validity { not_before: svid.not_before(), not_after: svid.not_after() }
}
