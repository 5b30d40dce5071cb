//! Every way in which a request can end, and where its time is charged.

use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);

/// A request without retries over a pooled connection, in milliseconds since its head was read.
fn stamps(handed_on: u32, uploaded: u32, response_head: u32, end: u32) -> Stamps {
    let start = Instant::now();
    let at = |millis: u32| Some(start + MS * millis);
    Stamps {
        first_attempt: at(handed_on),
        attempt: at(handed_on),
        handed_on: at(handed_on),
        uploaded: at(uploaded),
        response_head: at(response_head),
        head_sent: at(response_head),
        end: start + MS * end,
        ..Stamps::new(start)
    }
}

fn figures(total: u32, upload: u32, app: u32) -> Figures {
    Figures { total: MS * total, upload: MS * upload, app: MS * app, waiting: None }
}

fn phases(times: &[(Phase, u32)]) -> PhaseTimes {
    times.iter().map(|(phase, millis)| (*phase, MS * *millis)).collect()
}

#[test]
fn a_plain_request_is_explained_whole() {
    let split = split(&stamps(1, 1, 31, 36), Some(&figures(22, 0, 20)));
    let expected = phases(&[
        (Phase::ClientProxy, 1),
        (Phase::Network, 8),
        (Phase::ServerProxy, 2),
        (Phase::App, 20),
        (Phase::Stream, 5),
    ]);
    assert_eq!(split.phases, expected);
    assert_eq!(split.unexplained(), Duration::ZERO);
    assert!(!split.clamped);
}

#[test]
fn an_upload_seen_by_both_sides_is_charged_once() {
    // The network takes 8 ms; the client sends its body over 100 ms, and the inbound sees just that.
    let split = split(&stamps(0, 100, 130, 130), Some(&figures(122, 100, 20)));
    let expected =
        phases(&[(Phase::Upload, 100), (Phase::Network, 8), (Phase::ServerProxy, 2), (Phase::App, 20)]);
    assert_eq!(split.phases, expected);
}

#[test]
fn an_upload_that_only_the_application_slows_is_upload() {
    // Everything fits into buffers at once, and the application reads it over 100 ms.
    let split = split(&stamps(0, 0, 130, 130), Some(&figures(122, 100, 20)));
    assert_eq!(split.phases.get(Phase::Upload), MS * 100);
    assert_eq!(split.phases.get(Phase::Network), MS * 8);
}

#[test]
fn an_upload_before_the_inbound_saw_the_head_is_not_the_networks() {
    // The head waited for its body: the outbound uploads for 100 ms, the inbound for none.
    let split = split(&stamps(0, 100, 130, 130), Some(&figures(22, 0, 20)));
    assert_eq!(split.phases.get(Phase::Upload), MS * 100);
    assert_eq!(split.phases.get(Phase::Network), MS * 8);
}

#[test]
fn an_upload_beside_the_inbounds_work_is_not_charged_twice() {
    // The inbound connects to its application for 30 ms while the client uploads for 100 ms.
    let split = split(&stamps(0, 100, 120, 120), Some(&figures(120, 70, 20)));
    let expected = phases(&[(Phase::Upload, 70), (Phase::ServerProxy, 30), (Phase::App, 20)]);
    assert_eq!(split.phases, expected);
    assert_eq!(split.unexplained(), Duration::ZERO);
}

#[test]
fn without_figures_the_wait_is_the_upstreams_never_the_networks() {
    let split = split(&stamps(1, 11, 31, 36), None);
    let expected =
        phases(&[(Phase::ClientProxy, 1), (Phase::Upload, 10), (Phase::Upstream, 20), (Phase::Stream, 5)]);
    assert_eq!(split.phases, expected);
}

#[test]
fn without_a_response_head_the_wait_goes_on_to_the_end_whatever_figures_say() {
    let mut stamps = stamps(1, 1, 31, 50);
    stamps.response_head = None;
    stamps.head_sent = None;
    let split = split(&stamps, Some(&figures(22, 0, 20)));
    assert_eq!(split.phases, phases(&[(Phase::ClientProxy, 1), (Phase::Upstream, 49)]));
}

#[test]
fn figures_larger_than_the_wait_are_clamped_and_counted() {
    let split = split(&stamps(0, 0, 10, 10), Some(&figures(50, 0, 40)));
    assert!(split.clamped);
    assert_eq!(split.phases, phases(&[(Phase::App, 10)]));
}

