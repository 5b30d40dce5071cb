//! The end of a data path: nothing in flight is lost that can be finished in time.

use std::time::Duration;

use crate::support::{Pair, header, raw::End};

const GET: &str = "GET / HTTP/1.1\r\nhost: price\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn what_is_in_flight_is_finished_and_told_that_it_was_the_last() {
    let pair = Pair::start().await;
    let mut idle = pair.client().await;
    pair.exchange(&mut idle, GET, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
    let mut client = pair.client().await;
    client.send(GET).await;
    let mut app = pair.app.accept().await;
    app.head().await;
    let outbound = pair.front.path.outbound();
    let Pair { front, price: _price, .. } = pair;
    let drain = front.path.drain(Duration::from_secs(10));
    let finish = async {
        // Idle connections go at once; the listener stays for as long as somebody is served.
        assert_eq!(idle.rest().await, (Vec::new(), End::Clean));
        app.send(OK).await;
        let head = client.head().await;
        assert_eq!(header(&head, "connection"), Some("close"), "{head}");
        assert_eq!(client.rest().await, (b"ok".to_vec(), End::Clean));
    };
    let (drained, ()) = tokio::join!(drain, finish);
    assert_eq!(drained.cut, 0);
    assert!(tokio::net::TcpStream::connect(outbound).await.is_err());
}

#[tokio::test]
async fn what_is_not_finished_in_time_is_cut_and_counted() {
    let pair = Pair::start().await;
    let mut client = pair.client().await;
    client.send(GET).await;
    let mut app = pair.app.accept().await;
    app.head().await;
    let Pair { front, .. } = pair;
    assert_eq!(front.path.drain(Duration::from_millis(50)).await.cut, 1);
    assert_eq!(client.rest().await.0, b"");
}
