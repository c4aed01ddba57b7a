//! The one option of ZeroMQ's that the `zmq` crate cannot set. Compiled with the feature `zeromq` only:
//! the library that cells import must not link ZeroMQ.

use std::ffi::c_int;

/// Makes an XPUB socket refuse a message (`EAGAIN`) when a subscriber has no room for it, or, when
/// `refuse` is false, drop it for that subscriber, which is what it does at first. `ZMQ_XPUB_NODROP`.
///
/// # Errors
/// `EINVAL` when the socket is not an XPUB.
pub fn set_xpub_nodrop(socket: &mut zmq::Socket, refuse: bool) -> zmq::Result<()> {
    let value = c_int::from(refuse);
    // SAFETY: the pointer is a live socket's, which the caller holds alone while this runs, and the
    // option is read from a live `int` whose size is given.
    let status = unsafe {
        zmq_sys::zmq_setsockopt(
            socket.as_mut_ptr(),
            zmq_sys::ZMQ_XPUB_NODROP as c_int,
            std::ptr::from_ref(&value).cast(),
            size_of::<c_int>(),
        )
    };
    if status == 0 {
        return Ok(());
    }
    // SAFETY: reads a variable of the calling thread.
    Err(zmq::Error::from_raw(unsafe { zmq_sys::zmq_errno() }))
}
