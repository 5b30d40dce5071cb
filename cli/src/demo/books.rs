//! The books of one phase of load: what was sent against what the applications logged. Nothing is believed that is not
//! in both.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use http::Method;

/// Fewest requests per second of a phase that proves anything.
const MIN_RATE: f64 = 200.0;
/// Shortest phase that proves anything.
pub(crate) const MIN_LENGTH: Duration = Duration::from_secs(10);

/// One request of the load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Unique in the whole run.
    pub(crate) id: u64,
    /// GET or POST.
    pub(crate) method: Method,
    /// When it left, since the start of the phase.
    pub(crate) left: Duration,
    /// When its answer was there, or the lack of one clear.
    pub(crate) ended: Duration,
    /// What came of it: the instance that answered, or why there was no good answer.
    pub(crate) outcome: Result<String, String>,
}

impl Sent {
    /// Whether it changes something, and must not be sent again.
    pub(crate) fn is_post(&self) -> bool {
        self.method == Method::POST
    }

    /// Whether it was under way at any moment from `from` to `to`.
    pub(crate) fn was_under_way(&self, from: Duration, to: Duration) -> bool {
        self.left <= to && self.ended >= from
    }
}

/// One request as an application logged it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Served {
    /// The request's id.
    pub(crate) id: u64,
    /// Its method.
    pub(crate) method: String,
    /// Which instance logged it.
    pub(crate) instance: &'static str,
    /// The caller that the sidecar verified.
    pub(crate) caller: String,
}

/// The books of a phase.
#[derive(Debug)]
pub(crate) struct Books {
    /// By id.
    sent: Vec<Sent>,
    price: HashMap<u64, Vec<Served>>,
    cart: HashMap<u64, Vec<Served>>,
}

impl Books {
    /// Of what was sent, and of the whole logs of both services.
    pub(crate) fn new(sent: Vec<Sent>, price: Vec<Served>, cart: Vec<Served>) -> Self {
        let by_id = |entries: Vec<Served>| {
            let mut logged: HashMap<u64, Vec<Served>> = HashMap::with_capacity(entries.len());
            for entry in entries {
                logged.entry(entry.id).or_default().push(entry);
            }
            logged
        };
        Self { sent, price: by_id(price), cart: by_id(cart) }
    }

    /// Every request of the phase.
    pub(crate) fn sent(&self) -> &[Sent] {
        &self.sent
    }

    /// Those that left from `from` on and before `to`.
    pub(crate) fn window(&self, from: Duration, to: Duration) -> impl Iterator<Item = &Sent> {
        self.sent.iter().filter(move |sent| (from..to).contains(&sent.left))
    }

