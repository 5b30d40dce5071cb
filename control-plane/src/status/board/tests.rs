//! Who counts as current, and who is named.

use super::*;

fn identity(account: &str) -> SpiffeId {
    format!("spiffe://outrigger.local/ns/demo/sa/{account}").parse().unwrap()
}

fn connect(board: &Board, stream: &str, account: &str, instance: &str) -> watch::Receiver<Reported> {
    let identity = identity(account);
    board.connect(stream, &format!("{identity}#{instance}"), &identity, "0.1.0", SystemTime::UNIX_EPOCH)
}

fn applied(stream: &str, revision: u64) -> (Progress, AppliedReport) {
    let progress = Progress { applied: revision, target: revision, rejections: Vec::new() };
    (progress, AppliedReport { stream: stream.to_owned(), ..AppliedReport::default() })
}

#[test]
fn a_proxy_that_comes_back_is_current_only_once_it_said_what_it_holds() {
    let board = Board::default();
    let now = Instant::now();
    let current = || board.nodes(now)[0].current(7);
    let (progress, report) = applied("one", 7);
    let _reports = connect(&board, "one", "front", "front-1");
    board.progress("one", progress.clone());
    board.report(&identity("front"), report);
    assert!(current());

    // It answered on its next stream: it has the newest versions, but perhaps not in its snapshot.
    let _reports = connect(&board, "two", "front", "front-1");
    board.progress("two", progress);
    assert!(!current(), "its pending names are not known yet");
    let (_, mut report) = applied("two", 7);
    report.pending = vec![PendingName { name: "demo/price".to_owned(), ..PendingName::default() }];
    board.report(&identity("front"), report.clone());
    assert!(!current());
    report.pending.clear();
    board.report(&identity("front"), report);
    assert!(current());
}

#[test]
fn a_proxy_on_its_last_known_good_is_named_until_it_says_otherwise() {
    let board = Board::default();
    let (progress, mut report) = applied("one", 7);
    let _reports = connect(&board, "one", "front", "front-1");
    board.progress("one", progress);
    report.last_known_good = Some(LastKnownGood { revision: 6, written: None });
    board.report(&identity("front"), report.clone());
    let node = board.nodes(Instant::now()).remove(0);
    assert!(!node.current(7));
    assert_eq!(node.to_wire().last_known_good.map(|kept| kept.revision), Some(6));
    report.last_known_good = None;
    board.report(&identity("front"), report);
    assert!(board.nodes(Instant::now())[0].current(7));
}

#[test]
fn the_end_of_an_older_stream_is_not_that_of_its_proxy() {
    let board = Board::default();
    let now = Instant::now();
    let _reports = connect(&board, "one", "front", "front-1");
    let _reports = connect(&board, "two", "front", "front-1");
    board.disconnect("one", false, (now, SystemTime::UNIX_EPOCH));
    assert!(board.nodes(now)[0].connected());
    board.disconnect("two", false, (now, SystemTime::UNIX_EPOCH));
    assert!(!board.nodes(now)[0].connected());
    assert!(board.nodes(now + REMEMBERED).is_empty());
}

#[test]
fn a_proxy_that_broke_off_is_absent_until_it_comes_back_and_one_that_said_good_bye_is_not() {
    let (board, now) = (Board::default(), Instant::now());
    let since = SystemTime::UNIX_EPOCH + Duration::from_secs(7);
    let _reports = connect(&board, "one", "front", "front-1");
    let report = AppliedReport { stream: "one".to_owned(), bundle_sequence: 3, ..AppliedReport::default() };
    board.report(&identity("front"), report);
    assert!(board.absences().named.is_empty());
    board.disconnect("one", false, (now, since));
    assert!(board.nodes(now + REMEMBERED).is_empty());
    let absent: Vec<_> = board.absences().named.into_values().collect();
    assert_eq!(absent, [Absence { since, bundle_sequence: 3 }]);
    let _reports = connect(&board, "two", "front", "front-1");
    assert!(board.absences().named.is_empty());
    board.disconnect("two", true, (now, since));
    assert!(board.absences().named.is_empty());
}

