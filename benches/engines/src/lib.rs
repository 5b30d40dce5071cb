//! What the pairs of all engines share: their command line, and the certificates that it names.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use clap::{Parser, ValueEnum};
use outrigger_core::model::SpiffeId;
use outrigger_tls::{Bundle, Identity, Key, Svid};
use rustls_pki_types::{CertificateDer, pem::PemObject};

/// Which half of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Side {
    /// Beside the client: plain in, mutual TLS out.
    Outbound,
    /// Beside the application: mutual TLS in, plain out.
    Inbound,
}

/// What is spoken between the two halves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Leg {
    /// A connection for each request under way.
    Http1,
    /// One connection, a stream for each request.
    Http2,
}

/// The command line of an engine.
#[derive(Debug, Clone, Parser)]
pub struct Arguments {
    /// Which half this is.
    pub side: Side,
    /// Where it listens.
    #[arg(long)]
    pub listen: SocketAddr,
    /// Where every request goes.
    #[arg(long)]
    pub upstream: SocketAddr,
    /// What is spoken between the two halves.
    #[arg(long)]
    pub leg: Leg,
    /// The authority that both trust, PEM.
    #[arg(long)]
    pub root: PathBuf,
    /// The own certificate, PEM.
    #[arg(long)]
    pub certificate: PathBuf,
    /// Its key, PEM.
    #[arg(long)]
    pub key: PathBuf,
    /// Who the peer must be.
    #[arg(long)]
    pub peer: SpiffeId,
}

/// Files that are not what the command line says.
#[derive(Debug, thiserror::Error)]
pub enum InvalidFiles {
    /// One cannot be read.
    #[error("cannot read {0}")]
    Read(PathBuf, #[source] io::Error),
    /// One holds no certificate.
    #[error("{0} is not a list of certificates in PEM")]
    Pem(PathBuf, #[source] rustls_pki_types::pem::Error),
    /// The own key cannot be used.
    #[error("the key cannot be used")]
    Key(#[from] outrigger_tls::InvalidKey),
    /// Certificate and key are no SVID.
    #[error("certificate and key are no SVID")]
    Svid(#[from] outrigger_tls::InvalidSvid),
    /// The root is none.
    #[error("the root is no authority")]
    Bundle(#[from] outrigger_tls::InvalidBundle),
}

impl Arguments {
    /// The own certificates, DER, leaf first.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn chain(&self) -> Result<Vec<Vec<u8>>, InvalidFiles> {
        certificates(&self.certificate)
    }

    /// The trusted authorities, DER.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn roots(&self) -> Result<Vec<Vec<u8>>, InvalidFiles> {
        certificates(&self.root)
    }

    /// The own key.
    ///
    /// # Errors
    /// If the file cannot be read or is no P-256 key.
    pub fn private_key(&self) -> Result<Key, InvalidFiles> {
        Ok(Key::from_pem(&read(&self.key)?)?)
    }

    /// All of it as a sidecar has it.
    ///
    /// # Errors
    /// If a file is not what it should be.
    pub fn identity(&self) -> Result<Identity, InvalidFiles> {
        let svid = Svid::from_parts(self.chain()?, self.private_key()?)?;
        let bundle = Bundle::new(svid.id().trust_domain().clone(), self.roots()?, 1)?;
        Ok(Identity::new(svid, bundle))
    }
}

fn read(path: &Path) -> Result<String, InvalidFiles> {
    fs::read_to_string(path).map_err(|error| InvalidFiles::Read(path.to_owned(), error))
}

fn certificates(path: &Path) -> Result<Vec<Vec<u8>>, InvalidFiles> {
    CertificateDer::pem_slice_iter(read(path)?.as_bytes())
        .map(|certificate| certificate.map(|der| der.to_vec()))
        .collect::<Result<_, _>>()
        .map_err(|error| InvalidFiles::Pem(path.to_owned(), error))
}