    /// The instances of `price` that logged a request; none, one, or more if it was sent again.
    pub(crate) fn instances(&self, id: u64) -> impl Iterator<Item = &'static str> {
        self.price.get(&id).map(Vec::as_slice).unwrap_or_default().iter().map(|entry| entry.instance)
    }

    /// Of the requests that left from `from` on and were answered by `to`: how many an instance with a name that begins
    /// with `all` logged, and how many of those one that begins with `part`.
    pub(crate) fn share(&self, from: Duration, to: Duration, all: &str, part: &str) -> (u32, u32) {
        let logged: Vec<&str> = self
            .window(from, to)
            .filter(|sent| sent.ended <= to)
            .flat_map(|sent| self.instances(sent.id))
            .filter(|name| name.starts_with(all))
            .collect();
        (count(logged.iter()), count(logged.iter().filter(|name| name.starts_with(part))))
    }

    /// What broke, in words; empty when nothing did. Of the `excused` requests an answer may be missing, and a GET may
    /// have been sent again; no request but those is excused from anything, and no POST from being processed once.
    pub(crate) fn defects(&self, excused: &[u64]) -> Vec<String> {
        let other = |sent: &&Sent| !excused.contains(&sent.id);
        let failed: Vec<&Sent> =
            self.sent.iter().filter(other).filter(|sent| sent.outcome.is_err()).collect();
        let missing = self.ids(|sent| other(&sent) && self.processed(sent) == 0);
        let repeated = self.ids(|sent| self.processed(sent) > 1 && (sent.is_post() || other(&sent)));
        let mixed_up = self.ids(|sent| self.is_mixed_up(sent));
        let failed = (!failed.is_empty()).then(|| format!("{} failed: {}", failed.len(), reasons(&failed)));
        [
            failed,
            list("never reached an application", &missing),
            list("were processed more than once", &repeated),
            list("were answered by another than the one that logged them", &mixed_up),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// The requests that reached `price` without `cart`'s verified identity, or `cart` without `front`'s.
    pub(crate) fn strangers(&self, front: &str, cart: &str) -> Vec<u64> {
        let all_from = |entries: Option<&Vec<Served>>, caller: &str| {
            entries.is_none_or(|entries| entries.iter().all(|entry| is_from(&entry.caller, caller)))
        };
        self.ids(|sent| {
            !all_from(self.price.get(&sent.id), cart) || !all_from(self.cart.get(&sent.id), front)
        })
    }

    /// How often it was processed: by the service that did so most often.
    fn processed(&self, sent: &Sent) -> usize {
        let [price, cart] = [&self.price, &self.cart].map(|log| log.get(&sent.id).map_or(0, Vec::len));
        if price == 0 || cart == 0 { 0 } else { price.max(cart) }
    }

    /// Logged by another instance than the one that answered, or with another method.
    fn is_mixed_up(&self, sent: &Sent) -> bool {
        let entries = self.price.get(&sent.id).map(Vec::as_slice).unwrap_or_default();
        // What nobody logged is missing, and said to be that.
        let by_another =
            |name: &String| !entries.is_empty() && entries.iter().all(|entry| entry.instance != name);
        sent.outcome.as_ref().is_ok_and(by_another)
            || entries.iter().any(|entry| entry.method != sent.method.as_str())
    }

    fn ids(&self, wanted: impl Fn(&Sent) -> bool) -> Vec<u64> {
        self.sent.iter().filter(|sent| wanted(sent)).map(|sent| sent.id).collect()
    }

    /// Why the phase proves nothing, if it does not: it was too short or too slow.
    pub(crate) fn too_little(&self) -> Option<String> {
        let length = self.sent.iter().map(|sent| sent.left).max().unwrap_or_default();
        let rate = f64::from(count(self.sent.iter())) / length.as_secs_f64().max(0.001);
        if length < MIN_LENGTH {
            return Some(format!(
                "the phase was too short: {:.1} s of at least {} s",
                length.as_secs_f64(),
                MIN_LENGTH.as_secs()
            ));
        }
        (rate < MIN_RATE)
            .then(|| format!("the load was too low: {rate:.0} of at least {MIN_RATE:.0} requests/s"))
    }
}

fn list(what: &str, ids: &[u64]) -> Option<String> {
    (!ids.is_empty()).then(|| {
        let shown: Vec<String> = ids.iter().take(5).map(|id| format!("#{id}")).collect();
        format!("{} {what}: {}", ids.len(), shown.join(" "))
    })
}

/// The three most frequent reasons, each with its first request.
fn reasons(failed: &[&Sent]) -> String {
    let mut reasons: BTreeMap<&str, (u32, u64)> = BTreeMap::new();
    for sent in failed {
        let reason = sent.outcome.as_ref().err().map_or("", String::as_str);
        reasons.entry(reason).or_insert((0, sent.id)).0 += 1;
    }
    let mut reasons: Vec<(&str, (u32, u64))> = reasons.into_iter().collect();
    reasons.sort_by_key(|(_, (count, id))| (Reverse(*count), *id));
    let shown =
        reasons.iter().take(3).map(|(reason, (count, id))| format!("{count} from #{id} on: {reason}"));
    shown.collect::<Vec<_>>().join("; ")
}

/// Reads an application's log; a line that makes no sense is an error of the whole.
pub(crate) fn parse_log(text: &str, instance: &'static str) -> Result<Vec<Served>, String> {
    text.lines()
        .map(|line| {
            let mut words = line.splitn(3, ' ');
            match (words.next().map(str::parse), words.next(), words.next()) {
                (Some(Ok(id)), Some(method), Some(caller)) => {
                    Ok(Served { id, method: method.to_owned(), instance, caller: caller.to_owned() })
                }
                _ => Err(format!("the log of {instance} has a broken line: {line}")),
            }
        })
        .collect()
}

/// Whether an `x-forwarded-client-cert` names exactly `caller`.
fn is_from(header: &str, caller: &str) -> bool {
    let mut uris = header
        .split([';', ','])
        .filter_map(|pair| pair.trim().strip_prefix("URI="))
        .map(|uri| uri.trim_matches('"'));
    uris.next() == Some(caller) && uris.next().is_none()
}

/// How many there are.
pub(crate) fn count<T>(items: impl Iterator<Item = T>) -> u32 {
    u32::try_from(items.count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
pub(super) mod tests {
    use super::{Books, Duration, Method, Sent, Served, parse_log};

    const FRONT: &str = "spiffe://outrigger.local/ns/demo/sa/front";
    const CART: &str = "spiffe://outrigger.local/ns/demo/sa/cart";

    pub(crate) fn sent(id: u64, outcome: Result<&str, &str>) -> Sent {
        Sent {
            id,
            method: if id.is_multiple_of(2) { Method::GET } else { Method::POST },
            left: Duration::from_secs(id),
            ended: Duration::from_secs(id),
            outcome: outcome.map(str::to_owned).map_err(str::to_owned),
        }
    }

    pub(crate) fn served(id: u64, instance: &'static str) -> Served {
        Served {
            id,
            method: if id.is_multiple_of(2) { "GET" } else { "POST" }.to_owned(),
            instance,
            caller: format!(
                "By=spiffe://outrigger.local/ns/demo/sa/price;URI={}",
                if instance == "cart" { FRONT } else { CART }
            ),
        }
    }

    /// `cart` saw each of them once.
    pub(crate) fn books(sent: &[Sent], price: &[Served]) -> Books {
        let cart = sent.iter().map(|sent| served(sent.id, "cart")).collect();
        Books::new(sent.to_vec(), price.to_vec(), cart)
    }

    #[test]
    fn books_that_balance_have_no_defect() {
        let books = books(
            &[sent(1, Ok("v1")), sent(2, Ok("v2"))],
            &[served(2, "v2"), served(1, "v1"), served(99, "v1")],
        );
        assert_eq!(books.defects(&[]), Vec::<String>::new());
        assert_eq!(books.strangers(FRONT, CART), Vec::<u64>::new());
    }

    #[test]
    fn an_answer_that_an_application_did_not_log_is_missing() {
        let missing = ["1 never reached an application: #1"];
        assert_eq!(books(&[sent(1, Ok("v1"))], &[]).defects(&[]), missing);
        let past_cart = Books::new(vec![sent(1, Ok("v1"))], vec![served(1, "v1")], Vec::new());
        assert_eq!(past_cart.defects(&[]), missing);
    }

    #[test]
    fn a_failed_request_counts_even_when_it_was_processed_unless_it_is_excused() {
        let books = books(&[sent(1, Err("503 no_endpoint"))], &[served(1, "v1")]);
        assert_eq!(books.defects(&[2]), ["1 failed: 1 from #1 on: 503 no_endpoint"]);
        assert_eq!(books.defects(&[1]), Vec::<String>::new());
    }

    #[test]
    fn a_request_that_was_processed_twice_is_found_across_instances_and_a_post_is_never_excused() {
        let twice = |id| books(&[sent(id, Ok("v1"))], &[served(id, "v1"), served(id, "v2")]);
        assert_eq!(twice(1).defects(&[]), ["1 were processed more than once: #1"]);
        assert_eq!(twice(1).defects(&[1]), ["1 were processed more than once: #1"]);
        assert_eq!(twice(2).defects(&[]), ["1 were processed more than once: #2"]);
        assert_eq!(twice(2).defects(&[2]), Vec::<String>::new());
    }

    #[test]
    fn an_answer_of_another_request_is_found() {
        let books = books(&[sent(1, Ok("v2"))], &[served(1, "v1")]);
        assert_eq!(books.defects(&[]), ["1 were answered by another than the one that logged them: #1"]);
    }

    #[test]
    fn a_request_without_the_verified_caller_is_a_strangers() {
        let mut forged = served(1, "v1");
        forged.caller = format!("URI={CART},URI=spiffe://evil/ns/a/sa/b");
        let mut none = served(2, "v1");
        none.caller = "-".to_owned();
        let books = books(&[sent(1, Ok("v1")), sent(2, Ok("v1"))], &[forged, none]);
        assert_eq!(books.strangers(FRONT, CART), [1, 2]);
        assert_eq!(books.strangers(CART, CART), [1, 2], "cart's caller counts as well");
    }

    #[test]
    fn a_phase_that_was_too_short_or_too_slow_proves_nothing() {
        let load = |rate: u32, seconds: u32| {
            let sent: Vec<Sent> = (0..=rate * seconds)
                .map(|index| Sent {
                    left: Duration::from_secs(1) * index / rate,
                    ..sent(u64::from(index), Ok("v1"))
                })
                .collect();
            books(&sent, &[])
        };
        assert_eq!(load(200, 10).too_little(), None);
        assert!(load(1_000, 9).too_little().is_some_and(|why| why.contains("short")));
        assert!(load(150, 10).too_little().is_some_and(|why| why.contains("low")));
        assert!(books(&[], &[]).too_little().is_some());
    }

    #[test]
    fn a_share_counts_what_left_and_was_answered_within_the_window() {
        let requests: Vec<Sent> = (0..10).map(|id| sent(id, Ok("v1-a"))).collect();
        let log: Vec<Served> = (0..10).map(|id| served(id, if id < 8 { "v1-a" } else { "v2" })).collect();
        let books = books(&requests, &log);
        let seconds = Duration::from_secs;
        assert_eq!(books.share(seconds(0), seconds(99), "", "v2"), (10, 2));
        assert_eq!(books.share(seconds(6), seconds(9), "", "v2"), (3, 1));
        assert_eq!(books.share(seconds(0), seconds(99), "v1", "v1-b"), (8, 0));
    }

    #[test]
    fn a_log_with_a_broken_line_is_not_believed() {
        assert_eq!(parse_log("1 POST URI=x\n", "v1").map(|served| served.len()), Ok(1));
        assert!(parse_log("1 POST URI=x\n2 GE", "v1").is_err());
    }
}
