//! What the system knows of a connection that is established: asked by the connection's two ends
//! (sock_diag(7)), as `getsockopt` of TCP_INFO has no safe form.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

/// For how long nothing has come from the peer of a connection that owes something, be it an acknowledgement or room
/// for what waits to be sent, though it was asked again and again. `None`: it owes nothing, or the system does not say.
pub(super) fn owed(local: SocketAddr, peer: SocketAddr) -> Option<Duration> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let netlink = Some(netlink::SOCK_DIAG);
    let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, netlink).ok()?;
    send(&socket, &question(local, peer), SendFlags::empty()).ok()?;
    // The answer is there when the question has been sent.
    let mut answer = [0; ANSWER];
    let (_, length) = recv(&socket, &mut answer, RecvFlags::empty()).ok()?;
    let info = Info::find(answer.get(..length)?)?;
    info.owed()
}

/// What is of use of `tcp_info`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Info {
    /// How often in a row the oldest packet was sent again.
    resent: u8,
    /// How often in a row a peer without room was asked for some.
    probes: u8,
    /// Packets that are not acknowledged.
    unacked: u32,
    /// Bytes that are not acknowledged, or not sent yet.
    waiting: u32,
    /// Since something came, be it an acknowledgement.
    quiet: Duration,
}

impl Info {
    fn owed(self) -> Option<Duration> {
        let is_asked = match (self.unacked, self.waiting) {
            (0, 0) => return None,
            (0, _) => self.probes >= PROBES,
            _ => self.resent > 0,
        };
        // If it was not, it is still to be.
        Some(if is_asked { self.quiet } else { Duration::ZERO })
    }

    fn find(answer: &[u8]) -> Option<Self> {
        let kind = answer.get(4..6)?;
        let waiting = word(answer, HEADER + WAITING)?;
        let mut rest = answer.get(HEADER + FOUND..)?;
        if kind != SOCK_DIAG_BY_FAMILY.to_ne_bytes() {
            return None;
        }
        while let [length, other, kind, _, ..] = *rest {
            let length = usize::from(u16::from_ne_bytes([length, other]));
            if kind == INET_DIAG_INFO {
                return Self::read(rest.get(4..length)?, waiting);
            }
            rest = rest.get(length.max(4).next_multiple_of(4)..)?;
        }
        None
    }

    fn read(info: &[u8], waiting: u32) -> Option<Self> {
        let quiet = word(info, LAST_DATA_RECV)?.min(word(info, LAST_ACK_RECV)?);
        Some(Self {
            resent: *info.get(RETRANSMITS)?,
            probes: *info.get(PROBES_SENT)?,
            unacked: word(info, UNACKED)?,
            waiting,
            quiet: Duration::from_millis(quiet.into()),
        })
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// A message of netlink that asks for the connection with these ends: `nlmsghdr`, then `inet_diag_req_v2`.
fn question(local: SocketAddr, peer: SocketAddr) -> Vec<u8> {
    let [local, peer] = [local, peer].map(|end| SocketAddr::new(end.ip().to_canonical(), end.port()));
    let family = if local.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let scope = match local {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(local) => local.scope_id(),
    };
    let mut question = Vec::with_capacity(HEADER + ASKED);
    question.extend(u32::try_from(HEADER + ASKED).unwrap_or_default().to_ne_bytes());
    question.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    question.extend(NLM_F_REQUEST.to_ne_bytes());
    question.extend([0; 8]);
    question.extend([
        family.as_raw().to_ne_bytes()[0],
        IPPROTO_TCP,
        1 << (INET_DIAG_INFO - 1),
        0,
    ]);
    question.extend(u32::MAX.to_ne_bytes());
    question.extend(local.port().to_be_bytes());
    question.extend(peer.port().to_be_bytes());
    question.extend(octets(local.ip()));
    question.extend(octets(peer.ip()));
    question.extend(scope.to_ne_bytes());
    // Whatever its cookie.
    question.extend([0xff; 8]);
    question
}

fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => {
            let mut octets = [0; 16];
            octets[..4].copy_from_slice(&ip.octets());
            octets
        }
        IpAddr::V6(ip) => ip.octets(),
    }
}

// linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h, linux/tcp.h.
const HEADER: usize = 16;
const ASKED: usize = 56;
const FOUND: usize = 72;
/// `idiag_wqueue`.
const WAITING: usize = 60;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const IPPROTO_TCP: u8 = 6;
const INET_DIAG_INFO: u8 = 2;
const RETRANSMITS: usize = 2;
const PROBES_SENT: usize = 3;
const UNACKED: usize = 24;
const LAST_DATA_RECV: usize = 52;
const LAST_ACK_RECV: usize = 56;
/// A peer without room is asked for some less and less often, in the end every two minutes, and nothing comes from it
/// meanwhile: only questions without an answer tell that it is gone.
const PROBES: u8 = 3;
/// More than any answer is long.
const ANSWER: usize = 1024;

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// An answer with these attributes, of a connection on which this many bytes wait.
    fn answer(waiting: u32, attributes: &[(u8, &[u8])]) -> Vec<u8> {
        let mut answer = vec![0; HEADER + FOUND];
        answer[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        answer[HEADER + WAITING..][..4].copy_from_slice(&waiting.to_ne_bytes());
        for (kind, value) in attributes {
            let length = u16::try_from(4 + value.len()).unwrap().to_ne_bytes();
            answer.extend([length[0], length[1], *kind, 0]);
            answer.extend(*value);
            answer.resize(answer.len().next_multiple_of(4), 0);
        }
        answer
    }

    /// `tcp_info` of a connection that has sent a packet, or asked for room, so often.
    fn info(unacked: u32, [resent, probes]: [u8; 2], quiet: [u32; 2]) -> Vec<u8> {
        let mut info = vec![0; 104];
        info[RETRANSMITS] = resent;
        info[PROBES_SENT] = probes;
        for (at, value) in [
            (UNACKED, unacked),
            (LAST_DATA_RECV, quiet[0]),
            (LAST_ACK_RECV, quiet[1]),
        ] {
            info[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        }
        info
    }

    #[test]
    fn what_is_owed_is_found_behind_other_attributes() {
        let told = info(2, [7, 1], [90_000, 41_000]);
        let found = Info::find(&answer(300, &[(8, b"x"), (INET_DIAG_INFO, &told)]));
        let expected = Info {
            resent: 7,
            probes: 1,
            unacked: 2,
            waiting: 300,
            quiet: Duration::from_secs(41),
        };
        assert_eq!(found, Some(expected));
    }

    #[test]
    fn answers_that_are_none_say_nothing() {
        let short = &info(1, [1, 0], [0, 0])[..LAST_ACK_RECV];
        let mut error = answer(1, &[(INET_DIAG_INFO, &info(1, [1, 0], [0, 0]))]);
        error[4] = 2;
        let mut endless = answer(1, &[(8, b"")]);
        let length = endless.len();
        endless[length - 4..length - 2].copy_from_slice(&[0, 0]);
        for answer in [
            answer(1, &[]),
            answer(1, &[(INET_DIAG_INFO, short)]),
            error,
            endless,
            vec![0; 7],
            Vec::new(),
        ] {
            assert_eq!(Info::find(&answer), None, "{answer:?}");
        }
    }

    #[test]
    fn a_peer_is_quiet_that_was_asked_and_says_nothing() {
        let (asked_later, quiet) = (Some(Duration::ZERO), Some(Duration::from_secs(50)));
        for (waiting, unacked, asked, expected) in [
            (0, 0, [0, 0], None),
            // The system's own question, or what is left of the last.
            (0, 0, [3, 9], None),
            (100, 1, [0, 0], asked_later),
            (100, 1, [1, 0], quiet),
            // No room.
            (100, 0, [0, 0], asked_later),
            (100, 0, [0, PROBES - 1], asked_later),
            (100, 0, [0, PROBES], quiet),
        ] {
            let told = info(unacked, asked, [50_000, 60_000]);
            let found = Info::find(&answer(waiting, &[(INET_DIAG_INFO, &told)])).unwrap();
            assert_eq!(found.owed(), expected, "{found:?}");
        }
    }

    #[test]
    fn a_peer_that_reads_nothing_owes_room_and_one_that_has_all_owes_nothing() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            stream.set_nonblocking(true).unwrap();
            let piece = vec![0; 1 << 20];
            while stream.write(&piece).is_ok() {}
            let (local, peer) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
            assert_eq!(owed(local, peer), Some(Duration::ZERO));
            assert_eq!(owed(peer, local), None);
            let asked = [question(local, peer), question(peer, local)];
            assert!(asked.iter().all(|question| question.len() == HEADER + ASKED));
        }
    }
}
