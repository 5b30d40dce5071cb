//! Compiles the `.proto` files with protox (no `protoc` on the machine); gRPC stubs by feature.

use std::{env, error::Error, path::Path};

const FILES: [&str; 9] = [
    "envoy/service/discovery/v3/ads.proto",
    "google/rpc/status.proto",
    "outrigger/backup/v1alpha1/backup.proto",
    "outrigger/identity/v1alpha1/identity.proto",
    "outrigger/mesh/v1alpha1/resources.proto",
    "outrigger/policy/v1alpha1/policy.proto",
    "outrigger/registry/v1alpha1/registry.proto",
    "outrigger/status/v1alpha1/status.proto",
    "outrigger/telemetry/v1alpha1/telemetry.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    for dir in ["envoy", "google", "outrigger"] {
        println!("cargo::rerun-if-changed={dir}");
    }
    let descriptors = protox::compile(FILES, [Path::new(".")])?;
    tonic_prost_build::configure()
        .build_client(env::var_os("CARGO_FEATURE_CLIENT").is_some())
        .build_server(env::var_os("CARGO_FEATURE_SERVER").is_some())
        .build_transport(false)
        // Encoded bytes are hashed into versions: maps must have one order.
        .btree_map(".")
        .include_file("packages.rs")
        .compile_fds(descriptors)?;
    Ok(())
}
