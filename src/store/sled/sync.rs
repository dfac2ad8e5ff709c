//! Has sled sync its log for certain.
//!
//! On Linux, sled asks for `sync_file_range` after each write to its log, and from then on counts what it
//! wrote as stable: it writes so in the headers of its segments, and reuses segments whose entries were
//! moved. But that call makes neither the size of a file nor what a disk holds in its own cache durable
//! (its manual says so; sled issues 1351, 1452). Where the call is missing, sled syncs the file whole: so
//! it is missing, in this process.

use std::ffi::{c_int, c_uint};

use rustix::io::Errno;

/// In the place of libc's: sled is the only one who calls it here.
#[expect(
    unsafe_code,
    reason = "a symbol that replaces one of libc; it does nothing but fail"
)]
#[unsafe(no_mangle)]
extern "C" fn sync_file_range(_: c_int, _: i64, _: i64, _: c_uint) -> c_int {
    errno::set_errno(errno::Errno(Errno::NOSYS.raw_os_error()));
    -1
}
