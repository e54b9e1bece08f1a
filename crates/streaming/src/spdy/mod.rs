//! SPDY/3.1, as far as Kubernetes uses it: a framing that carries several two-way byte streams with headers
//! over one connection.
//!
//! Flow control is one-sided on purpose. We acknowledge what we have read, so that peers that count windows
//! go on; we do not wait for acknowledgements, because the library that all Go clients use never sends any.
//! Memory stays bounded by not reading from a connection whose streams are full.

mod connection;
mod frame;

pub use connection::{SpdyConnection, SpdyStream, Streams};
pub use frame::{ControlFrame, FrameError, FrameHeader, HeaderBlocks, flags};
