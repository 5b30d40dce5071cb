//! The file, and who is on the board because of it.

use std::{fs, os::unix::fs::PermissionsExt as _, time::SystemTime};

use tempfile::TempDir;

use super::*;
use crate::status::REMEMBERED;

fn domain() -> TrustDomain {
    "outrigger.local".parse().unwrap()
}

fn identity(account: &str) -> SpiffeId {
    format!("spiffe://outrigger.local/ns/demo/sa/{account}").parse().unwrap()
}

fn id(account: &str) -> String {
    format!("{}#{account}-1", identity(account))
}

fn ids(accounts: &[&str]) -> Vec<Arc<str>> {
    accounts.iter().map(|account| id(account).into()).collect()
}

/// A place for the file, and what starts on it.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join(FILE)
    }

    /// Who is in the file.
    fn read(&self) -> Vec<String> {
        read(&self.path(), &domain()).unwrap().into_iter().map(|(id, _)| id.to_string()).collect()
    }

    /// As a process that starts; returns how it is stopped, too.
    async fn start(&self) -> (Arc<Board>, CancellationToken) {
        let (board, stop) = (Arc::new(Board::default()), CancellationToken::new());
        let keeper = Keeper {
            path: self.path(),
            trust_domain: domain(),
            board: Arc::clone(&board),
            clock: Clock::system(),
            stop: stop.clone(),
        };
        keeper.start().await;
        (board, stop)
    }
}

fn connect(board: &Board, account: &str) {
    drop(board.connect(account, &id(account), &identity(account), "0.1.0", SystemTime::UNIX_EPOCH));
}

fn end(board: &Board, account: &str, good_bye: bool) {
    board.disconnect(account, good_bye, (Instant::now(), SystemTime::UNIX_EPOCH));
}

/// The ids on the board, and whether they are connected.
fn seen(board: &Board) -> Vec<(String, bool)> {
    let nodes = board.nodes(Instant::now());
    nodes.iter().map(|node| (node.id.to_string(), node.connected())).collect()
}

