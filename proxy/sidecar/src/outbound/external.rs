//! CONNECT to a name outside the mesh, as far as the mesh allows it.

use std::sync::Arc;

use http::Request;
use hyper::body::Incoming;
use outrigger_core::{model::ExternalTraffic, reason::Reason};

use super::{Downstream, Outbound, captured::upgraded};
use crate::tunnel;

impl Outbound {
    pub(super) async fn tunnel_outside(
        self: &Arc<Self>,
        request: &mut Request<Incoming>,
        (host, port): (&str, Option<u16>),
        traffic: ExternalTraffic,
        downstream: &Downstream,
    ) -> Result<(), Reason> {
        if traffic != ExternalTraffic::Connect443 || port != Some(443) {
            return Err(Reason::ExternalDenied);
        }
        let upstream = tunnel::open(host, 443, &self.resolver, &self.shared.never_dialled).await?;
        let upgrade = hyper::upgrade::on(request);
        let occupied = Arc::clone(&downstream.occupied);
        self.shared.tasks.spawn(async move {
            if let Some((stream, prefix)) = upgraded(upgrade).await {
                tunnel::relay(stream, prefix, upstream).await;
            }
            drop(occupied);
        });
        Ok(())
    }
}
