//! An instance is killed with `kill -9`, application and sidecar, and comes back. A GET that was under way there is sent
//! again elsewhere; a POST that was is lost, since nobody can tell whether it was processed, and no other one is.
//!
//! Both instances of v1 take their time before, so that something is under way.

use std::time::Duration;

use crate::{
    demo::{
        app::Fault,
        books::{Books, Sent, count},
        mesh::{Member, PRICE_V1_A, PRICE_V1_B},
        stage::{Act, Judged, Stage, seconds},
    },
    duration::latency,
    failure::Failure,
};

/// The one that is killed.
const VICTIM: &Member = &PRICE_V1_B;
/// The other one of its version.
const OTHER: &Member = &PRICE_V1_A;
/// When both begin to take their time.
const BUSY_AT: Duration = Duration::from_millis(500);
/// How much each answer takes then.
const BUSY: Duration = Duration::from_millis(250);
/// When it is killed.
const AT: Duration = Duration::from_millis(1_500);
/// For how long it is gone.
const GONE: Duration = Duration::from_secs(2);
/// How long after its end its caller may not yet have seen that its connections are closed.
const UNSEEN: Duration = Duration::from_millis(100);
/// Requests that it has to serve to be back.
const BACK: usize = 5;

/// How it went. Moments since the start of the phase.
#[derive(Debug)]
pub(crate) struct Kill {
    /// The signals were sent.
    killed: Duration,
    /// Both processes had ended.
    ended: Duration,
    /// It was started again.
    started: Duration,
    /// It served again.
    back: Result<Duration, String>,
}

impl Kill {
    /// Kills it, and starts it again.
    pub(crate) async fn play(stage: &mut Stage<'_>) -> Result<Self, Failure> {
        stage.at(BUSY_AT).await;
        let busy = latency(Some(BUSY));
        stage.say(&format!("{} and {} take {busy} for each answer", OTHER.name, VICTIM.name))?;
        for member in [OTHER, VICTIM] {
            stage.mesh.inflict(stage.stack, member, Fault::Slow(BUSY)).await?;
        }
        stage.at(AT).await;
        stage.say(&format!("kill -9: {} and its sidecar", VICTIM.name))?;
        let killed = stage.now();
        stage.kill(&[VICTIM.sidecar, VICTIM.name]).await?;
        let ended = stage.now();
        stage.mesh.inflict(stage.stack, OTHER, Fault::Nothing).await?;
        stage.at(killed + GONE).await;
        stage.say(&format!("{} is started again, with the credential that it has on disk", VICTIM.name))?;
        let started = stage.now();
        stage.mesh.start(stage.stack, VICTIM).await?;
        let back = stage.serves(VICTIM, BACK).await?;
        Ok(Self { killed, ended, started, back })
    }

    /// The requests that were under way when it was killed, and that no other instance had.
    fn under_way<'a>(&self, books: &'a Books) -> impl Iterator<Item = &'a Sent> {
        let (from, to) = (self.killed, self.ended + UNSEEN);
        books
            .sent()
            .iter()
            .filter(move |sent| sent.was_under_way(from, to))
            .filter(|sent| books.instances(sent.id).all(|name| name == VICTIM.name))
    }

    fn lost<'a>(&self, books: &'a Books) -> impl Iterator<Item = &'a Sent> {
        self.under_way(books).filter(|sent| sent.is_post() && sent.outcome.is_err())
    }

    /// GETs that it had begun with, and that another instance answered.
    fn again<'a>(&self, books: &'a Books) -> impl Iterator<Item = &'a Sent> {
        let (from, to) = (self.killed, self.ended + UNSEEN);
        books
            .sent()
            .iter()
            .filter(move |sent| !sent.is_post() && sent.outcome.is_ok() && sent.was_under_way(from, to))
            .filter(|sent| books.instances(sent.id).count() == 2)
            .filter(|sent| books.instances(sent.id).any(|name| name == VICTIM.name))
    }
}

