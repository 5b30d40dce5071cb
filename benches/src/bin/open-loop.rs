//! Requests at a fixed rate, HTTP/1.1: each is due at its time whether or not the ones before were answered, and its
//! latency counts from when it was due. So a proxy that stalls is charged for everybody who had to wait (no
//! "coordinated omission").
//!
//! Blocking threads, each with a connection: whoever is free takes the next request and sleeps until it is due.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    num::{NonZeroU32, NonZeroU64},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use clap::Parser;
use serde_json::json;

/// For everybody to be connected before the first request is due.
const LEAD: Duration = Duration::from_millis(200);
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
const HEADERS: usize = 64;

/// Sends HTTP/1.1 requests at a fixed rate, and prints latencies as JSON.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where they go.
    address: SocketAddr,
    /// What they ask for.
    #[arg(long, default_value = "/")]
    path: String,
    /// Their `Host`.
    #[arg(long)]
    host: String,
    /// How many a second.
    #[arg(long)]
    rate: NonZeroU32,
    /// For how long.
    #[arg(long)]
    seconds: NonZeroU32,
    /// Bytes that each answer's body must have.
    #[arg(long)]
    length: usize,
    /// How many may be under way at once; more have to wait, and that counts.
    #[arg(long, default_value_t = 32)]
    connections: u16,
}

/// What one thread saw.
#[derive(Debug, Default)]
struct Seen {
    took: Vec<Duration>,
    failed: u64,
    first_failure: Option<String>,
}

impl Seen {
    fn lost(why: &str) -> Self {
        Self { took: Vec::new(), failed: 1, first_failure: Some(why.to_owned()) }
    }
}

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let next = AtomicU64::new(0);
    let start = Instant::now() + LEAD;
    let seen = thread::scope(|scope| {
        let threads: Vec<_> =
            (0..arguments.connections).map(|_| scope.spawn(|| requests(&arguments, &next, start))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Seen::lost("a thread panicked")))
            .collect()
    });
    report(seen)
}

/// Takes requests until the last was taken.
fn requests(arguments: &Arguments, next: &AtomicU64, start: Instant) -> Seen {
    // A thread that wakes 50 µs late, as is the default, would add them to every latency.
    if let Err(error) = rustix::thread::set_current_timer_slack(Some(NonZeroU64::MIN)) {
        return Seen::lost(&error.to_string());
    }
    let total = u64::from(arguments.rate.get()) * u64::from(arguments.seconds.get());
    let interval = Duration::from_secs(1).as_nanos() / u128::from(arguments.rate.get());
    let head = format!("GET {} HTTP/1.1\r\nhost: {}\r\n\r\n", arguments.path, arguments.host);
    let mut seen = Seen::default();
    let mut connection = connect(arguments.address).ok();
    loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        if index >= total {
            return seen;
        }
        let offset = u64::try_from(interval * u128::from(index)).map(Duration::from_nanos);
        let due = start + offset.unwrap_or(Duration::MAX);
        sleep_until(due);
        match exchange(&mut connection, arguments, head.as_bytes()) {
            Ok(()) => seen.took.push(due.elapsed()),
            Err(error) => {
                connection = None;
                seen.failed += 1;
                seen.first_failure.get_or_insert_with(|| error.to_string());
            }
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "no worker but a thread of its own; a runtime's timer is 1 ms late"
)]
fn sleep_until(due: Instant) {
    thread::sleep(due.saturating_duration_since(Instant::now()));
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// One request; the answer must be 200 and as long as it should be.
fn exchange(connection: &mut Option<TcpStream>, arguments: &Arguments, head: &[u8]) -> io::Result<()> {
    let stream = match connection {
        Some(stream) => stream,
        None => connection.insert(connect(arguments.address)?),
    };
    stream.write_all(head)?;
    let mut received = Vec::with_capacity(4096);
    let mut chunk = [0; 16 * 1024];
    let whole = loop {
        let count = stream.read(&mut chunk)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        received.extend_from_slice(chunk.get(..count).unwrap_or_default());
        if let Some(head) = head_length(&received, arguments.length)? {
            break head + arguments.length;
        }
    };
    while received.len() < whole {
        let count = stream.read(&mut chunk)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        received.extend_from_slice(chunk.get(..count).unwrap_or_default());
    }
    if received.len() == whole { Ok(()) } else { Err(io::Error::other("more came than the answer")) }
}

/// Bytes of a whole response head, `None` when it is not there yet.
fn head_length(received: &[u8], expected: usize) -> io::Result<Option<usize>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(received).map_err(io::Error::other)? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return Ok(None),
    };
    if response.code != Some(200) {
        return Err(io::Error::other(format!("status {:?}", response.code)));
    }
    let announced = response
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"))
        .and_then(|header| std::str::from_utf8(header.value).ok())
        .and_then(|text| text.parse::<usize>().ok());
    match announced {
        Some(announced) if announced == expected => Ok(Some(length)),
        other => Err(io::Error::other(format!("content-length {other:?} instead of {expected}"))),
    }
}

fn report(seen: Vec<Seen>) -> io::Result<()> {
    let failed: u64 = seen.iter().map(|seen| seen.failed).sum();
    let first_failure = seen.iter().find_map(|seen| seen.first_failure.clone());
    let mut took: Vec<Duration> = seen.into_iter().flat_map(|seen| seen.took).collect();
    took.sort_unstable();
    let quantile = |percent: usize| {
        let index = (took.len() * percent / 100).min(took.len().saturating_sub(1));
        took.get(index).map(Duration::as_micros)
    };
    let said = json!({
        "requests": u64::try_from(took.len()).unwrap_or(u64::MAX) + failed,
        "failed": failed,
        "first_failure": first_failure,
        "p50_us": quantile(50),
        "p99_us": quantile(99),
    });
    writeln!(io::stdout(), "{said}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_200_of_the_right_length_is_an_answer() {
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel";
        assert_eq!(head_length(head, 5).unwrap(), Some(head.len() - 3));
        assert_eq!(head_length(&head[..20], 5).unwrap(), None);
        for bad in [
            "HTTP/1.1 503 No\r\nContent-Length: 5\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n",
            "nonsense\r\n\r\n",
        ] {
            assert!(head_length(bad.as_bytes(), 5).is_err(), "{bad}");
        }
    }
}
