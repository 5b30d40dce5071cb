//! Certificates that were damaged or made up: refused, never a panic, never believed.

use std::{collections::BTreeSet, sync::LazyLock, time::SystemTime};

use outrigger_core::model::SpiffeId;
use proptest::{collection::vec, prelude::*, sample::Index};
use rustls::pki_types::{CertificateDer, UnixTime};

use super::*;
use crate::{
    Bundle, Key, PeerRejected, Svid,
    grpc::{Caller, OperatorAuthorities, ServerTrust},
    mesh::Peer,
    spki_sha256,
    testing::{Authority, Leaf},
};

struct Fixture {
    authority: Authority,
    /// Leaf, intermediate, root.
    workload: Vec<Vec<u8>>,
    key: Key,
    control_plane: Vec<Vec<u8>>,
    judges: Vec<(Box<dyn Judge>, Usage)>,
}

static FIXTURE: LazyLock<Fixture> = LazyLock::new(|| {
    let authority = Authority::new("outrigger.local");
    let id = authority.workload_id("demo", "price");
    let (mut workload, key) = authority.issue_raw(&Leaf::of(&id));
    workload.push(authority.root_der());
    let mut control_plane: Vec<_> =
        authority.control_plane().chain().iter().map(|der| der.to_vec()).collect();
    control_plane.push(authority.root_der());
    let identity = authority.identity(authority.workload("demo", "front"));
    let operators = OperatorAuthorities::new([authority.operators_der()]).unwrap();
    let pin = spki_sha256(&authority.root_der()).unwrap();
    let mesh = |expected| Peer { identity: identity.clone(), expected };
    let judges: Vec<(Box<dyn Judge>, Usage)> = vec![
        (Box::new(mesh(None)), Usage::Client),
        (Box::new(mesh(Some(BTreeSet::from([id])))), Usage::Server),
        (Box::new(Caller { identity: identity.clone(), operators }), Usage::Client),
        (Box::new(ServerTrust::Pinned(pin)), Usage::Server),
        (Box::new(ServerTrust::Bundle(identity.clone())), Usage::Server),
    ];
    Fixture { authority, workload, key, control_plane, judges }
});

/// What every judge says of `chain`.
fn verdicts(chain: &[Vec<u8>]) -> Vec<Result<(), PeerRejected>> {
    let now = UnixTime::since_unix_epoch(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap());
    let chain: Vec<_> = chain.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let (end_entity, intermediates) = chain.split_first().unwrap();
    let judge = |(judge, usage): &(Box<dyn Judge>, Usage)| {
        let shown = Shown { end_entity, intermediates, now, usage: *usage };
        judge.judge(&shown).map_err(|refusal| refusal.reason)
    };
    FIXTURE.judges.iter().map(judge).collect()
}

/// Everything else that reads a certificate.
fn read(chain: &[Vec<u8>]) {
    let _svid = Svid::from_parts(chain.to_vec(), FIXTURE.key.clone());
    let _bundle = Bundle::new(FIXTURE.authority.trust_domain().clone(), chain.to_vec(), 1);
    for der in chain {
        let _hash = spki_sha256(der);
        let _operators = OperatorAuthorities::new([der]);
    }
}

/// One change of a byte string.
#[derive(Debug, Clone)]
enum Damage {
    Set(Index, u8),
    Flip(Index, u8),
    Cut(Index),
    Remove(Index, usize),
    Insert(Index, Vec<u8>),
    Repeat(Index, usize),
}

impl Damage {
    fn apply(&self, der: &mut Vec<u8>) {
        if der.is_empty() {
            return;
        }
        match self {
            Self::Set(at, byte) => {
                let at = at.index(der.len());
                der[at] = *byte;
            }
            Self::Flip(at, bit) => {
                let at = at.index(der.len());
                der[at] ^= 1 << (bit % 8);
            }
            Self::Cut(at) => der.truncate(at.index(der.len())),
            Self::Remove(at, count) => {
                let at = at.index(der.len());
                der.drain(at..(at + count).min(der.len()));
            }
            Self::Insert(at, bytes) => {
                let at = at.index(der.len());
                der.splice(at..at, bytes.iter().copied());
            }
            Self::Repeat(at, count) => {
                let at = at.index(der.len());
                let part = der[at..(at + count).min(der.len())].to_vec();
                der.splice(at..at, part);
            }
        }
    }
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        (any::<Index>(), any::<u8>()).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        any::<Index>().prop_map(Damage::Cut),
        (any::<Index>(), 1..64_usize).prop_map(|(at, count)| Damage::Remove(at, count)),
        (any::<Index>(), vec(any::<u8>(), 1..16)).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        (any::<Index>(), 1..64_usize).prop_map(|(at, count)| Damage::Repeat(at, count)),
    ]
}

