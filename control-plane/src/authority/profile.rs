//! What our certificates look like: five profiles, and nothing else is ever signed.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use outrigger_core::model::{SpiffeId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, SanType, SerialNumber,
};

use super::{labels, names::PortNames};

/// Life of a root: its renewal is a rotation that every proxy has to take part in.
pub(super) const ROOT_LIFE: Duration = Duration::from_hours(10 * 365 * 24);
/// Life of an intermediate, renewed at half of it.
pub(super) const INTERMEDIATE_LIFE: Duration = Duration::from_hours(30 * 24);
/// Life of the control plane's SVID, and of a workload's if the settings say nothing else; renewed at half of it.
pub const SVID_LIFE: Duration = Duration::from_hours(24);
/// The shortest that the settings may say: a renewal that fails has to have time for another.
pub const MIN_LEAF_LIFE: Duration = Duration::from_secs(10);
/// The longest: an intermediate, which outlives what it signs, lives for 30 days.
pub const MAX_LEAF_LIFE: Duration = Duration::from_hours(7 * 24);
/// Life of an operator's certificate; those in the state directory are renewed at half of it.
pub(super) const OPERATOR_LIFE: Duration = Duration::from_hours(7 * 24);
/// Certificates are valid from this long before their making, for peers whose clocks are behind.
const SKEW: Duration = Duration::from_mins(5);

/// From when to when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// First moment.
    pub not_before: SystemTime,
    /// Last moment.
    pub not_after: SystemTime,
}

impl Validity {
    /// From now for `life`, but not longer than the issuer's certificate: a chain lives as long as its first link to
    /// go.
    pub(super) fn starting(now: SystemTime, life: Duration, issuer: Option<Self>) -> Self {
        let not_after = now + life;
        Self {
            not_before: now - SKEW,
            not_after: issuer.map_or(not_after, |issuer| issuer.not_after.min(not_after)),
        }
    }

    /// Whether half of the life is over.
    pub fn past_half(self, now: SystemTime) -> bool {
        self.share_left(now) < 0.5
    }

    /// How much of the life is left, from 1 to 0.
    pub fn share_left(self, now: SystemTime) -> f64 {
        let seconds = |from: SystemTime| {
            self.not_after.duration_since(from).map_or(0.0, |duration| duration.as_secs_f64())
        };
        let whole = seconds(self.not_before + SKEW);
        if whole > 0.0 { seconds(now) / whole } else { 0.0 }
    }
}

pub(super) fn root(
    trust_domain: &TrustDomain,
    validity: Validity,
) -> Result<CertificateParams, rcgen::Error> {
    authority(trust_domain, "root", BasicConstraints::Constrained(1), validity)
}

pub(super) fn intermediate(
    trust_domain: &TrustDomain,
    role: &str,
    validity: Validity,
) -> Result<CertificateParams, rcgen::Error> {
    authority(trust_domain, role, BasicConstraints::Constrained(0), validity)
}

fn authority(
    trust_domain: &TrustDomain,
    role: &str,
    path: BasicConstraints,
    validity: Validity,
) -> Result<CertificateParams, rcgen::Error> {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, "Outrigger");
    subject.push(DnType::CommonName, format!("{role} authority"));
    let mut params = base(format!("spiffe://{trust_domain}"), subject)?;
    params.not_before = validity.not_before.into();
    params.not_after = validity.not_after.into();
    params.is_ca = IsCa::Ca(path);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// An SVID or an operator's certificate: the name is in the URI SAN alone, which is critical because the subject is
/// empty (RFC 5280 §4.1.2.6). Its dates are set when it is signed.
pub(super) fn leaf(
    id: &SpiffeId,
    labels: &BTreeMap<String, String>,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = base(id.to_string(), DistinguishedName::new())?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.custom_extensions = labels::extension(labels).into_iter().collect();
    Ok(params)
}

/// The control plane's SVID: the only certificate that has names beside the URI.
pub(super) fn control_plane(id: &SpiffeId, names: &PortNames) -> Result<CertificateParams, rcgen::Error> {
    let mut params = leaf(id, &BTreeMap::new())?;
    params.subject_alt_names.extend(names.alternative_names()?);
    Ok(params)
}

fn base(uri: String, subject: DistinguishedName) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject;
    params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
    // The default derives from the key: two certificates for one key would share a number.
    params.serial_number = Some(SerialNumber::from_slice(&serial()));
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// 127 random bits: positive, and never of another length.
fn serial() -> [u8; 16] {
    let mut bytes: [u8; 16] = rand::random();
    if let Some(first) = bytes.first_mut() {
        *first = (*first & 0x7f) | 0x40;
    }
    bytes
}
