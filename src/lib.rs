//! A credential broker for Microsoft 365: it keeps the app credentials of many organizations so that
//! nobody else has to, and hands short-lived access tokens to backup workers.
//!
//! # The way of a token
//!
//! ```text
//! worker ── mTLS ─► rpc::listener      a handshake, within its limits
//!                   rpc::callers        who calls: one SPIFFE ID per connection, or, where a trusted
//!                     │                 proxy says it, per request
//!                   rpc::connection     which call: a warm one is answered in the turn that read it
//!                   rpc::token_service  what is asked: every field parsed
//!                   authz               may it be: default deny, on every call
//!                   token::cache        a hit ends here: no I/O, no decryption
//!                   rpc::records        on record, before rpc::gather lets the answer go
//!                     │ miss: one flight per key, in a task of its own
//!                   token::flight ─► vault ─► store  a token kept from before a restart, or
//!                     │  token::mint ─┘ └────► kek   the sealed record, opened only now
//!                     └─────────► entra::paced      who goes first, who waits, who is told so
//!                                   entra::client   one request to the tenant's token endpoint
//! ```
//! Beside the calls, [`token::refresh`] renews what is due. As long as the store or its KEK is not to be
//! had, [`rpc::seal`] answers instead of the services, and `app` tries again.
//!
//! # Rooms
//!
//! | module | holds |
//! |---|---|
//! | [`organization`], [`credential`] | the nouns; parsed once, at the rim, and right from then on |
//! | [`secret`] | types that cannot be printed, compared or cloned by accident |
//! | [`malformed`], [`hex`] | what is told of a wrong text; bytes as digits |
//! | [`clock`] | the rim between tokio's time and the wall clock |
//! | [`rpc`] | the gRPC edge: threads, connections, identity, fields, errors as statuses |
//! | [`audit`], [`metrics`] | who was given what, on record; figures without names |
//! | [`authz`] | who may do what |
//! | [`jobs`] | which jobs run, for policies that ask for one |
//! | [`registration`] | register, rotate, revoke: prove first, store then, forget last |
//! | [`token`] | tokens: their slots and flights, renewal, memory of failure, reports, followers |
//! | [`entra`] | Microsoft's side: pacing, endpoints, wire format, refusals explained (seam: [`entra::TokenEndpoint`]) |
//! | [`vault`] | custody: the only place where a plaintext credential and stored bytes meet |
//! | [`sealed`] | the one authenticated encryption |
//! | [`kek`] | the key outside the store (seam: [`kek::KeyProvider`]) |
//! | [`anchor`] | what is kept of the store outside of it, against older copies |
//! | [`store`] | where records lie (seam: [`store::Store`]) |
//! | [`app`], [`healthcheck`] | puts all of it together: `kodo-broker serve`; asks how it is |
//! | [`lockdown`] | the guards of the process, put up before anything secret is read |
//! | [`dev`], [`simulator`] | `kodo-broker dev`, and the Entra it talks to |
//! | [`client`], [`cli`] | the worker's library, and the command line on top of it |
//! | [`pb`] | the generated code of `proto/` |
//!
//! # Invariants
//!
//! `tests/shape/` reads the sources and keeps these true:
//! 1. Arrows run one way: `main → app → rpc → {registration, token, jobs} → vault → {store, kek}`, and
//!    `{registration, token} → entra`. Nothing below `rpc` knows of gRPC; nothing but `main` and
//!    `dev` knows of `app`.
//! 2. `pb` and `tonic::Status` appear only in `rpc`, `client` and `cli` (and the latter in the codec
//!    of `pb`).
//! 3. `reqwest` appears only in `entra::http` and `kek::transit::http`, `sled` only in `store::sled`, the AEAD only in
//!    `sealed`.
//! 4. `store` sees opaque bytes; `token` knows neither HTTP nor disk.
//! 5. `client` and `cli` compile without the server.
//! 6. The wall clock is read in `clock`, and by the simulator, which stands for another machine.
//!
//! # How to add
//! - a **store** or a **KEK provider**: one file beside its siblings, one variant in `config`, one arm
//!   in `open`, and the conformance suite called once more;
//! - a **kind of credential**: a variant of [`credential::Credential`], an arm of the proto's `oneof`,
//!   a field of the stored record;
//! - a **reason**: a value of the proto's `ErrorReason`, an arm in `rpc::status`, a test that makes it.

pub mod pb;
pub mod secret;

#[cfg(feature = "server")]
pub mod anchor;
#[cfg(feature = "server")]
pub mod app;
#[cfg(feature = "server")]
pub mod audit;
#[cfg(feature = "server")]
pub mod authz;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "client")]
pub mod client;
#[cfg(any(feature = "client", feature = "server"))]
pub mod clock;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
pub mod credential;
#[cfg(all(feature = "simulator", feature = "cli"))]
pub mod dev;
#[cfg(feature = "server")]
pub mod entra;
#[cfg(all(feature = "server", feature = "cli"))]
pub mod healthcheck;
#[cfg(feature = "server")]
pub mod hex;
#[cfg(feature = "server")]
pub mod jobs;
#[cfg(feature = "server")]
pub mod kek;
#[cfg(feature = "server")]
pub mod lockdown;
#[cfg(feature = "server")]
pub mod malformed;
#[cfg(feature = "server")]
pub mod metrics;
#[cfg(feature = "server")]
pub mod organization;
#[cfg(feature = "server")]
mod private_file;
#[cfg(feature = "server")]
pub mod registration;
#[cfg(feature = "server")]
pub mod rpc;
#[cfg(feature = "server")]
pub mod sealed;
#[cfg(feature = "simulator")]
pub mod simulator;
#[cfg(feature = "server")]
pub mod store;
#[cfg(feature = "server")]
pub mod telemetry;
#[cfg(feature = "server")]
pub mod tls;
#[cfg(feature = "server")]
pub mod token;
#[cfg(feature = "server")]
pub mod vault;
