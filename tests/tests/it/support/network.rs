//! Two machines: network namespaces of their own, joined by a cable.

use std::{
    fs::File,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd as _,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::process::system_program;

/// Two machines and the cable between them; gone when dropped.
#[derive(Debug)]
pub(crate) struct Machines {
    here: String,
    there: String,
}

/// Runs `ip` with these words.
fn ip(words: &str) {
    let output = Command::new(system_program("ip", "iproute2")).args(words.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Machines {
    /// Where the test is.
    pub(crate) const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    /// The other one.
    pub(crate) const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

    /// Makes them; their addresses are theirs alone, so that runs do not meet.
    pub(crate) fn new() -> Self {
        assert!(
            rustix::process::getuid().is_root(),
            "two machines are two network namespaces, which only root may make: run this test as root"
        );
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let number = format!("{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let machines = Self { here: format!("or-here-{number}"), there: format!("or-there-{number}") };
        let (here, there) = (&machines.here, &machines.there);
        ip(&format!("netns add {here}"));
        ip(&format!("netns add {there}"));
        ip(&format!("-n {here} link add cable type veth peer name cable netns {there}"));
        for (machine, address) in [(here, Self::HERE), (there, Self::THERE)] {
            ip(&format!("-n {machine} link set lo up"));
            ip(&format!("-n {machine} addr add {address}/24 dev cable"));
            ip(&format!("-n {machine} link set cable up"));
        }
        machines
    }

    /// Runs `work` at the one where the test is, in a thread of its own.
    pub(crate) fn run(&self, work: impl FnOnce() + Send) {
        on(&self.here, work);
    }

    /// A listener on loopback of the other one.
    pub(crate) fn listener_there(&self) -> TcpListener {
        on(&self.there, || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap())
    }

    /// A connection to loopback of the other one.
    pub(crate) fn connection_there(&self, address: SocketAddr) -> TcpStream {
        on(&self.there, || TcpStream::connect(address).unwrap())
    }

    /// A program of this workspace, to be started at the other one.
    pub(crate) fn program_there(&self, name: &str) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(system_program("ip", "iproute2"));
        command.args(["netns", "exec", &self.there]).arg(super::program(name));
        command
    }

    /// The other one is gone: nothing that is sent to it arrives, and nothing says so.
    pub(crate) fn vanish(&self) {
        ip(&format!("-n {} link set cable down", self.there));
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        for machine in [&self.here, &self.there] {
            let ip = system_program("ip", "iproute2");
            let _gone = Command::new(ip).args(["netns", "delete", machine]).output();
        }
    }
}

/// Runs `work` in a thread that is in a namespace: so are its sockets and the programs that it starts.
fn on<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    let file = File::open(format!("/run/netns/{namespace}")).unwrap();
    let done = thread::scope(|scope| {
        let worker = scope.spawn(move || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        });
        worker.join()
    });
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
