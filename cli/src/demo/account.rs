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
const MIN_LENGTH: Duration = Duration::from_secs(10);

/// One request of the load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Unique in the whole run.
    pub(crate) id: u64,
    /// GET or POST.
    pub(crate) method: Method,
    /// When it left, since the start of the phase.
    pub(crate) left: Duration,
    /// What came of it: the version that answered, or why there was none.
    pub(crate) outcome: Result<String, String>,
}

/// One request as an application logged it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Served {
    /// The request's id.
    pub(crate) id: u64,
    /// Its method.
    pub(crate) method: String,
    /// Which version logged it.
    pub(crate) version: &'static str,
    /// The caller that the sidecar verified.
    pub(crate) caller: String,
}

/// The books of a phase.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Account {
    /// Requests that the phase sent.
    pub(crate) sent: u32,
    /// How many of them were POST.
    pub(crate) posts: u32,
    /// Without a good answer, and why.
    pub(crate) failed: Vec<(u64, String)>,
    /// Not logged by any application.
    pub(crate) missing: Vec<u64>,
    /// Logged more than once: a POST that was processed twice, or a retry that nobody asked for.
    pub(crate) repeated: Vec<u64>,
    /// Logged by another version than the one that answered, or with another method.
    pub(crate) mixed_up: Vec<u64>,
    /// Logged without the one caller that there is.
    pub(crate) strangers: Vec<u64>,
}

impl Account {
    /// Compares what was sent with what was logged. `caller` is the SPIFFE ID that every request must have had.
    pub(crate) fn new(sent: &[Sent], served: &[Served], caller: &str) -> Self {
        let mut logged: HashMap<u64, Vec<&Served>> = HashMap::with_capacity(served.len());
        for entry in served {
            logged.entry(entry.id).or_default().push(entry);
        }
        let mut account = Self {
            sent: count(sent.iter()),
            posts: count(sent.iter().filter(|sent| sent.method == Method::POST)),
            ..Self::default()
        };
        for request in sent {
            let entries = logged.get(&request.id).map(Vec::as_slice).unwrap_or_default();
            if let Err(reason) = &request.outcome {
                account.failed.push((request.id, reason.clone()));
            }
            match entries {
                [] => account.missing.push(request.id),
                [_] => {}
                _ => account.repeated.push(request.id),
            }
            let fits = |entry: &&Served| {
                let version = request.outcome.as_ref().map_or(entry.version, String::as_str);
                entry.version == version && entry.method == request.method.as_str()
            };
            if !entries.iter().all(fits) {
                account.mixed_up.push(request.id);
            }
            if !entries.iter().all(|entry| is_from(&entry.caller, caller)) {
                account.strangers.push(request.id);
            }
        }
        account
    }

