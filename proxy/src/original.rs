//! Where a connection was meant to go that the kernel handed over.

use std::io;
use std::net::SocketAddr;

use socket2::SockRef;
use tokio::net::TcpStream;

/// The address that the caller connected to, by what the kernel keeps of each connection that a rule
/// redirects (`SO_ORIGINAL_DST`, `IP6T_SO_ORIGINAL_DST`). It is the stream's own address when no rule did.
///
/// # Errors
/// When the kernel keeps nothing of it.
pub(crate) fn destination(stream: &TcpStream) -> io::Result<SocketAddr> {
    let local = stream.local_addr()?;
    let socket = SockRef::from(stream);
    // A socket for both versions has IPv4 in the form of IPv6; the kernel keeps it as what it is.
    let address = match local.ip().to_canonical().is_ipv4() {
        true => socket.original_dst_v4(),
        false => socket.original_dst_v6(),
    };
    let address = address?.as_socket();
    address.ok_or_else(|| io::Error::other("the original destination is no address of IP"))
}
