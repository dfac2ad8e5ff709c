//! What lies in an audit log.
#![no_main]

use kodo_broker::audit::verify;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| verify::fuzz(bytes));
