//! The broker as its callers see it: real gRPC over mutual TLS on a free port, and real HTTPS to a
//! simulated Entra. Each file is about one promise.

mod audit;
mod authorization;
mod bad_input;
mod concurrency;
mod connections;
mod errors;
mod identity;
mod main_job;
mod metrics;
mod refusals;
mod registration;
mod revocation;
mod rotation;
mod support;
mod upstream;
