//! A credential broker for Microsoft 365.

#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "client")]
pub mod client;
pub mod pb;
pub mod secret;
