//! A model of proxies that come, go, renew and lag, and of operators who take any step at any time: no proxy whose own
//! certificate is valid, in contact with the control plane or not, ever meets a peer with a valid one that it cannot verify.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use proptest::prelude::*;

use super::*;

const LIFE: Duration = Duration::from_secs(1_000);
const LEAVES: LeafLife = LeafLife { life: LIFE, longer_until: SystemTime::UNIX_EPOCH };
/// A proxy that broke off counts for so long, and so long after a start nobody is known to be missing.
const REMEMBERED: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy)]
enum Event {
    Prepare(Kind),
    Activate(Kind),
    Taint(Kind),
    Revoke(Kind),
    /// A proxy connects, or joins if it cannot.
    Connect(usize),
    Disconnect(usize),
    /// It applies the bundle, and says so.
    Apply(usize),
    Renew(usize),
    /// The control plane is killed, and starts on what it kept; certificates live for so many seconds from then on.
    Restart(u64),
    Pass(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let kind = || prop_oneof![3 => Just(Kind::Root), 1 => Just(Kind::Intermediate)];
    let proxy = || 0..3_usize;
    prop_oneof![
        2 => kind().prop_map(Event::Prepare),
        3 => kind().prop_map(Event::Activate),
        1 => kind().prop_map(Event::Taint),
        3 => kind().prop_map(Event::Revoke),
        4 => proxy().prop_map(Event::Connect),
        1 => proxy().prop_map(Event::Disconnect),
        6 => proxy().prop_map(Event::Apply),
        4 => proxy().prop_map(Event::Renew),
        1 => prop_oneof![Just(50), Just(500), Just(1_000), Just(2_000)].prop_map(Event::Restart),
        3 => prop_oneof![Just(1), Just(61), Just(400), Just(1_001)].prop_map(Event::Pass),
    ]
}

#[derive(Debug, Clone, Default)]
struct Bundle {
    sequence: u64,
    roots: BTreeSet<u32>,
    revoked: BTreeSet<[u8; 32]>,
}

#[derive(Debug, Clone)]
struct Model {
    bundle: Bundle,
    leaf: Option<(Line, SystemTime)>,
    connected: bool,
    /// It applied a bundle since it connected.
    reported: bool,
    /// When it broke off, as far as the control plane knows.
    lost: Option<SystemTime>,
}

struct World {
    /// Through its kept form at each restart.
    authorities: Authorities,
    leaves: LeafLife,
    proxies: Vec<Model>,
    now: SystemTime,
    started: SystemTime,
    /// There was a start before.
    resumed: bool,
}

/// Tells numbers of roots from those of intermediates.
fn key(kind: Kind, number: u32) -> [u8; 32] {
    let mut key = [0; 32];
    key[0] = u8::from(kind == Kind::Root);
    key[1..5].copy_from_slice(&number.to_be_bytes());
    key
}

fn signers(line: Line) -> Vec<[u8; 32]> {
    vec![key(Kind::Intermediate, line.intermediate), key(Kind::Root, line.root)]
}

impl World {
    fn new() -> Self {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let absent =
            Model { bundle: Bundle::default(), leaf: None, connected: false, reported: false, lost: None };
        Self {
            authorities: Authorities::default(),
            leaves: LEAVES,
            proxies: vec![absent; 3],
            now,
            started: now,
            resumed: false,
        }
    }

    fn bundle(&self) -> Bundle {
        let roots = [Some(self.authorities.active), self.authorities.other.map(|other| other.line)];
        Bundle {
            sequence: self.authorities.sequence,
            roots: roots.into_iter().flatten().map(|line| line.root).collect(),
            revoked: self.authorities.revoked.iter().map(|revoked| revoked.key).collect(),
        }
    }

    fn visible(&self) -> Vec<Proxy> {
        let counts =
            |proxy: &&Model| proxy.connected || proxy.lost.is_some_and(|lost| self.now < lost + REMEMBERED);
        let shown = self.proxies.iter().filter(counts).map(|proxy| Proxy {
            name: String::new(),
            bundle_sequence: if proxy.reported { proxy.bundle.sequence } else { 0 },
            authorities: proxy
                .leaf
                .filter(|_| proxy.reported)
                .map(|(line, _)| signers(line))
                .unwrap_or_default(),
        });
        shown.collect()
    }

    /// Who broke off earlier, and may hold what was issued until then.
    fn absent(&self) -> Vec<Absent> {
        let lost = self.proxies.iter().filter_map(|proxy| proxy.lost.map(|lost| (proxy, lost)));
        lost.map(|(proxy, lost)| Absent {
            name: String::new(),
            bundle_sequence: if proxy.reported { proxy.bundle.sequence } else { 0 },
            until: self.leaves.until(lost),
        })
        .collect()
    }

