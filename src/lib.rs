//! stub
pub mod secret;
#[cfg(feature = "simulator")]
pub mod simulator;