    /// What broke, in words; empty when nothing did.
    pub(crate) fn defects(&self) -> Vec<String> {
        let list = |what: &str, ids: &[u64]| {
            (!ids.is_empty()).then(|| {
                let shown: Vec<String> = ids.iter().take(5).map(|id| format!("#{id}")).collect();
                format!("{} {what}: {}", ids.len(), shown.join(" "))
            })
        };
        let failed =
            (!self.failed.is_empty()).then(|| format!("{} failed: {}", self.failed.len(), self.reasons()));
        [
            failed,
            list("never reached an application", &self.missing),
            list("were processed more than once", &self.repeated),
            list("were answered by another than the one that logged them", &self.mixed_up),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// The three most frequent reasons, each with its first request.
    fn reasons(&self) -> String {
        let mut reasons: BTreeMap<&str, (u32, u64)> = BTreeMap::new();
        for (id, reason) in &self.failed {
            reasons.entry(reason).or_insert((0, *id)).0 += 1;
        }
        let mut reasons: Vec<(&str, (u32, u64))> = reasons.into_iter().collect();
        reasons.sort_by_key(|(_, (count, id))| (Reverse(*count), *id));
        let shown =
            reasons.iter().take(3).map(|(reason, (count, id))| format!("{count} from #{id} on: {reason}"));
        shown.collect::<Vec<_>>().join("; ")
    }
}

/// Why a phase proves nothing, if it does not: it was too short or too slow.
pub(crate) fn too_little(sent: &[Sent]) -> Option<String> {
    let length = sent.iter().map(|sent| sent.left).max().unwrap_or_default();
    let rate = f64::from(count(sent.iter())) / length.as_secs_f64().max(0.001);
    if length < MIN_LENGTH {
        return Some(format!(
            "the phase was too short: {:.1} s of at least {} s",
            length.as_secs_f64(),
            MIN_LENGTH.as_secs()
        ));
    }
    (rate < MIN_RATE).then(|| format!("the load was too low: {rate:.0} of at least {MIN_RATE:.0} requests/s"))
}

/// Of the requests that left at `from` or later: how many were logged, and how many of those by `version`.
pub(crate) fn split(sent: &[Sent], served: &[Served], from: Duration, version: &str) -> (u32, u32) {
    let versions: HashMap<u64, &str> = served.iter().map(|entry| (entry.id, entry.version)).collect();
    let logged: Vec<&str> = sent
        .iter()
        .filter(|sent| sent.left >= from)
        .filter_map(|sent| versions.get(&sent.id).copied())
        .collect();
    let of_version = count(logged.iter().filter(|logged| **logged == version));
    (count(logged.iter()), of_version)
}

/// Reads an application's log; a line that makes no sense is an error of the whole.
pub(crate) fn parse_log(text: &str, version: &'static str) -> Result<Vec<Served>, String> {
    text.lines()
        .map(|line| {
            let mut words = line.splitn(3, ' ');
            match (words.next().map(str::parse), words.next(), words.next()) {
                (Some(Ok(id)), Some(method), Some(caller)) => {
                    Ok(Served { id, method: method.to_owned(), version, caller: caller.to_owned() })
                }
                _ => Err(format!("the log of {version} has a broken line: {line}")),
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

fn count<T>(items: impl Iterator<Item = T>) -> u32 {
    u32::try_from(items.count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Account, Duration, Method, Sent, Served, parse_log, split, too_little};

    const FRONT: &str = "spiffe://outrigger.local/ns/demo/sa/front";

    fn sent(id: u64, outcome: Result<&str, &str>) -> Sent {
        Sent {
            id,
            method: if id.is_multiple_of(2) { Method::GET } else { Method::POST },
            left: Duration::from_secs(id),
            outcome: outcome.map(str::to_owned).map_err(str::to_owned),
        }
    }

    fn served(id: u64, version: &'static str) -> Served {
        Served {
            id,
            method: if id.is_multiple_of(2) { "GET" } else { "POST" }.to_owned(),
            version,
            caller: format!("By=spiffe://outrigger.local/ns/demo/sa/price;URI={FRONT}"),
        }
    }

    #[test]
    fn books_that_balance_have_no_defect() {
        let account = Account::new(
            &[sent(1, Ok("v1")), sent(2, Ok("v2"))],
            &[served(2, "v2"), served(1, "v1"), served(99, "v1")],
            FRONT,
        );
        assert_eq!((account.sent, account.posts), (2, 1));
        assert!(account.defects().is_empty() && account.strangers.is_empty());
    }

    #[test]
    fn an_answer_that_no_application_logged_is_missing() {
        let account = Account::new(&[sent(1, Ok("v1"))], &[], FRONT);
        assert_eq!(account.missing, [1]);
    }

    #[test]
    fn a_failed_request_counts_even_when_it_was_processed() {
        let account = Account::new(&[sent(1, Err("503 no_endpoint"))], &[served(1, "v1")], FRONT);
        assert_eq!(account.defects(), ["1 failed: 1 from #1 on: 503 no_endpoint"]);
    }

    #[test]
    fn a_post_that_was_processed_twice_is_found_across_versions() {
        let account = Account::new(&[sent(1, Ok("v1"))], &[served(1, "v1"), served(1, "v2")], FRONT);
        assert_eq!(account.repeated, [1]);
        assert_eq!(account.defects().len(), 2);
    }

    #[test]
    fn an_answer_of_another_request_is_found() {
        let account = Account::new(&[sent(1, Ok("v2"))], &[served(1, "v1")], FRONT);
        assert_eq!(account.mixed_up, [1]);
    }

    #[test]
    fn a_request_without_the_verified_caller_is_a_strangers() {
        let mut forged = served(1, "v1");
        forged.caller = format!("URI={FRONT},URI=spiffe://evil/ns/a/sa/b");
        let mut none = served(2, "v1");
        none.caller = "-".to_owned();
        let account = Account::new(&[sent(1, Ok("v1")), sent(2, Ok("v1"))], &[forged, none], FRONT);
        assert_eq!(account.strangers, [1, 2]);
    }

    #[test]
    fn a_phase_that_was_too_short_or_too_slow_proves_nothing() {
        let load = |rate: u32, seconds: u32| -> Vec<Sent> {
            (0..=rate * seconds)
                .map(|index| Sent {
                    left: Duration::from_secs(1) * index / rate,
                    ..sent(u64::from(index), Ok("v1"))
                })
                .collect()
        };
        assert_eq!(too_little(&load(200, 10)), None);
        assert!(too_little(&load(1_000, 9)).is_some_and(|why| why.contains("short")));
        assert!(too_little(&load(150, 10)).is_some_and(|why| why.contains("low")));
        assert!(too_little(&[]).is_some());
    }

    #[test]
    fn a_split_counts_only_what_left_after_the_change() {
        let requests: Vec<Sent> = (0..10).map(|id| sent(id, Ok("v1"))).collect();
        let log: Vec<Served> = (0..10).map(|id| served(id, if id < 8 { "v1" } else { "v2" })).collect();
        assert_eq!(split(&requests, &log, Duration::ZERO, "v2"), (10, 2));
        assert_eq!(split(&requests, &log, Duration::from_secs(6), "v2"), (4, 2));
    }

    #[test]
    fn a_log_with_a_broken_line_is_not_believed() {
        assert_eq!(parse_log("1 POST URI=x\n", "v1").map(|served| served.len()), Ok(1));
        assert!(parse_log("1 POST URI=x\n2 GE", "v1").is_err());
    }
}
