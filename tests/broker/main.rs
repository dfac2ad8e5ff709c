//! The broker as its callers see it: real gRPC over mutual TLS on a free port, and real HTTPS to a
//! simulated Entra. Each file is about one promise.

mod audit;
mod authorization;
mod bad_input;
mod client;
mod concurrency;
mod connections;
mod errors;
mod faults;
mod identity;
mod jobs;
mod labels;
mod limits;
mod main_job;
mod matrix;
mod metrics;
mod refusals;
mod registration;
mod reports;
mod revocation;
mod rotation;
mod sealed;
mod store;
mod support;
mod timing;
mod upstream;
mod watch;
