//! A workload of the demo's mesh: an application, and the sidecar beside it.

use std::{
    ffi::OsString,
    io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{Binaries, ready};
use crate::{
    command::token,
    demo::process::{Process, Stack, Start},
    failure::Failure,
};

/// One in so many answers of v2 is slow: more than one in a hundred of all, in a split of 50/50.
const SLOW_EVERY: &str = "25";

/// A workload, by name.
#[derive(Debug)]
pub(crate) struct Member {
    /// Of the application, which is also the name of the instance.
    pub(crate) name: &'static str,
    /// Of the sidecar.
    pub(crate) sidecar: &'static str,
    /// Its service account.
    pub(super) account: &'static str,
    application: Application,
}

#[derive(Debug)]
enum Application {
    /// Hands requests on to this service; logs them if the second says so.
    Relay(&'static str, bool),
    /// `price`, of this version.
    Price(&'static str),
}

/// What the load calls.
pub(crate) const FRONT: Member = Member {
    name: "front",
    sidecar: "front-sidecar",
    account: "front",
    application: Application::Relay("cart", false),
};
/// What `front` calls.
pub(crate) const CART: Member = Member {
    name: "cart",
    sidecar: "cart-sidecar",
    account: "cart",
    application: Application::Relay("price", true),
};
/// What `cart` calls: the first instance of v1.
pub(crate) const PRICE_V1_A: Member = Member {
    name: "price-v1-a",
    sidecar: "price-v1-a-sidecar",
    account: "price",
    application: Application::Price("v1"),
};
/// The second one.
pub(crate) const PRICE_V1_B: Member = Member {
    name: "price-v1-b",
    sidecar: "price-v1-b-sidecar",
    account: "price",
    application: Application::Price("v1"),
};
/// The canary.
pub(crate) const PRICE_V2: Member = Member {
    name: "price-v2",
    sidecar: "price-v2-sidecar",
    account: "price",
    application: Application::Price("v2"),
};
/// All, those that are called before those that call.
pub(crate) const MEMBERS: [&Member; 5] = [&PRICE_V1_A, &PRICE_V1_B, &PRICE_V2, &CART, &FRONT];

/// Where a workload listens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// The application.
    pub(crate) application: SocketAddr,
    /// Its sidecar, for the mesh.
    pub(crate) inbound: SocketAddr,
}

/// What a proxy writes about itself.
#[derive(Deserialize)]
struct ProxyAddresses {
    outbound: SocketAddr,
    inbound: [SocketAddr; 1],
    health: SocketAddr,
}

impl Member {
    /// The label of its version.
    pub(super) fn labels(&self) -> impl IntoIterator<Item = (String, String)> + use<> {
        match self.application {
            Application::Price(version) => Some(("version".to_owned(), version.to_owned())),
            Application::Relay(..) => None,
        }
    }

    /// Where it logs its requests.
    pub(super) fn requests(&self, directory: &Path) -> PathBuf {
        directory.join(format!("{}.requests", self.name))
    }

    fn token(&self, directory: &Path) -> PathBuf {
        directory.join(format!("{}.token", self.name))
    }

    /// Leaves it the token that it joins with.
    pub(super) fn invite(&self, directory: &Path, text: &str) -> Result<(), Failure> {
        token::write(&self.token(directory), text)
    }

    /// Starts the application and its sidecar, and returns when both serve.
    pub(super) async fn start(
        &self,
        stack: &mut Stack,
        binaries: &Binaries,
        discovery: SocketAddr,
    ) -> Result<Place, Failure> {
        let mut application = self.start_application(stack)?;
        let listening = application.announced().await?;
        let place = Place { application: listening, inbound: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)) };
        let (sidecar, addresses) = self.start_sidecar(stack, binaries, discovery, place).await?;
        if let Application::Relay(..) = self.application {
            application.tell(&addresses.outbound.to_string()).await?;
        }
        // Stopped the other way round: a sidecar drains while its application still answers.
        stack.keep(application);
        stack.keep(sidecar);
        let [inbound] = addresses.inbound;
        Ok(Place { application: listening, inbound })
    }

    /// Starts the sidecar of an application that runs again, where the mesh knows it.
    pub(super) async fn start_again(
        &self,
        stack: &mut Stack,
        binaries: &Binaries,
        discovery: SocketAddr,
        place: Place,
    ) -> Result<(), Failure> {
        let (sidecar, _) = self.start_sidecar(stack, binaries, discovery, place).await?;
        stack.keep(sidecar);
        Ok(())
    }

    fn start_application(&self, stack: &Stack) -> Result<Process, Failure> {
        let log = self.requests(stack.directory());
        let mut words: Vec<OsString> = vec!["demo-app".into()];
        match self.application {
            Application::Relay(to, logs) => {
                words.extend(["relay".into(), "--to".into(), to.into()]);
                if logs {
                    words.extend(["--log".into(), log.into()]);
                }
            }
            Application::Price(version) => {
                let slow_every = if version == "v2" { SLOW_EVERY } else { "0" };
                words.extend(["price".into(), "--name".into(), self.name.into(), "--log".into(), log.into()]);
                words.extend(["--slow-every".into(), slow_every.into()]);
            }
        }
        stack.start(Start {
            name: self.name,
            program: &stack.own(),
            arguments: words,
            environment: Vec::new(),
            announces: true,
        })
    }

    /// Starts the sidecar of an application that runs; it listens for the mesh where `place` says.
    async fn start_sidecar(
        &self,
        stack: &Stack,
        binaries: &Binaries,
        discovery: SocketAddr,
        place: Place,
    ) -> Result<(Process, ProxyAddresses), Failure> {
        let state = stack.directory().join(self.sidecar);
        forget(&state)?;
        let Place { application, inbound } = place;
        let sidecar = stack.start(Start {
            name: self.sidecar,
            program: &binaries.proxy,
            arguments: vec![
                "--inbound".into(),
                format!("{inbound}={application},name=http,protocol=http1").into(),
            ],
            environment: vec![
                ("OUTRIGGER_CONTROL_PLANE__ADDRESS", discovery.to_string().into()),
                ("OUTRIGGER_JOIN__TOKEN_FILE", self.token(stack.directory()).into()),
                ("OUTRIGGER_STATE_DIR", state.clone().into()),
                ("OUTRIGGER_OUTBOUND__LISTEN", "127.0.0.1:0".into()),
                ("OUTRIGGER_HEALTH__LISTEN", "127.0.0.1:0".into()),
                ("OUTRIGGER_INSTANCE", self.name.into()),
                // The live table may run for days.
                ("OUTRIGGER_LOG__ACCESS", "false".into()),
            ],
            announces: false,
        })?;
        let addresses: ProxyAddresses = sidecar.addresses(&state).await?;
        ready(&sidecar, addresses.health).await?;
        Ok((sidecar, addresses))
    }
}

/// Removes what an earlier process wrote about where it listens.
pub(super) fn forget(state: &Path) -> Result<(), Failure> {
    let file = state.join("addresses.json");
    match std::fs::remove_file(&file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Failure::io(format!("cannot remove {}", file.display()), error))
        }
        _ => Ok(()),
    }
}
