//! Who is in the mesh, and that nobody else gets anything out of it.

use std::{net::SocketAddr, time::Duration};

use outrigger_proto::status::v1alpha1::WorkloadState;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    demo::{
        mesh::{MEMBERS, Mesh, PRICE_V1_A},
        stage::{Judged, seconds},
    },
    failure::Failure,
    output::Output,
    view,
};

/// How long a stranger's connection may stay open.
const STRANGER: Duration = Duration::from_secs(5);

/// Shows the workloads, which took `took` to join, and knocks at one as a stranger.
pub(crate) async fn identities(
    output: &Output,
    mesh: &Mesh,
    workloads: &[WorkloadState],
    took: Duration,
) -> Result<Vec<Judged>, Failure> {
    let rows = workloads
        .iter()
        .map(|workload| {
            vec![
                workload.name.clone(),
                workload.spiffe_id.clone(),
                view::labels(&workload.labels),
                workload.addresses.join(", "),
            ]
        })
        .collect();
    output.print(&output.table(&["WORKLOAD", "IDENTITY", "LABELS", "ADDRESS"], rows, &[]))?;
    let joined =
        format!("{} of {}, and front got an answer, {}", workloads.len(), MEMBERS.len(), seconds(took));
    let refused = plaintext_is_refused(mesh.place(&PRICE_V1_A)?.inbound).await;
    Ok(vec![
        (
            "identities: every workload joined by token".to_owned(),
            if workloads.len() == MEMBERS.len() { Ok(joined) } else { Err(joined) },
        ),
        ("identities: a caller without a certificate gets nothing out of price".to_owned(), refused),
    ])
}

/// Speaks plain HTTP to a port of the mesh: whatever comes back, it must not be an answer.
async fn plaintext_is_refused(inbound: SocketAddr) -> Result<String, String> {
    let exchange = async {
        let mut stream = TcpStream::connect(inbound).await?;
        stream.write_all(b"GET /quote HTTP/1.1\r\nhost: price\r\nconnection: close\r\n\r\n").await?;
        let mut answer = Vec::new();
        // A reset is as good as a close.
        drop((&mut stream).take(4_096).read_to_end(&mut answer).await);
        std::io::Result::Ok(answer)
    };
    match timeout(STRANGER, exchange).await {
        Err(_elapsed) => Err("the connection stayed open".to_owned()),
        Ok(Err(error)) => Err(format!("the port cannot be reached: {error}")),
        Ok(Ok(answer)) if answer.starts_with(b"HTTP/") => Err("it was answered".to_owned()),
        Ok(Ok(_)) => Ok(format!("{inbound} closed")),
    }
}