#[test]
fn waiting_is_a_part_of_what_is_charged_to_the_application() {
    let waited = |millis: u32| Figures { waiting: Some(MS * millis), ..figures(22, 0, 20) };
    assert_eq!(split(&stamps(1, 1, 31, 36), Some(&waited(15))).waiting, Some(MS * 15));
    assert_eq!(split(&stamps(1, 1, 31, 36), Some(&waited(0))).waiting, Some(Duration::ZERO));
    assert_eq!(split(&stamps(1, 1, 31, 36), Some(&figures(22, 0, 20))).waiting, None);
    // The wait was shorter than the figures say: both are cut.
    assert_eq!(split(&stamps(0, 0, 10, 10), Some(&waited(15))).waiting, Some(MS * 10));
    assert_eq!(split(&stamps(1, 1, 31, 36), None).waiting, None);
}

#[test]
fn an_early_response_ends_the_upload() {
    // The body is still on its way when the response's head arrives.
    let split = split(&stamps(0, 500, 30, 600), None);
    assert_eq!(split.phases.get(Phase::Upload), MS * 30);
    assert_eq!(split.phases.get(Phase::Upstream), Duration::ZERO);
    assert_eq!(split.phases.get(Phase::Stream), MS * 570);
}

#[test]
fn an_answer_of_our_own_is_the_client_proxys_time() {
    let start = Instant::now();
    let stamps = Stamps { end: start + MS * 3, ..Stamps::new(start) };
    assert_eq!(split(&stamps, None).phases, phases(&[(Phase::ClientProxy, 3)]));
}

#[test]
fn the_delivery_of_an_answer_of_our_own_is_the_streams_whatever_it_answers() {
    let mut late = stamps(1, 1, 0, 36);
    late.response_head = None;
    late.head_sent = Some(late.head_read + MS * 31);
    let expected = phases(&[(Phase::ClientProxy, 1), (Phase::Upstream, 30), (Phase::Stream, 5)]);
    assert_eq!(split(&late, None).phases, expected);
    let mut refused = Stamps::new(late.head_read);
    (refused.head_sent, refused.end) = (late.head_sent, late.end);
    let expected = phases(&[(Phase::ClientProxy, 31), (Phase::Stream, 5)]);
    assert_eq!(split(&refused, None).phases, expected);
}

#[test]
fn queue_connect_and_retry_are_stamped_by_themselves_and_the_rest_stays_unexplained() {
    let mut stamps = stamps(0, 60, 80, 80);
    let start = stamps.head_read;
    stamps.first_attempt = Some(start + MS);
    stamps.attempt = Some(start + MS * 31);
    stamps.queued = MS * 5;
    stamps.connecting = MS * 20;
    stamps.handed_on = Some(start + MS * 60);
    let split = split(&stamps, Some(&figures(12, 0, 10)));
    let expected = phases(&[
        (Phase::ClientProxy, 1),
        (Phase::Retry, 30),
        (Phase::Queue, 5),
        (Phase::Connect, 20),
        (Phase::Network, 8),
        (Phase::ServerProxy, 2),
        (Phase::App, 10),
    ]);
    assert_eq!(split.phases, expected);
    assert_eq!(split.unexplained(), MS * 4);
}

#[test]
fn the_handling_of_the_response_head_is_the_client_proxys() {
    let mut stamps = stamps(0, 0, 10, 20);
    stamps.head_sent = Some(stamps.head_read + MS * 13);
    let split = split(&stamps, Some(&figures(10, 0, 10)));
    assert_eq!(split.phases, phases(&[(Phase::ClientProxy, 3), (Phase::App, 10), (Phase::Stream, 7)]));
}

#[test]
fn attempts_after_the_one_that_is_delivered_are_charged_to_the_retry() {
    let mut stamps = stamps(1, 1, 31, 100);
    stamps.settled = Some(stamps.head_read + MS * 90);
    stamps.head_sent = Some(stamps.head_read + MS * 92);
    let split = split(&stamps, Some(&figures(22, 0, 20)));
    let expected = phases(&[
        (Phase::ClientProxy, 1 + 2),
        (Phase::Retry, 59),
        (Phase::Network, 8),
        (Phase::ServerProxy, 2),
        (Phase::App, 20),
        (Phase::Stream, 8),
    ]);
    assert_eq!(split.phases, expected);
    assert!(!split.clamped);
}

/// How long each step of a request takes, milliseconds, in the order of the steps.
#[derive(Debug, Clone)]
struct Steps {
    routing: u32,
    retrying: u32,
    queued: u32,
    connecting: u32,
    /// Of the attempt's own, which no phase accounts for.
    between: u32,
    /// Until the response's head, or until it was given up.
    wait: u32,
    /// It was not.
    answered: bool,
    /// Until the last request byte; longer than `wait`: the answer was early.
    upload: u32,
    /// More attempts; `None`: there were none.
    settling: Option<u32>,
    delivering: u32,
    streaming: u32,
}

