//! The applications without a mesh between them.

use std::{path::Path, sync::Arc};

use http::{HeaderValue, Method};
use tokio::time::Instant;

use super::{App, Duration, Fault, Ipv4Addr, Log, Price, Relay, SocketAddr, TcpListener, log::line, serve};
use crate::demo::{
    books::{Books, parse_log},
    load::{Load, requests},
};

#[test]
fn a_log_line_names_the_request_and_its_verified_caller() {
    let id = HeaderValue::from_static("17");
    let caller = HeaderValue::from_static("URI=spiffe://outrigger.local/ns/demo/sa/front");
    assert_eq!(
        line(&id, &Method::POST, Some(&caller)).as_deref(),
        Some("17 POST URI=spiffe://outrigger.local/ns/demo/sa/front\n")
    );
    assert_eq!(line(&id, &Method::GET, None).as_deref(), Some("17 GET -\n"));
    assert_eq!(line(&HeaderValue::from_static("x"), &Method::GET, None), None);
}

async fn listen(app: App) -> (SocketAddr, Arc<App>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let app = Arc::new(app);
    tokio::spawn(serve(listener, Arc::clone(&app)));
    (address, app)
}

fn price(log: &Path) -> App {
    App::Price(Price::new("price-v1-a", 10, Log::open(log).expect("a log")).expect("an application"))
}

fn relay(to: SocketAddr, log: Option<&Path>) -> App {
    let log = log.map(|log| Log::open(log).expect("a log"));
    App::Relay(Relay::new(to, "price", log).expect("an application"))
}

#[tokio::test]
async fn every_request_of_the_load_is_answered_and_logged_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let [price_log, cart_log] = ["price", "cart"].map(|name| directory.path().join(name));
    // `price` takes the absolute form that the others send to their sidecars.
    let (price, _) = listen(price(&price_log)).await;
    let (cart, _) = listen(relay(price, Some(&cart_log))).await;
    let (front, _) = listen(relay(cart, None)).await;
    let length = Duration::from_millis(200);
    let load = Arc::new(Load::new(front));
    assert_eq!(load.one(None, &Method::GET).await.as_deref(), Ok("price-v1-a"));
    let sent = Arc::clone(&load).phase(Instant::now(), length).end().await.expect("it ends");
    assert_eq!(sent.len(), requests(length) as usize);
    let read = |log, name| parse_log(&std::fs::read_to_string(log).expect("a log"), name).expect("lines");
    let books = Books::new(sent, read(&price_log, "price-v1-a"), read(&cart_log, "cart"));
    assert_eq!(books.defects(&[]), Vec::<String>::new());
    assert_eq!(books.strangers("front", "cart").len(), books.sent().len(), "nobody vouched for the caller");
}

#[tokio::test]
async fn a_faulty_instance_says_so_in_its_answer_and_logs_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("price");
    let (address, app) = listen(price(&log)).await;
    let (front, _) = listen(relay(address, None)).await;
    let App::Price(price) = &*app else { panic!("it is price") };
    price.has(Fault::Failing);
    let load = Load::new(front);
    let failed = load.one(Some(7), &Method::GET).await.expect_err("told to fail");
    assert_eq!(failed, "500 Internal Server Error: told to fail");
    price.has(Fault::Nothing);
    assert_eq!(load.one(Some(8), &Method::GET).await.as_deref(), Ok("price-v1-a"));
    assert_eq!(std::fs::read_to_string(&log).expect("a log"), "7 GET -\n8 GET -\n");
}

#[tokio::test]
async fn a_dead_end_is_a_failed_request_with_its_reason() {
    let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let (front, _) = listen(relay(nobody, None)).await;
    let failed = Load::new(front).one(Some(1), &Method::POST).await.expect_err("nobody answers");
    assert!(failed.starts_with("502 Bad Gateway: cannot connect"), "{failed}");
}
