//! Compiles `proto/` without `protoc` and generates the gRPC code that `src/pb.rs` includes.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

const PROTOS: &[&str] = &[
    "proto/kodo/broker/v1/error_reason.proto",
    "proto/kodo/broker/v1/identity_service.proto",
    "proto/kodo/broker/v1/token_service.proto",
    "proto/kodo/broker/admin/v1/audit_service.proto",
    "proto/kodo/broker/admin/v1/job_grant_service.proto",
    "proto/kodo/broker/admin/v1/organization_service.proto",
    "proto/kodo/broker/admin/v1/store_service.proto",
];

/// Messages whose generated `Debug` would print a secret or a token; `src/pb.rs` writes theirs by
/// hand. A message that merely holds one of them prints it through that redacted `Debug`.
const REDACTED: &[&str] = &[
    "kodo.broker.v1.GetTokenResponse",
    "kodo.broker.admin.v1.ClientSecretCredential",
    "kodo.broker.admin.v1.PemCertificateCredential",
    "kodo.broker.admin.v1.Pkcs12CertificateCredential",
];

#[expect(
    clippy::disallowed_methods,
    reason = "cargo passes OUT_DIR in the environment"
)]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // For gRPC reflection and for the test that walks every field of every RPC.
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .client_mod_attribute(".", "#[cfg(feature = \"client\")]")
        .server_mod_attribute(".", "#[cfg(feature = \"server\")]")
        .codec_path("crate::pb::codec::ProtobufCodec")
        // In an order of their own: requests are remembered by a digest of their bytes.
        .btree_map(".")
        .skip_debug(REDACTED.iter().copied())
        .compile_fds(descriptors)?;
    Ok(())
}
