//! The broker as its callers see it: real gRPC over mutual TLS on a free port, and real HTTPS to a
//! simulated Entra. Each file is about one promise.

mod admin_listener;
mod age;
mod audit;
mod authorization;
mod bad_input;
mod client;
mod concurrency;
mod connections;
mod errors;
mod faults;
mod forwarded;
mod identity;
mod jobs;
mod labels;
mod limits;
mod main_job;
mod matrix;
mod metrics;
mod refusals;
mod registration;
mod reload;
mod reports;
mod revocation;
mod rotation;
mod sealed;
mod store;
mod support;
mod suspension;
mod taking_back;
mod timing;
mod upstream;
mod watch;
