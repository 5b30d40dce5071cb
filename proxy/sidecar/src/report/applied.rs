//! The status stream: what is in force here, told after each swap. It never outruns the control plane: one report is
//! under way at a time, and the next one says how things are then.

use std::convert::Infallible;

use outrigger_core::wire::time::encode_timestamp;
use outrigger_proto::status::v1alpha1::{
    AppliedNonce, AppliedReport, LastKnownGood, PendingName,
    proxy_status_service_client::ProxyStatusServiceClient,
};
use outrigger_tls::Identity;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::{
    discovery::Status,
    reconnect::{Session, StreamError, answer},
};

/// Pending names in one report: some are as good as all to tell that not everything is in force.
const MAX_PENDING: usize = 256;

#[derive(Debug)]
pub(super) struct Reporter {
    channel: Channel,
    status: watch::Receiver<Status>,
    identity: Identity,
    renewed: watch::Receiver<u64>,
}

impl Reporter {
    pub(super) fn new(channel: Channel, status: watch::Receiver<Status>, identity: Identity) -> Self {
        let renewed = identity.changed();
        Self { channel, status, identity, renewed }
    }

    fn report(&mut self) -> AppliedReport {
        self.renewed.mark_unchanged();
        let status = self.status.borrow_and_update();
        let (svid, bundle) = (self.identity.svid(), self.identity.bundle());
        let authorities = svid.iter().zip(&bundle).flat_map(|(svid, bundle)| svid.authorities(bundle));
        AppliedReport {
            generation: status.generation,
            applied: status
                .applied
                .iter()
                .map(|(type_url, nonce)| AppliedNonce {
                    type_url: (*type_url).to_owned(),
                    nonce: nonce.clone(),
                })
                .collect(),
            pending: status
                .pending
                .iter()
                .take(MAX_PENDING)
                .map(|pending| PendingName {
                    type_url: pending.type_url.to_owned(),
                    name: pending.name.clone(),
                    cause: pending.cause.clone(),
                })
                .collect(),
            svid_not_after: svid.as_ref().map(|svid| svid.not_after().into()),
            stream: status.stream.clone(),
            last_known_good: status.last_known_good.map(|origin| LastKnownGood {
                revision: origin.revision,
                written: Some(encode_timestamp(origin.written)),
            }),
            bundle_sequence: bundle.as_ref().map_or(0, |bundle| bundle.sequence()),
            svid_authorities: authorities.map(|key| key.to_vec()).collect(),
        }
    }

    /// Whether there is a stream to report on.
    fn has_news(&self) -> bool {
        !self.status.borrow().stream.is_empty()
    }

    async fn changed(&mut self) {
        let changed = tokio::select! {
            changed = self.status.changed() => changed,
            changed = self.renewed.changed() => changed,
        };
        if changed.is_err() {
            // Discovery has ended, and with it this proxy: nothing changes any more.
            std::future::pending().await
        }
    }
}

impl Session for Reporter {
    const WHAT: &'static str = "status";

    async fn run(&mut self) -> Result<Infallible, StreamError> {
        // A stream without configuration has nothing to say.
        while !self.has_news() {
            self.changed().await;
        }
        let (reports, outgoing) = mpsc::channel(1);
        let first = self.report();
        reports.try_send(first).map_err(|_full| StreamError::Ended)?;
        let mut client = ProxyStatusServiceClient::new(self.channel.clone());
        let mut acks = answer(client.report(ReceiverStream::new(outgoing))).await?.into_inner();
        loop {
            answer(acks.message()).await?.ok_or(StreamError::Ended)?;
            loop {
                tokio::select! {
                    () = self.changed() => {
                        if self.has_news() {
                            break;
                        }
                    }
                    unasked = acks.message() => {
                        unasked?.ok_or(StreamError::Ended)?;
                    }
                }
            }
            let next = self.report();
            reports.send(next).await.map_err(|_closed| StreamError::Ended)?;
        }
    }
}
