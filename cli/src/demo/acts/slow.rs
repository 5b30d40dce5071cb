//! An endpoint becomes slow, and gets less to do. How much less follows from Little's law: who is sent a request only
//! while it has no more under way than the other, per second of latency, gets no larger share than the other's latency
//! of both latencies together.

use std::time::Duration;

use crate::{
    demo::{
        app::Fault,
        books::{Books, Sent},
        mesh::{Member, PRICE_V1_A, PRICE_V1_B},
        split::Bound,
        stage::{Act, Judged, Stage},
    },
    duration::latency,
    failure::Failure,
};

/// When it begins: enough came before to know the share.
const AT: Duration = Duration::from_millis(2_500);
/// For how long it is watched.
const WATCHED: Duration = Duration::from_secs(3);
/// What each of its answers takes: more than a busy machine adds to the other's.
const SLOW: Duration = Duration::from_millis(300);
/// Both endpoints.
const BOTH: &str = "price-v1";

/// How it went. Moments since the start of the phase.
#[derive(Debug)]
pub(crate) struct Slow {
    victim: &'static Member,
    told: Duration,
    end: Duration,
}

impl Slow {
    /// The one that is slow, and the other one.
    pub(crate) fn pair(&self) -> (&'static Member, &'static Member) {
        let other = if self.victim.name == PRICE_V1_A.name { &PRICE_V1_B } else { &PRICE_V1_A };
        (self.victim, other)
    }

    /// Makes the busier one of two instances slow, and leaves it so.
    pub(crate) async fn play(stage: &mut Stage<'_>) -> Result<Self, Failure> {
        let logged = |stage: &Stage<'_>| -> Result<[usize; 2], Failure> {
            Ok([stage.mesh.served(&PRICE_V1_A)?.len(), stage.mesh.served(&PRICE_V1_B)?.len()])
        };
        let [a, b] = logged(stage)?;
        stage.at(AT).await;
        let [a_now, b_now] = logged(stage)?;
        let victim = if a_now - a >= b_now - b { &PRICE_V1_A } else { &PRICE_V1_B };
        stage.say(&format!("{} takes {} for each answer from now on", victim.name, latency(Some(SLOW))))?;
        let told = stage.now();
        stage.mesh.inflict(stage.stack, victim, Fault::Slow(SLOW)).await?;
        stage.at(told + WATCHED).await;
        Ok(Self { victim, told, end: stage.now() })
    }

    /// When the first slow answer was there: nobody could know before.
    fn known(&self, books: &Books) -> Option<Duration> {
        books
            .window(self.told, self.end)
            .filter(|sent| sent.outcome.as_deref() == Ok(self.victim.name) && took(sent) >= SLOW)
            .map(|sent| sent.ended)
            .min()
    }
}

fn took(sent: &Sent) -> Duration {
    sent.ended.saturating_sub(sent.left)
}

/// Mean time of the answers of an instance to what left in a time.
fn mean(books: &Books, from: Duration, to: Duration, name: &str) -> Option<Duration> {
    let times: Vec<Duration> =
        books.window(from, to).filter(|sent| sent.outcome.as_deref() == Ok(name)).map(took).collect();
    times.iter().sum::<Duration>().checked_div(u32::try_from(times.len()).ok()?)
}

impl Act for Slow {
    fn judge(&self, books: &Books) -> Vec<Judged> {
        let (victim, other) = self.pair();
        let promise = format!("slow: the share of {} fell", victim.name);
        let Some(known) = self.known(books) else {
            return vec![(promise, Err("it gave no slow answer".to_owned()))];
        };
        let (all_before, before) = books.share(Duration::ZERO, self.told, BOTH, victim.name);
        let (all, after) = books.share(known, self.end, BOTH, victim.name);
        let fast = mean(books, known, self.end, other.name).unwrap_or(SLOW);
        let fair = fast.as_secs_f64() / (fast + SLOW).as_secs_f64();
        let most = Bound::new(all, fair).high;
        // Whatever the latencies: it must have fallen by more than chance makes of the share that it had.
        let least = Bound::new(all, f64::from(before) / f64::from(all_before.max(1))).low;
        let seen = format!(
            "from {before} of {all_before} to {after} of {all}; bound {most}, by {} beside {}",
            latency(Some(SLOW)),
            latency(Some(fast))
        );
        let fell = all > 0 && after <= most && after < least;
        vec![(promise, if fell { Ok(seen) } else { Err(seen) })]
    }
}

#[cfg(test)]
mod tests {
    use super::{Act, Books, Duration, PRICE_V1_A, SLOW, Sent, Slow};
    use crate::demo::books::tests::{books, sent, served};

    const ACT: Slow = Slow { victim: &PRICE_V1_A, told: Duration::from_secs(2), end: Duration::from_secs(5) };

    /// A hundred requests a second, of which `to_victim` decides which go to the slow one.
    fn run(to_victim: impl Fn(u64) -> bool) -> Books {
        let name = |id| if to_victim(id) { "price-v1-a" } else { "price-v1-b" };
        let requests: Vec<Sent> = (0..500)
            .map(|id| {
                let left = Duration::from_millis(id * 10);
                let slow = to_victim(id) && left >= ACT.told;
                let took = if slow { SLOW } else { Duration::from_millis(3) };
                Sent { left, ended: left + took, ..sent(id, Ok(name(id))) }
            })
            .collect();
        let log: Vec<_> = (0..500).map(|id| served(id, name(id))).collect();
        books(&requests, &log)
    }

    #[test]
    fn a_share_that_falls_to_what_the_latencies_say_is_right_and_one_that_stays_is_not() {
        let kept = |books: &Books| ACT.judge(books).iter().all(|(_, found)| found.is_ok());
        assert!(kept(&run(|id| if id < 203 { id % 2 == 0 } else { id % 100 == 0 })));
        assert!(!kept(&run(|id| id % 2 == 0)), "it stays");
        assert!(!kept(&run(|id| if id < 203 { id % 2 == 0 } else { id % 4 == 0 })), "it falls too little");
        assert!(!kept(&run(|id| id < 200 && id % 2 == 0)), "nobody could know that it was slow");
    }
}
