//! Requests that cross.

use crate::support::{OK, Options, Pair, header, log, raw::End};

#[tokio::test]
async fn each_form_of_a_target_reaches_the_service() {
    let pair = Pair::start().await;
    for (request, host) in [
        ("GET http://price.demo.mesh/a?b=c HTTP/1.1\r\nhost: other\r\n\r\n", "price.demo.mesh"),
        ("GET http://Price/a?b=c HTTP/1.1\r\nhost: Price\r\n\r\n", "Price"),
        (
            "GET /a?b=c HTTP/1.1\r\nhost: price.demo.svc.cluster.local:80\r\n\r\n",
            "price.demo.svc.cluster.local:80",
        ),
        ("GET /a?b=c HTTP/1.1\r\nHost: price.demo\r\n\r\n", "price.demo"),
    ] {
        let mut client = pair.client().await;
        client.send(request).await;
        let mut app = pair.app.accept().await;
        let head = app.head().await;
        assert!(head.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{head}");
        assert_eq!(header(&head, "host"), Some(host));
        app.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok").await;
        assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
        assert_eq!(client.exactly(2).await, b"ok");
    }
}

#[tokio::test]
async fn inside_a_connect_requests_are_routed_one_by_one() {
    let pair = Pair::start().await;
    let mut client = pair.client().await;
    client.send("CONNECT price.demo.mesh:80 HTTP/1.1\r\nhost: price.demo.mesh:80\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
    let mut app = None;
    for path in ["/first", "/second"] {
        // The host is the application's own matter here.
        client.send(format!("GET {path} HTTP/1.1\r\nhost: shop.example\r\n\r\n")).await;
        let app = match &mut app {
            Some(app) => app,
            None => app.insert(pair.app.accept().await),
        };
        let head = app.head().await;
        assert!(head.starts_with(&format!("GET {path} HTTP/1.1\r\n")), "{head}");
        assert_eq!(header(&head, "host"), Some("shop.example"));
        app.send(OK).await;
        assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
        assert_eq!(client.exactly(2).await, b"ok");
    }
}

#[tokio::test]
async fn bytes_that_follow_a_connect_at_once_are_not_lost() {
    let pair = Pair::start().await;
    let mut client = pair.client().await;
    client
        .send("CONNECT price:80 HTTP/1.1\r\nhost: price:80\r\n\r\nGET / HTTP/1.1\r\nhost: price\r\n\r\n")
        .await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
    let mut app = pair.app.accept().await;
    app.head().await;
    app.send(OK).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn connections_are_kept_on_all_three_legs() {
    let pair = Pair::start().await;
    let mut client = pair.client().await;
    client.send("GET / HTTP/1.1\r\nhost: price\r\n\r\n").await;
    let mut app = pair.app.accept().await;
    for _ in 0..20 {
        app.head().await;
        app.send(OK).await;
        assert!(header(&client.head().await, "connection").is_none());
        assert_eq!(client.exactly(2).await, b"ok");
        client.send("GET / HTTP/1.1\r\nhost: price\r\n\r\n").await;
    }
    assert_eq!(pair.front.metric("outrigger_upstream_connections_opened_total{direction=\"outbound\"}"), 1.0);
    assert_eq!(pair.price.metric("outrigger_connections_accepted_total{direction=\"inbound\"}"), 1.0);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let pair = Pair::start().await;
    let mut client = pair.client().await;
    client
        .send("GET /1 HTTP/1.1\r\nhost: price\r\n\r\nPOST /2 HTTP/1.1\r\nhost: price\r\ncontent-length: 3\r\n\r\nabcGET /3 HTTP/1.1\r\nhost: price\r\n\r\n")
        .await;
    let mut app = pair.app.accept().await;
    for number in 1..=3 {
        assert!(app.head().await.contains(&format!("/{number} HTTP/1.1")));
        if number == 2 {
            assert_eq!(app.exactly(3).await, b"abc");
        }
        app.send(format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{number}")).await;
    }
    for number in 1..=3 {
        client.head().await;
        assert_eq!(client.exactly(1).await, format!("{number}").as_bytes());
    }
}

#[tokio::test]
async fn the_application_learns_who_asks_and_the_client_nothing_of_the_mesh() {
    let pair = Pair::start().await;
    let mut client = pair.client().await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = format!(
        "GET /headers HTTP/1.1\r\nhost: price\r\nx-request-id: the-one\r\ntraceparent: {trace}\r\n\
         x-forwarded-client-cert: URI=forged\r\noutrigger-timing: forged\r\nproxy-connection: keep-alive\r\n\
         connection: x-private\r\nx-private: 1\r\nupgrade: websocket\r\n\r\n"
    );
    let response = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\noutrigger-timing: forged\r\noutrigger-x: 1\r\nx-kept: 1\r\n\r\n";
    let (seen, got) = pair.exchange(&mut client, &request, response).await;
    assert_eq!(header(&seen, "x-request-id"), Some("the-one"));
    assert_eq!(header(&seen, "traceparent"), Some(trace));
    let peer = "By=spiffe://outrigger.local/ns/demo/sa/price;URI=spiffe://outrigger.local/ns/demo/sa/front";
    assert_eq!(header(&seen, "x-forwarded-client-cert"), Some(peer));
    for gone in ["outrigger-timing", "proxy-connection", "x-private", "upgrade", "connection"] {
        assert_eq!(header(&seen, gone), None, "{gone}");
    }
    assert!(!got.contains("outrigger"), "{got}");
    assert_eq!(header(&got, "x-kept"), Some("1"));
    let line = log::line(&[("request_id", "the-one"), ("direction", "outbound")]).await;
    assert_eq!(line["status"], "200");
    assert_eq!(line["path"], "/headers");
    assert_eq!(line["destination"], "demo/price");
    assert_eq!(line["generation"], "1");
    assert_eq!(line["upstream.identity"], "spiffe://outrigger.local/ns/demo/sa/price");
    assert!(!line.contains_key("reason"));
    let line = log::line(&[("request_id", "the-one"), ("direction", "inbound")]).await;
    assert_eq!(line["downstream.identity"], "spiffe://outrigger.local/ns/demo/sa/front");
}

#[tokio::test]
async fn an_http_1_0_client_is_answered_in_its_version() {
    let pair = Pair::start().await;
    let mut client = pair.client().await;
    client.send("GET http://price/ HTTP/1.0\r\n\r\n").await;
    let mut app = pair.app.accept().await;
    assert!(app.head().await.starts_with("GET / HTTP/1.1\r\n"));
    app.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n").await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.0 200 OK\r\n"), "{head}");
    assert_eq!(client.rest().await, (b"ok".to_vec(), End::Clean));
}

#[tokio::test]
async fn several_workers_share_the_connections() {
    let pair = Pair::with(&Options { workers: 3, ..Options::default() }).await;
    let mut clients = Vec::new();
    for _ in 0..9 {
        let mut client = pair.client().await;
        let (_, head) = pair.exchange(&mut client, "GET / HTTP/1.1\r\nhost: price\r\n\r\n", OK).await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"));
        clients.push(client);
    }
}