#[test]
fn of_two_with_one_id_the_one_that_stays_is_connected() {
    let end = (Instant::now(), SystemTime::UNIX_EPOCH);
    for good_bye in [true, false] {
        let board = Board::default();
        let older = connect(&board, "one", "front", "front-1");
        let _reports = connect(&board, "two", "front", "front-1");
        // What the older one says meanwhile is not lost.
        let (progress, report) = applied("one", 7);
        board.progress("one", progress);
        board.report(&identity("front"), AppliedReport { generation: 3, ..report });
        assert_eq!(older.borrow().generation, 3);
        assert!(!board.nodes(end.0)[0].current(7), "the newer stream counts");

        board.disconnect("two", good_bye, end);
        let nodes = board.nodes(end.0);
        assert_eq!(nodes.len(), 1);
        assert!(nodes[0].connected() && nodes[0].current(7), "{nodes:?}");
        board.disconnect("one", true, end);
        assert!(board.nodes(end.0).is_empty());
    }
}

#[test]
fn nobody_fills_the_board_with_proxies_that_were_lost() {
    let board = Board::default();
    let now = Instant::now();
    let lose = |account: &str, number: u32| {
        let stream = format!("{account}-{number}");
        drop(connect(&board, &stream, account, &stream));
        board.disconnect(
            &stream,
            false,
            (now + Duration::from_millis(number.into()), SystemTime::UNIX_EPOCH),
        );
    };
    lose("till", 0);
    for number in 0..1000 {
        lose("front", number);
    }
    let nodes = board.nodes(now);
    assert_eq!(nodes.len(), MAX_LOST_PER_IDENTITY + 1);
    assert!(nodes.iter().any(|node| node.identity == identity("till")), "one fills only its own share");
    assert!(nodes.iter().any(|node| node.id.ends_with("#front-999")), "the newest are kept");
}

#[test]
fn those_of_an_earlier_process_are_not_forgotten_when_others_break() {
    let board = Board::default();
    let now = Instant::now();
    let earlier = (0..1000).map(|number| (format!("front#{number}").into(), identity("front")));
    board.recall(earlier, (now, SystemTime::UNIX_EPOCH));
    for number in 0..1000 {
        let stream = format!("new-{number}");
        drop(connect(&board, &stream, "front", &stream));
        let broke = now + Duration::from_millis(number);
        board.disconnect(&stream, false, (broke, SystemTime::UNIX_EPOCH));
    }
    let nodes = board.nodes(now);
    assert_eq!(nodes.iter().filter(|node| node.recalled()).count(), 1000);
    assert_eq!(nodes.len(), 1000 + MAX_LOST_PER_IDENTITY);
}

#[test]
fn of_a_report_no_more_is_kept_than_a_proxy_would_write() {
    let board = Board::default();
    let reports = connect(&board, "one", "front", "front-1");
    let long = "é".repeat(1 << 20);
    let nonce = |text: &str| AppliedNonce { type_url: text.to_owned(), nonce: text.to_owned() };
    let pending = PendingName { type_url: long.clone(), name: long.clone(), cause: long.clone() };
    let report = AppliedReport {
        stream: "one".to_owned(),
        applied: [vec![nonce(&long)], vec![nonce("short"); 1000]].concat(),
        pending: vec![pending; 3],
        ..AppliedReport::default()
    };
    board.report(&identity("front"), report);
    let node = board.nodes(Instant::now()).remove(0);
    assert_eq!(reports.borrow().applied, vec![nonce("short"); MAX_TYPES]);
    assert_eq!(node.pending.len(), 3);
    assert_eq!(node.pending[0].cause.chars().count(), MAX_TEXT);
}
