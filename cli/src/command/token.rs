//! `token create`: the token to standard output or to a new file, everything else to standard error.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use outrigger_proto::identity::v1alpha1::CreateTokenRequest;

use crate::{
    args::{Global, TokenArgs, TokenCommand, TokenCreateArgs},
    connect::ControlPlane,
    failure::Failure,
    output::Output,
    view::Token,
};

/// Runs the commands on tokens.
pub(crate) async fn run(global: &Global, output: &Output, args: TokenArgs) -> Result<(), Failure> {
    match args.command {
        TokenCommand::Create(args) => create(global, output, args).await,
    }
}

async fn create(global: &Global, output: &Output, args: TokenCreateArgs) -> Result<(), Failure> {
    // Before the token is made: it is shown only once.
    if let Some(file) = &args.output {
        if file.exists() {
            return Err(Failure::Usage(format!(
                "{} exists already; name another file, or remove that one if its token is used up",
                file.display()
            )));
        }
        make(file).and_then(|_made| fs::remove_file(file)).map_err(|error| unwritable(file, error))?;
    }
    let response = ControlPlane::new(global)?
        .create_token(CreateTokenRequest {
            namespace: args.namespace,
            service_account: args.service_account,
            ttl: prost_types::Duration::try_from(args.ttl).ok(),
            labels: args.labels.into_iter().collect(),
        })
        .await?;
    let mut token = Token::new(response);
    output.note(&format!(
        "join token for {}, once, until {}",
        token.identity,
        token.expires.as_deref().unwrap_or("its end")
    ));
    if let Some(file) = &args.output {
        write(file, &token.token.take().unwrap_or_default())?;
    }
    output.result(&token, || token.token.clone().unwrap_or_default())
}

/// Writes a secret to a new file that only its owner may read.
pub(crate) fn write(file: &Path, secret: &str) -> Result<(), Failure> {
    make(file).and_then(|mut made| writeln!(made, "{secret}")).map_err(|error| unwritable(file, error))
}

fn make(file: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)
}

fn unwritable(file: &Path, error: io::Error) -> Failure {
    Failure::io(format!("cannot write the token to {}", file.display()), error)
}
