//! Who waits for how long, where no connection is to be had; the clock is moved by hand.

use tokio::task::JoinHandle;

use super::*;
use crate::http::Overheard;

const CONNECT: Duration = Duration::from_secs(1);

/// Has no room for a connection, and says nothing.
#[derive(Debug)]
struct Full;

impl Connect for Full {
    async fn connect(&self, _protocol: Protocol) -> Result<Connected, Reason> {
        std::future::pending().await
    }

    fn refused(&self, _refused: &Overheard) {}
}

/// Asks for a connection; returns in vain, with the reason and how long it took.
fn ask(pool: &Arc<Pool<Full>>) -> JoinHandle<(Reason, Duration)> {
    let pool = Arc::clone(pool);
    tokio::spawn(async move {
        let begin = Instant::now();
        let demand = Demand {
            max_idle: CONNECT,
            keep: CONNECT,
            closes_silently: true,
            connect_timeout: CONNECT,
            queue_timeout: 2 * CONNECT,
            connections: 16,
            pending: 16,
        };
        let reason = pool.acquire(&demand, begin).await.map(|_| ()).unwrap_err();
        (reason, begin.elapsed())
    })
}

#[tokio::test(start_paused = true)]
async fn each_waits_as_long_as_a_connection_takes_whoever_came_before() {
    let destination = Arc::new(DestinationState::new(Instant::now().into_std()));
    let pool = Pool::new(Arc::new(Full), destination, (&Limits::default(), 64 * 1024));
    let first = ask(&pool);
    sleep(CONNECT / 2).await;
    let second = ask(&pool);
    assert_eq!(first.await.unwrap(), (Reason::ConnectTimeout, CONNECT));
    assert_eq!(second.await.unwrap(), (Reason::ConnectTimeout, CONNECT));
}