impl Steps {
    /// The stamps of a request that came as far as the step `reached`: 0 to 6.
    fn stamps(&self, reached: u32) -> Stamps {
        let mut stamps = Stamps::new(Instant::now());
        let mut now = stamps.head_read;
        let mut pass = |millis: u32| {
            now += MS * millis;
            Some(now)
        };
        if reached >= 1 {
            stamps.first_attempt = pass(self.routing);
            stamps.attempt = pass(self.retrying);
        }
        if reached >= 2 {
            (stamps.queued, stamps.connecting) = (MS * self.queued, MS * self.connecting);
            pass(self.queued + self.connecting);
        }
        if reached >= 3 {
            stamps.handed_on = pass(self.between);
            stamps.uploaded = stamps.handed_on.map(|handed_on| handed_on + MS * self.upload);
        }
        if reached >= 4 {
            stamps.response_head = pass(self.wait).filter(|_| self.answered);
        }
        if reached >= 5 && self.answered {
            stamps.settled = self.settling.and_then(&mut pass);
            stamps.head_sent = pass(self.delivering);
        } else if reached >= 5 {
            stamps.head_sent = pass(0);
        }
        if reached >= 6 {
            pass(self.streaming);
        }
        stamps.end = now;
        stamps
    }
}

prop_compose! {
    fn steps()(
        before in proptest::array::uniform5(0..1000_u32),
        [wait, upload] in proptest::array::uniform2(0..1000_u32),
        answered: bool,
        settling in proptest::option::of(0..1000_u32),
        [delivering, streaming] in proptest::array::uniform2(0..1000_u32),
    ) -> Steps {
        let [routing, retrying, queued, connecting, between] = before;
        Steps { routing, retrying, queued, connecting, between, wait, answered, upload, settling, delivering, streaming }
    }
}

prop_compose! {
    /// Whatever a peer may say.
    fn any_figures()(parts in proptest::array::uniform3(0..2000_u32)) -> Figures {
        let [total, upload, app] = parts;
        Figures { waiting: Some(MS * app), ..figures(total, upload, app) }
    }
}

proptest! {
    #[test]
    fn phases_never_exceed_the_total(
        moments in proptest::array::uniform8(proptest::option::of(0..1000_u32)),
        spans in proptest::array::uniform2(0..1000_u32),
        inbound in proptest::option::of(any_figures()),
    ) {
        let start = Instant::now();
        let at = |index: usize| moments[index].map(|millis| start + MS * millis);
        let stamps = Stamps {
            head_read: start,
            first_attempt: at(0),
            attempt: at(1),
            queued: MS * spans[0],
            connecting: MS * spans[1],
            handed_on: at(2),
            uploaded: at(3),
            response_head: at(4),
            settled: at(5),
            head_sent: at(6),
            end: at(7).unwrap_or(start),
        };
        let split = split(&stamps, inbound.as_ref());
        prop_assert!(split.waiting.is_none_or(|waiting| waiting <= split.phases.get(Phase::App)));
        prop_assert!(split.phases.sum() <= split.total);
        prop_assert_eq!(split.phases.sum() + split.unexplained(), split.total);
    }

    #[test]
    fn each_moment_is_charged_once_whatever_the_figures_say(
        steps in steps(),
        reached in 0..=6_u32,
        inbound in proptest::option::of(any_figures()),
    ) {
        let split = split(&steps.stamps(reached), inbound.as_ref());
        let at = |step: u32, millis: u32| if reached >= step { MS * millis } else { Duration::ZERO };
        let phase = |phase: Phase| split.phases.get(phase);
        prop_assert_eq!(split.unexplained(), at(3, steps.between));
        let theirs = |millis: u32| if steps.answered { at(5, millis) } else { Duration::ZERO };
        prop_assert_eq!(phase(Phase::ClientProxy), at(1, steps.routing) + theirs(steps.delivering));
        prop_assert_eq!(phase(Phase::Retry), at(1, steps.retrying) + theirs(steps.settling.unwrap_or(0)));
        prop_assert_eq!(phase(Phase::Queue), at(2, steps.queued));
        prop_assert_eq!(phase(Phase::Connect), at(2, steps.connecting));
        prop_assert_eq!(phase(Phase::Stream), at(6, steps.streaming));
        let told = phase(Phase::Network) + phase(Phase::ServerProxy) + phase(Phase::App);
        prop_assert_eq!(phase(Phase::Upload) + told + phase(Phase::Upstream), at(4, steps.wait));
        if inbound.is_some() && reached >= 4 && steps.answered {
            prop_assert_eq!(phase(Phase::Upstream), Duration::ZERO);
        } else {
            prop_assert_eq!(told, Duration::ZERO);
            prop_assert_eq!(phase(Phase::Upload), at(4, steps.upload.min(steps.wait)));
        }
    }
}