    fn step(&mut self, step: impl FnOnce(&Authorities, &Facts<'_>) -> Result<Authorities, Refusal>) {
        let (proxies, absent) = (self.visible(), self.absent());
        let outgoing = self.authorities.other.zip(self.authorities.kind()).map(|(other, kind)| match kind {
            Kind::Root => key(kind, other.line.root),
            Kind::Intermediate => key(kind, other.line.intermediate),
        });
        let outgoing = outgoing.map(|key| Signer { key, until: self.now + LIFE * 30 });
        let facts = Facts {
            now: self.now,
            complete_at: self.started + REMEMBERED,
            proxies: &proxies,
            absent: &absent,
            unknown_until: self.resumed.then(|| self.leaves.until(self.started)),
            outgoing: outgoing.as_slice(),
        };
        if let Ok(next) = step(&self.authorities, &facts) {
            self.authorities = next;
        }
    }

    fn happen(&mut self, event: Event) {
        let (now, bundle, line) = (self.now, self.bundle(), self.authorities.active);
        let leaves = self.leaves;
        match event {
            Event::Prepare(kind) => self.step(|state, facts| state.prepare(kind, facts.now)),
            Event::Activate(kind) => self.step(|state, facts| state.activate(kind, facts, leaves, Force::No)),
            Event::Taint(kind) => self.step(|state, facts| state.taint(kind, facts.now)),
            Event::Revoke(kind) => {
                self.step(|state, facts| state.revoke(kind, facts, Force::No));
            }
            Event::Connect(index) => {
                let proxy = &mut self.proxies[index];
                let good = proxy.leaf.is_some_and(|(line, until)| now <= until && accepts(&bundle, line));
                if !good {
                    // By a token: certificate and bundle come together.
                    proxy.leaf = Some((line, now + leaves.life));
                    proxy.bundle = bundle;
                }
                proxy.connected = true;
                proxy.reported = !good;
                proxy.lost = None;
            }
            Event::Disconnect(index) => {
                let proxy = &mut self.proxies[index];
                if std::mem::take(&mut proxy.connected) {
                    proxy.lost = Some(now);
                }
            }
            Event::Apply(index) => {
                let proxy = &mut self.proxies[index];
                if proxy.connected {
                    proxy.bundle = bundle;
                    proxy.reported = true;
                }
            }
            Event::Renew(index) => {
                let proxy = &mut self.proxies[index];
                if proxy.connected {
                    proxy.leaf = Some((line, now + leaves.life));
                }
            }
            Event::Restart(seconds) => {
                let kept = serde_json::to_vec(&self.leaves).unwrap();
                let kept: LeafLife = serde_json::from_slice(&kept).unwrap();
                self.leaves = kept.started(Duration::from_secs(seconds), now);
                let kept = serde_json::to_vec(&self.authorities).unwrap();
                self.authorities = serde_json::from_slice(&kept).unwrap();
                (self.started, self.resumed) = (now, true);
                for proxy in &mut self.proxies {
                    proxy.connected = false;
                    proxy.lost = None;
                }
            }
            Event::Pass(seconds) => self.now += Duration::from_secs(seconds),
        }
    }

    /// Who cannot verify whom.
    fn broken(&self) -> Option<(usize, usize)> {
        let valid = |proxy: &Model| proxy.leaf.filter(|(_, until)| self.now <= *until).map(|(line, _)| line);
        for (one, model) in self.proxies.iter().enumerate().filter(|(_, model)| valid(model).is_some()) {
            for (other, peer) in self.proxies.iter().enumerate() {
                if valid(peer).is_some_and(|line| !accepts(&model.bundle, line)) {
                    return Some((one, other));
                }
            }
        }
        None
    }
}

fn accepts(bundle: &Bundle, line: Line) -> bool {
    bundle.roots.contains(&line.root) && !signers(line).iter().any(|key| bundle.revoked.contains(key))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_order_of_steps_and_events_takes_a_valid_peer_away(events in prop::collection::vec(event(), 1..120)) {
        let mut world = World::new();
        for event in events {
            let before = world.authorities.sequence;
            world.happen(event);
            prop_assert!(world.authorities.sequence >= before);
            prop_assert_eq!(world.broken(), None, "after {:?}", event);
        }
    }
}

/// Everybody keeps up: the steps follow each other.
#[test]
fn a_rotation_goes_through_when_everybody_keeps_up() {
    for kind in [Kind::Root, Kind::Intermediate] {
        let mut world = World::new();
        world.now += REMEMBERED;
        let all = |world: &mut World, event: fn(usize) -> Event| {
            (0..3).for_each(|index| world.happen(event(index)))
        };
        all(&mut world, Event::Connect);
        let before = world.authorities.active;
        for event in [Event::Prepare(kind), Event::Activate(kind)] {
            world.happen(event);
            all(&mut world, Event::Apply);
        }
        assert_eq!(world.authorities.active, Authorities::default().next_line(kind));
        all(&mut world, Event::Renew);
        world.happen(Event::Revoke(kind));
        assert!(world.authorities.other.is_some(), "a certificate of the old {before:?} may be somewhere");
        world.now += LIFE + Duration::from_secs(1);
        all(&mut world, Event::Renew);
        world.happen(Event::Revoke(kind));
        assert_eq!(world.authorities.other, None);
        assert_eq!(world.authorities.revoked.len(), usize::from(kind == Kind::Intermediate));
    }
}

#[test]
fn a_refusal_names_who_lags_and_a_step_out_of_turn_says_what_is_missing() {
    let now = SystemTime::UNIX_EPOCH + LIFE;
    let old = key(Kind::Root, 0);
    let proxy = |name: &str, bundle_sequence, authorities| Proxy {
        name: name.to_owned(),
        bundle_sequence,
        authorities,
    };
    let proxies =
        [proxy("one", 1, vec![old]), proxy("two", 2, vec![key(Kind::Root, 1)]), proxy("three", 0, vec![])];
    let facts = Facts {
        now,
        complete_at: now,
        proxies: &proxies,
        absent: &[],
        unknown_until: None,
        outgoing: &[Signer { key: old, until: now + LIFE }],
    };
    let idle = Authorities::default();
    assert_eq!(idle.activate(Kind::Root, &facts, LEAVES, Force::All), Err(Refusal::NotPrepared(Kind::Root)));
    assert_eq!(idle.revoke(Kind::Root, &facts, Force::All), Err(Refusal::NotActivated(Kind::Root)));
    let prepared = idle.prepare(Kind::Root, now).unwrap();
    assert_eq!(prepared.prepare(Kind::Intermediate, now), Err(Refusal::UnderWay(Kind::Root)));
    assert_eq!(prepared.taint(Kind::Root, now), Err(Refusal::NotActivated(Kind::Root)));
    let lagging = vec!["one".to_owned(), "three".to_owned()];
    let found = Unsafe { lagging: lagging.clone(), ..Unsafe::default() };
    assert_eq!(prepared.activate(Kind::Root, &facts, LEAVES, Force::No), Err(Refusal::Unsafe(found)));

    let activated = prepared.activate(Kind::Root, &facts, LEAVES, Force::All).unwrap();
    let early = Facts { complete_at: now + LIFE, ..facts.clone() };
    let found = Unsafe {
        lagging,
        incomplete_until: Some(now + LIFE),
        leaves_until: Some(now + LIFE),
        ..Unsafe::default()
    };
    assert_eq!(activated.revoke(Kind::Root, &early, Force::No), Err(Refusal::Unsafe(found)));
    assert!(activated.revoke(Kind::Root, &early, Force::All).unwrap().at_once);
    let tainted = activated.taint(Kind::Root, now).unwrap();
    assert_eq!(tainted.taint(Kind::Root, now), Ok(tainted.clone()), "twice is once");
}

#[test]
fn a_shorter_life_of_certificates_does_not_let_an_old_root_go_earlier() {
    let (mut world, root) = (World::new(), Kind::Root);
    world.happen(Event::Connect(0));
    world.happen(Event::Restart(50));
    world.now += REMEMBERED;
    for event in [Event::Prepare(root), Event::Connect(1), Event::Apply(1)] {
        world.happen(event);
    }
    // Proxy 0, which is not back, is left out of the reckoning; its certificate is not.
    let proxies = world.visible();
    let facts = Facts {
        now: world.now,
        complete_at: world.now,
        proxies: &proxies,
        absent: &[],
        unknown_until: None,
        outgoing: &[Signer { key: key(root, 0), until: world.now + LIFE }],
    };
    let activated = world.authorities.activate(root, &facts, world.leaves, Force::All).unwrap();
    let until = world.started + LIFE;
    assert_eq!(activated.other.unwrap().stage, Stage::Retiring { leaves_until: until });
    let facts = Facts { now: until, proxies: &[], ..facts };
    assert!(activated.revoke(root, &facts, Force::No).is_err());
    let facts = Facts { now: until + Duration::from_secs(1), ..facts };
    activated.revoke(root, &facts, Force::No).unwrap();
}

/// It runs on for as long as its certificate is valid, and does not know the new root.
#[test]
fn a_proxy_that_was_cut_off_holds_a_new_root_back_until_its_certificate_has_expired() {
    let mut world = World::new();
    world.now += REMEMBERED;
    world.happen(Event::Connect(0));
    world.happen(Event::Disconnect(0));
    world.now += REMEMBERED * 2;
    let root = Kind::Root;
    for event in [Event::Connect(1), Event::Prepare(root), Event::Apply(1), Event::Activate(root)] {
        world.happen(event);
    }
    assert_eq!(world.authorities.active, Authorities::default().active, "it is out of sight, and alive");
    assert_eq!(world.broken(), None);
    world.now += LIFE - REMEMBERED;
    world.happen(Event::Activate(root));
    assert_ne!(world.authorities.active, Authorities::default().active);
    assert_eq!(world.broken(), None);
}

#[test]
fn who_is_away_is_named_unless_it_knows_the_new_root() {
    let now = SystemTime::UNIX_EPOCH + LIFE;
    let away = |name: &str, bundle_sequence, until| Absent { name: name.to_owned(), bundle_sequence, until };
    let absent =
        [away("before", 1, now + LIFE), away("after", 2, now + LIFE * 2), away("expired", 1, now - LIFE / 2)];
    let mut facts =
        Facts { now, complete_at: now, proxies: &[], absent: &absent, unknown_until: None, outgoing: &[] };
    let prepared = Authorities::default().prepare(Kind::Root, now).unwrap();
    let found = prepared.found(&facts);
    assert_eq!((found.absent, found.leaves_until), (vec!["before".to_owned()], Some(now + LIFE)));
    facts.unknown_until = Some(now + LIFE * 3);
    assert_eq!(prepared.found(&facts).leaves_until, Some(now + LIFE * 3));
    facts.now = now + LIFE * 4;
    assert!(prepared.found(&facts).is_safe());
}

/// It may have signed what somebody made who has its key.
#[test]
fn an_intermediate_goes_with_those_that_it_replaced() {
    let (now, kind) = (SystemTime::UNIX_EPOCH + LIFE * 40, Kind::Intermediate);
    let old = |number, until| Signer { key: key(kind, number), until };
    let outgoing = [old(0, now + LIFE * 30), old(7, now + LIFE * 15), old(8, now - LIFE)];
    let proxies = [Proxy {
        name: "one".to_owned(),
        bundle_sequence: 3,
        authorities: vec![key(kind, 7), key(Kind::Root, 0)],
    }];
    let facts = Facts {
        now,
        complete_at: now,
        proxies: &proxies,
        absent: &[],
        unknown_until: None,
        outgoing: &outgoing,
    };
    let prepared = Authorities::default().prepare(kind, now).unwrap();
    let activated = prepared.activate(kind, &facts, LEAVES, Force::No).unwrap();
    assert_eq!(activated.found(&facts).lagging, ["one"], "it shows a certificate of an earlier one");
    let gone = activated.revoke(kind, &facts, Force::All).unwrap();
    assert_eq!(gone.revoked, outgoing[..2], "the certificate of the third has expired");
}

#[test]
fn a_force_that_passes_over_those_who_are_away_does_not_pass_over_those_who_are_known() {
    let now = SystemTime::UNIX_EPOCH + LIFE;
    let old = Signer { key: key(Kind::Root, 0), until: now + LIFE };
    let absent = [Absent { name: "away".to_owned(), bundle_sequence: 1, until: now + LIFE }];
    let mut proxies =
        [Proxy { name: "one".to_owned(), bundle_sequence: 1, authorities: vec![key(Kind::Root, 1)] }];
    let prepared = Authorities::default().prepare(Kind::Root, now).unwrap();
    let outgoing = [old];
    let judge = |proxies: &[Proxy], by: &dyn Fn(&Facts<'_>) -> Result<Authorities, Refusal>| {
        let facts = Facts {
            now,
            complete_at: now,
            proxies,
            absent: &absent,
            unknown_until: None,
            outgoing: &outgoing,
        };
        by(&facts)
    };
    let activate = |force, proxies: &[Proxy]| {
        judge(proxies, &|facts| prepared.activate(Kind::Root, facts, LEAVES, force))
    };
    activate(Force::Absent, &proxies).unwrap_err();
    proxies[0].bundle_sequence = 2;
    activate(Force::No, &proxies).unwrap_err();
    let activated = activate(Force::Absent, &proxies).unwrap();
    let revoke =
        |force, proxies: &[Proxy]| judge(proxies, &|facts| activated.revoke(Kind::Root, facts, force));
    revoke(Force::No, &proxies).unwrap_err();
    assert!(revoke(Force::Absent, &proxies).unwrap().at_once);
    proxies[0].authorities = vec![old.key];
    revoke(Force::Absent, &proxies).unwrap_err();
    revoke(Force::All, &proxies).unwrap();
}
