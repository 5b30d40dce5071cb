//! The last known good in the life of a proxy: taken up once it is somebody, kept from then on.

use std::time::SystemTime;

use tokio::task::spawn_blocking;

use super::App;
use crate::discovery::{
    Discovery,
    last_known_good::{Keeper, watch_away},
};

impl App {
    /// Takes up what an earlier start kept; returns why there is nothing, for people.
    pub(super) async fn recall(&mut self) -> String {
        let (Some(own), Some(discovery)) = (self.identity.id(), self.discovery.as_mut()) else {
            return "there is no identity".to_owned();
        };
        let store = self.last_known_good.clone();
        let recalled = spawn_blocking(move || store.recall(&own, SystemTime::now())).await;
        match recalled {
            Ok(Ok(Some(kept))) => {
                self.heard_of = kept.origin.written;
                discovery.restore(kept);
                String::new()
            }
            Ok(Ok(None)) => "there is no last known good yet".to_owned(),
            Ok(Err(refused)) => format!("the last known good is not used ({}): {refused}", refused.reason()),
            Err(_ending) => "the process is ending".to_owned(),
        }
    }

    /// Keeps what is in force from now on, and watches for a control plane that stays away.
    pub(super) fn keep(&self, discovery: &Discovery) {
        let keeper = Keeper {
            store: self.last_known_good.clone(),
            identity: self.identity.clone(),
            contents: discovery.contents(),
            status: self.status.clone(),
        };
        self.tasks.spawn(keeper.run(self.stop.clone()));
        self.tasks.spawn(watch_away(
            self.status.clone(),
            self.identity.clone(),
            self.heard_of,
            self.last_known_good.figures(),
            self.stop.clone(),
        ));
    }
}
