//! An endpoint fails every request, and is ejected at its seventh failure in a row; well again, it comes back. Its client
//! sees those seven, and what was under way by then, and no other.
//!
//! The other endpoint is slow meanwhile: beside one that is as fast as it, a failing endpoint gets so little to do that
//! it seldom comes to seven.

use std::time::Duration;

use crate::{
    demo::{
        app::Fault,
        books::{Books, Sent},
        mesh::{Member, NAMESPACE},
        stage::{Act, Judged, Stage, seconds},
    },
    failure::Failure,
    view::{Endpoints, Health},
};

/// The failures in a row that eject: the default of a TrafficPolicy.
const IN_A_ROW: usize = 7;
/// The service whose endpoint fails.
const SERVICE: &str = "price-v1";
/// Requests that it has to serve to be back.
const BACK: usize = 5;

/// How it went. Moments since the start of the phase.
#[derive(Debug)]
pub(crate) struct Failing {
    victim: &'static Member,
    told: Duration,
    /// `outrigger status` showed it ejected.
    ejected: Result<Duration, String>,
    /// What it showed.
    shown: Option<Health>,
    well: Duration,
    back: Result<Duration, String>,
}

impl Failing {
    /// Makes `victim` fail while `other` is slow, and both well again.
    pub(crate) async fn play(
        stage: &mut Stage<'_>,
        victim: &'static Member,
        other: &'static Member,
    ) -> Result<Self, Failure> {
        stage.say(&format!("{} answers 500 from now on", victim.name))?;
        let told = stage.now();
        stage.mesh.inflict(stage.stack, victim, Fault::Failing).await?;
        let mut shown = None;
        let ejected = stage
            .until("outrigger status showed no ejection", async |stage: &Stage<'_>| {
                shown =
                    health(stage, victim).await?.filter(|health| matches!(health, Health::Ejected { .. }));
                Ok(shown.as_ref().map(|_| ()))
            })
            .await?;
        stage.say("both are well again")?;
        let well = stage.now();
        stage.mesh.inflict(stage.stack, victim, Fault::Nothing).await?;
        stage.mesh.inflict(stage.stack, other, Fault::Nothing).await?;
        let back = stage.serves(victim, BACK).await?;
        Ok(Self { victim, told, ejected, shown, well, back })
    }

    /// The answers of the failing one to what was under way from `told` on, in their order.
    fn answers<'a>(&self, books: &'a Books) -> Vec<&'a Sent> {
        let name = self.victim.name;
        let mut answers: Vec<&Sent> = books
            .sent()
            .iter()
            .filter(|sent| sent.ended >= self.told && books.instances(sent.id).any(|logged| logged == name))
            .collect();
        answers.sort_by_key(|sent| sent.ended);
        answers
    }

    /// Its failures, and when the one that ejects was seen.
    fn failures<'a>(&self, books: &'a Books) -> (Vec<&'a Sent>, Option<Duration>) {
        let answers = self.answers(books);
        let mut row = 0;
        let mut last = None;
        for answer in &answers {
            row = if answer.outcome.is_err() { row + 1 } else { 0 };
            if row == IN_A_ROW {
                last = last.or(Some(answer.ended));
            }
        }
        (answers.into_iter().filter(|sent| sent.outcome.is_err()).collect(), last)
    }
}

/// How `cart`, its only caller, sees an endpoint.
async fn health(stage: &Stage<'_>, victim: &Member) -> Result<Option<Health>, Failure> {
    let service = format!("{NAMESPACE}/{SERVICE}");
    let response = stage.mesh.control_plane.endpoints(&service).await?;
    let workload = format!("{NAMESPACE}/{}", victim.name);
    let endpoints = Endpoints::new(service, response).endpoints;
    Ok(endpoints.into_iter().find(|endpoint| endpoint.workload == workload).map(|endpoint| endpoint.health))
}

impl Act for Failing {
    fn excused(&self, books: &Books) -> Vec<u64> {
        let (failures, _) = self.failures(books);
        failures.iter().map(|sent| sent.id).collect()
    }

    fn judge(&self, books: &Books) -> Vec<Judged> {
        let name = self.victim.name;
        let back = self.back.clone().map(|back| {
            format!("it served again {} after it was well", seconds(back.saturating_sub(self.well)))
        });
        vec![
            ("failing: its client saw no failure after the ejection".to_owned(), self.counted(books)),
            (format!("failing: outrigger status {NAMESPACE}/{SERVICE} shows it ejected"), self.status()),
            (format!("failing: {name} came back"), back),
        ]
    }
}

impl Failing {
    fn counted(&self, books: &Books) -> Result<String, String> {
        let (failures, ejecting) = self.failures(books);
        let number = failures.len();
        let Some(ejecting) = ejecting else {
            return Err(format!("{number} failures, but never {IN_A_ROW} in a row"));
        };
        match failures.iter().filter(|sent| sent.left > ejecting).count() {
            0 => {
                let under_way = failures.iter().filter(|sent| sent.ended > ejecting).count();
                Ok(format!("{} in all, and {under_way} under way by then", number - under_way))
            }
            late => Err(format!("{number} failures, {late} of them sent after {IN_A_ROW} in a row")),
        }
    }

    fn status(&self) -> Result<String, String> {
        let at = self.ejected.clone()?;
        match &self.shown {
            Some(Health::Ejected { .. }) => Ok(format!("after {}", seconds(at.saturating_sub(self.told)))),
            _ => Err("it was not ejected".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Duration, Failing};
    use crate::demo::{
        books::tests::{books, sent, served},
        mesh::PRICE_V1_A,
    };

    fn counted(outcomes: &[(u64, bool)]) -> Result<String, String> {
        let act = Failing {
            victim: &PRICE_V1_A,
            told: Duration::from_secs(1),
            ejected: Ok(Duration::from_secs(20)),
            shown: None,
            well: Duration::from_secs(30),
            back: Ok(Duration::from_secs(40)),
        };
        let requests: Vec<_> = outcomes
            .iter()
            .map(|(id, good)| sent(*id, if *good { Ok("price-v1-a") } else { Err("500") }))
            .collect();
        let log: Vec<_> = outcomes.iter().map(|(id, _)| served(*id, "price-v1-a")).collect();
        act.counted(&books(&requests, &log))
    }

    #[test]
    fn seven_failures_in_a_row_eject_and_no_later_request_may_fail() {
        let failing = |ids: std::ops::Range<u64>| ids.map(|id| (id, false)).collect::<Vec<_>>();
        assert_eq!(counted(&failing(1..8)).as_deref(), Ok("7 in all, and 0 under way by then"));
        // A good answer begins the row anew.
        let mut anew = failing(1..4);
        anew.push((4, true));
        anew.extend(failing(5..12));
        assert_eq!(counted(&anew).as_deref(), Ok("10 in all, and 0 under way by then"));
        assert!(counted(&failing(1..7)).is_err(), "six");
        assert!(counted(&failing(1..9)).is_err(), "the eighth left later");
    }
}
