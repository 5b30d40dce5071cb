//! A model of proxies that come, go, renew and lag, and of operators who take any step at any time: no proxy that is in
//! contact with the control plane, or was so within the last minute, ever meets a peer with a valid certificate that it cannot verify.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use proptest::prelude::*;

use super::*;

const LIFE: Duration = Duration::from_secs(1_000);
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
    /// The control plane is killed, and starts on what it kept.
    Restart,
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
        1 => Just(Event::Restart),
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
    /// When it was connected last, and had applied a bundle.
    contact: Option<SystemTime>,
}

struct World {
    /// Through its kept form at each restart.
    authorities: Authorities,
    proxies: Vec<Model>,
    now: SystemTime,
    started: SystemTime,
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
        let absent = Model {
            bundle: Bundle::default(),
            leaf: None,
            connected: false,
            reported: false,
            lost: None,
            contact: None,
        };
        Self { authorities: Authorities::default(), proxies: vec![absent; 3], now, started: now }
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

    fn step(&mut self, step: impl FnOnce(&Authorities, &Facts<'_>) -> Result<Authorities, Refusal>) {
        let proxies = self.visible();
        let outgoing = self.authorities.other.zip(self.authorities.kind()).map(|(other, kind)| match kind {
            Kind::Root => key(kind, other.line.root),
            Kind::Intermediate => key(kind, other.line.intermediate),
        });
        let complete_at = self.started + REMEMBERED;
        let facts = Facts { now: self.now, complete_at, proxies: &proxies, outgoing };
        if let Ok(next) = step(&self.authorities, &facts) {
            self.authorities = next;
        }
    }

    fn happen(&mut self, event: Event) {
        let (now, bundle, line) = (self.now, self.bundle(), self.authorities.active);
        match event {
            Event::Prepare(kind) => self.step(|state, facts| state.prepare(kind, facts.now)),
            Event::Activate(kind) => self.step(|state, facts| state.activate(kind, facts, LIFE, false)),
            Event::Taint(kind) => self.step(|state, facts| state.taint(kind, facts.now)),
            Event::Revoke(kind) => {
                self.step(|state, facts| state.revoke(kind, facts, now + LIFE * 30, false));
            }
            Event::Connect(index) => {
                let proxy = &mut self.proxies[index];
                let good = proxy.leaf.is_some_and(|(line, until)| now <= until && accepts(&bundle, line));
                if !good {
                    // By a token: certificate and bundle come together.
                    proxy.leaf = Some((line, now + LIFE));
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
                    proxy.leaf = Some((line, now + LIFE));
                }
            }
            Event::Restart => {
                let kept = serde_json::to_vec(&self.authorities).unwrap();
                self.authorities = serde_json::from_slice(&kept).unwrap();
                self.started = now;
                for proxy in &mut self.proxies {
                    proxy.connected = false;
                    proxy.lost = None;
                }
            }
            Event::Pass(seconds) => self.now += Duration::from_secs(seconds),
        }
        for proxy in self.proxies.iter_mut().filter(|proxy| proxy.connected && proxy.reported) {
            proxy.contact = Some(self.now);
        }
    }

    /// Who cannot verify whom: of those in contact, or out of it for less than a minute. They run on without.
    fn broken(&self) -> Option<(usize, usize)> {
        let valid = |proxy: &Model| proxy.leaf.filter(|(_, until)| self.now <= *until).map(|(line, _)| line);
        let in_contact = |model: &Model| model.contact.is_some_and(|contact| self.now < contact + REMEMBERED);
        for (one, model) in self.proxies.iter().enumerate().filter(|(_, model)| in_contact(model)) {
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
    let facts = Facts { now, complete_at: now, proxies: &proxies, outgoing: Some(old) };
    let idle = Authorities::default();
    assert_eq!(idle.activate(Kind::Root, &facts, LIFE, true), Err(Refusal::NotPrepared(Kind::Root)));
    assert_eq!(idle.revoke(Kind::Root, &facts, now, true), Err(Refusal::NotActivated(Kind::Root)));
    let prepared = idle.prepare(Kind::Root, now).unwrap();
    assert_eq!(prepared.prepare(Kind::Intermediate, now), Err(Refusal::UnderWay(Kind::Root)));
    assert_eq!(prepared.taint(Kind::Root, now), Err(Refusal::NotActivated(Kind::Root)));
    let lagging = vec!["one".to_owned(), "three".to_owned()];
    let found = Unsafe { lagging: lagging.clone(), ..Unsafe::default() };
    assert_eq!(prepared.activate(Kind::Root, &facts, LIFE, false), Err(Refusal::Unsafe(found)));

    let activated = prepared.activate(Kind::Root, &facts, LIFE, true).unwrap();
    let early = Facts { complete_at: now + LIFE, ..facts.clone() };
    let found = Unsafe { lagging, incomplete_until: Some(now + LIFE), leaves_until: Some(now + LIFE) };
    assert_eq!(activated.revoke(Kind::Root, &early, now, false), Err(Refusal::Unsafe(found)));
    assert!(activated.revoke(Kind::Root, &early, now, true).unwrap().at_once);
    let tainted = activated.taint(Kind::Root, now).unwrap();
    assert_eq!(tainted.taint(Kind::Root, now), Ok(tainted.clone()), "twice is once");
}