impl Act for Kill {
    fn excused(&self, books: &Books) -> Vec<u64> {
        self.lost(books).chain(self.again(books)).map(|sent| sent.id).collect()
    }

    fn judge(&self, books: &Books) -> Vec<Judged> {
        let until = self.back.as_ref().copied().unwrap_or(Duration::MAX);
        let during = || books.sent().iter().filter(|sent| sent.was_under_way(self.killed, until));
        let gets = count(during().filter(|sent| !sent.is_post()));
        let failed_gets = count(during().filter(|sent| !sent.is_post() && sent.outcome.is_err()));
        let again = count(self.again(books));
        let seen = format!("{failed_gets} of {gets}; {again} were answered elsewhere at a second try");
        let gets = if failed_gets == 0 && gets > 0 { Ok(seen) } else { Err(seen) };

        let lost = count(during().filter(|sent| sent.is_post() && sent.outcome.is_err()));
        let posts = count(during().filter(|sent| sent.is_post()));
        let under_way = count(self.under_way(books).filter(|sent| sent.is_post()));
        let seen = format!("{lost} of {posts}; {under_way} were under way there");
        let lost = if lost <= under_way && lost == count(self.lost(books)) { Ok(seen) } else { Err(seen) };
        vec![
            ("kill -9: no GET failed".to_owned(), gets),
            ("kill -9: no POST was lost but those under way".to_owned(), lost),
            back_again("kill -9", VICTIM, self.started, &self.back),
        ]
    }
}

/// Whether an instance that was started at `started` served again at `back`.
pub(super) fn back_again(
    act: &str,
    member: &Member,
    started: Duration,
    back: &Result<Duration, String>,
) -> Judged {
    let back =
        back.clone().map(|back| format!("it served again {} after its start", seconds(back - started)));
    (format!("{act}: {} came back", member.name), back)
}

#[cfg(test)]
mod tests {
    use super::{Act, Duration, Kill};
    use crate::demo::books::tests::{books, sent, served};

    const KILL: Kill = Kill {
        killed: Duration::from_secs(10),
        ended: Duration::from_secs(11),
        started: Duration::from_secs(12),
        back: Ok(Duration::from_secs(20)),
    };

    fn kept(kill: &Kill, books: &crate::demo::books::Books) -> Vec<bool> {
        kill.judge(books).iter().map(|(_, found)| found.is_ok()).collect()
    }

    #[test]
    fn what_was_under_way_at_the_one_that_died_is_excused_and_nothing_else() {
        // Even ids are GET. Each leaves and ends in the second of its id.
        let requests = [
            sent(9, Err("502")),
            sent(10, Ok("price-v1-a")),
            sent(11, Err("502")),
            sent(13, Err("502")),
            sent(14, Ok("price-v1-a")),
        ];
        let log = [
            served(9, "price-v1-b"),
            served(10, "price-v1-b"),
            served(10, "price-v1-a"),
            served(11, "price-v1-b"),
            served(13, "price-v1-a"),
            served(14, "price-v1-a"),
            served(14, "price-v2"),
        ];
        let all = books(&requests, &log);
        assert_eq!(KILL.excused(&all), [11, 10]);
        assert_eq!(kept(&KILL, &all), [true, false, true], "13 is lost without an excuse");
        assert_eq!(all.defects(&KILL.excused(&all)).len(), 2, "9 and 13 failed, 14 was sent again");
        let fair = books(&requests[1..3], &log);
        assert_eq!(kept(&KILL, &fair), [true, true, true]);
        assert_eq!(fair.defects(&KILL.excused(&fair)), Vec::<String>::new());
    }

    #[test]
    fn a_get_that_failed_is_never_excused() {
        let all = books(&[sent(10, Err("502"))], &[served(10, "price-v1-b")]);
        assert_eq!(kept(&KILL, &all), [false, true, true]);
        assert!(KILL.excused(&all).is_empty());
    }
}