fn originals() -> [&'static Vec<Vec<u8>>; 2] {
    [&FIXTURE.workload, &FIXTURE.control_plane]
}

#[test]
fn undamaged_they_are_believed_by_those_who_should() {
    let refused = |reason| Err(reason);
    assert_eq!(
        verdicts(&FIXTURE.workload),
        [
            Ok(()),
            Ok(()),
            Ok(()),
            refused(PeerRejected::UnexpectedIdentity),
            refused(PeerRejected::UnexpectedIdentity)
        ]
    );
    assert_eq!(
        verdicts(&FIXTURE.control_plane),
        [
            refused(PeerRejected::ReservedId),
            refused(PeerRejected::ReservedId),
            refused(PeerRejected::ReservedId),
            Ok(()),
            Ok(())
        ]
    );
}

/// What `leaf` is, with its issuer and the root, as everybody judges it.
fn verdicts_of(leaf: &Leaf) -> Vec<Result<(), PeerRejected>> {
    let (mut chain, _key) = FIXTURE.authority.issue_raw(leaf);
    chain.push(FIXTURE.authority.root_der());
    verdicts(&chain)
}

#[test]
fn a_dns_name_neither_makes_nor_unmakes_an_identity() {
    let dns = vec!["localhost".to_owned(), "control-plane.outrigger.local".to_owned()];
    let control_plane = SpiffeId::control_plane(FIXTURE.authority.trust_domain().clone());
    let named = Leaf { dns: dns.clone(), ..Leaf::of(&control_plane) };
    assert_eq!(verdicts_of(&named), verdicts(&FIXTURE.control_plane));
    let workload = FIXTURE.authority.workload_id("demo", "price");
    let named = Leaf { dns: dns.clone(), ..Leaf::of(&workload) };
    assert_eq!(verdicts_of(&named), verdicts(&FIXTURE.workload));
    let nobody = Leaf { uris: Vec::new(), dns, ..Leaf::of(&control_plane) };
    assert!(verdicts_of(&nobody).iter().all(|verdict| *verdict == Err(PeerRejected::NoUriSan)));
}

#[test]
fn a_certificate_changed_in_any_byte_is_believed_by_nobody() {
    for original in originals() {
        for certificate in 0..2 {
            for byte in 0..original[certificate].len() {
                let mut chain = original.clone();
                // One bit of each byte, another one from byte to byte: all of them would take a minute.
                chain[certificate][byte] ^= 1 << (byte % 8);
                assert!(
                    verdicts(&chain).iter().all(Result::is_err),
                    "certificate {certificate}, byte {byte}"
                );
            }
        }
    }
}

#[test]
fn a_certificate_cut_anywhere_is_believed_by_nobody() {
    for original in originals() {
        for certificate in 0..2 {
            for length in 0..original[certificate].len() {
                let mut chain = original.clone();
                chain[certificate].truncate(length);
                assert!(verdicts(&chain).iter().all(Result::is_err), "certificate {certificate}, {length}");
                read(&chain);
            }
        }
    }
}

#[test]
fn a_pinned_root_that_is_not_shown_vouches_for_nobody() {
    let without = &FIXTURE.control_plane[..2];
    assert_eq!(verdicts(without)[3], Err(PeerRejected::UnknownAuthority));
    let impostor = Authority::new("outrigger.local");
    let mut chain: Vec<_> = impostor.control_plane().chain().iter().map(|der| der.to_vec()).collect();
    chain.push(FIXTURE.authority.root_der());
    assert_eq!(verdicts(&chain)[3], Err(PeerRejected::UnknownAuthority));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_damage_makes_anybody_believe_or_panic(which in 0..2_usize, at in 0..2_usize, damages in vec(damage(), 1..6)) {
        let original = originals()[which];
        let mut chain = original.clone();
        damages.iter().for_each(|damage| damage.apply(&mut chain[at]));
        read(&chain);
        let believed = verdicts(&chain).iter().any(Result::is_ok);
        prop_assert!(!believed || chain == *original);
    }

    #[test]
    fn no_damage_to_the_root_that_is_shown_makes_anybody_panic(damages in vec(damage(), 1..6)) {
        let mut chain = FIXTURE.control_plane.clone();
        damages.iter().for_each(|damage| damage.apply(&mut chain[2]));
        let _verdicts = verdicts(&chain);
        read(&chain);
    }

    #[test]
    fn bytes_at_random_are_believed_by_nobody(chain in vec(vec(any::<u8>(), 0..256), 1..4)) {
        prop_assert!(verdicts(&chain).iter().all(Result::is_err));
        read(&chain);
    }
}