#[test]
fn the_file_comes_back_as_it_was_and_is_for_our_eyes_only() {
    let place = Place::new();
    assert!(place.read().is_empty(), "no file is nobody");
    write(&place.path(), &ids(&["front", "price"])).unwrap();
    assert_eq!(place.read(), [id("front"), id("price")]);
    let kept = read(&place.path(), &domain()).unwrap();
    assert_eq!(kept[0].1, identity("front"));
    assert_eq!(fs::metadata(place.path()).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_file_with_the_longest_ids_and_as_many_as_there_may_be_is_read() {
    let place = Place::new();
    let name = "n".repeat(63);
    let labels = [name.as_str(); 4].join(".");
    let (domain, rest) = (&labels[..255], format!("/ns/{name}/sa/{name}#"));
    let id = |number: usize| Arc::from(format!("spiffe://{domain}{rest}{}{number:05}", &name[..58]));
    let ids: Vec<Arc<str>> = (0..MAX_KNOWN).map(id).collect();
    write(&place.path(), &ids).unwrap();
    assert_eq!(read(&place.path(), &domain.parse().unwrap()).unwrap().len(), MAX_KNOWN);

    let more = [ids, vec![id(MAX_KNOWN)]].concat();
    write(&place.path(), &more).unwrap();
    let refused = read(&place.path(), &domain.parse().unwrap()).unwrap_err();
    assert!(matches!(refused, Unusable::Malformed(_)), "{refused}");
}

#[test]
fn what_is_damaged_of_another_mesh_or_of_another_version_is_not_used() {
    let place = Place::new();
    let path = place.path();
    let refused = || read(&path, &domain()).unwrap_err();
    write(&path, &ids(&["front"])).unwrap();
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        fs::write(&path, changed).unwrap();
        assert!(matches!(refused(), Unusable::File(_)), "{at}");
        fs::write(&path, &whole[..at]).unwrap();
        assert!(matches!(refused(), Unusable::File(_)), "{at}");
    }
    let document = Document { ids: vec![id("front")] };
    let newer = Format { schema: FORMAT.schema + 1, ..FORMAT };
    write_checked(&path, newer, &document.encode_to_vec(), 0o600).unwrap();
    assert!(matches!(refused(), Unusable::File(ReadError::Schema(2))));
    write_checked(&path, FORMAT, b"\xff\xff", 0o600).unwrap();
    assert!(matches!(refused(), Unusable::Malformed(_)));
    for wrong in [
        "front",
        "spiffe://outrigger.local/ns/demo/sa/front",
        "front#front-1",
        &format!("{}#", identity("front")),
    ] {
        write(&path, &[Arc::from(wrong)]).unwrap();
        assert!(matches!(refused(), Unusable::Malformed(_)), "{wrong}");
    }
    write(&path, &[Arc::from("spiffe://elsewhere/ns/demo/sa/front#front-1")]).unwrap();
    assert!(matches!(refused(), Unusable::Foreign(domain) if domain == "elsewhere"));
}

#[tokio::test(start_paused = true)]
async fn who_was_connected_counts_for_a_minute_after_a_start_or_until_it_is_back() {
    let place = Place::new();
    let (board, _stop) = place.start().await;
    connect(&board, "front");
    connect(&board, "price");
    sleep(GATHER * 2).await;
    assert_eq!(place.read(), [id("front"), id("price")]);

    let (board, _stop) = place.start().await;
    assert_eq!(seen(&board), [(id("front"), false), (id("price"), false)]);
    assert!(board.nodes(Instant::now()).iter().all(|node| node.recalled() && !node.current(0)));
    assert!(
        board.absences().named.is_empty(),
        "the rotation reckons with those of an earlier process by itself"
    );
    connect(&board, "price");
    assert_eq!(seen(&board), [(id("front"), false), (id("price"), true)]);
    assert!(!board.nodes(Instant::now())[1].recalled());

    let mut changed = board.watch();
    changed.borrow_and_update();
    sleep(REMEMBERED - GATHER).await;
    assert_eq!(seen(&board).len(), 2);
    assert_eq!(place.read(), [id("front"), id("price")]);
    sleep(GATHER * 3).await;
    assert_eq!(seen(&board), [(id("price"), true)]);
    assert!(changed.has_changed().unwrap(), "who waits for the board looks again");
    assert_eq!(place.read(), [id("price")]);
}

#[tokio::test(start_paused = true)]
async fn who_said_good_bye_is_not_in_the_file_and_who_broke_off_is_for_a_minute() {
    let place = Place::new();
    let (board, _stop) = place.start().await;
    connect(&board, "front");
    connect(&board, "price");
    sleep(GATHER * 2).await;
    end(&board, "front", true);
    end(&board, "price", false);
    sleep(GATHER * 2).await;
    assert_eq!(place.read(), [id("price")]);
    sleep(REMEMBERED).await;
    assert!(place.read().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stop_leaves_the_file_as_it_is() {
    let place = Place::new();
    let (board, stop) = place.start().await;
    connect(&board, "front");
    sleep(GATHER * 2).await;
    stop.cancel();
    end(&board, "front", true);
    sleep(REMEMBERED * 2).await;
    assert_eq!(place.read(), [id("front")]);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_cannot_be_used_is_as_none_and_replaced() {
    let place = Place::new();
    fs::write(place.path(), "something else").unwrap();
    let (board, _stop) = place.start().await;
    assert!(seen(&board).is_empty());
    sleep(GATHER).await;
    assert!(place.read().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_write_that_fails_is_tried_again() {
    let place = Place::new();
    let (board, _stop) = place.start().await;
    // Nothing can be renamed over a directory.
    fs::create_dir(place.path()).unwrap();
    connect(&board, "front");
    sleep(GATHER * 2).await;
    assert!(place.path().is_dir());
    fs::remove_dir(place.path()).unwrap();
    sleep(RETRY + GATHER * 2).await;
    assert_eq!(place.read(), [id("front")]);
}

#[test]
fn of_more_than_fit_those_who_are_connected_are_kept() {
    let (board, now) = (Board::default(), (Instant::now(), SystemTime::UNIX_EPOCH));
    let earlier =
        (0..MAX_KNOWN + 7).map(|number| (Arc::from(format!("{}#a-{number}", identity("a"))), identity("a")));
    board.recall(earlier, now);
    connect(&board, "front");
    let known = board.known(now.0);
    assert_eq!(known.ids.len(), MAX_KNOWN);
    assert!(known.ids.iter().any(|known| **known == *id("front")));
    assert_eq!(known.until, Some(now.0 + REMEMBERED));
    assert_eq!(board.known(now.0 + REMEMBERED).ids, ids(&["front"]));
}
