//! Who gets a seat, and who gives way.

use std::net::Ipv4Addr;

use super::*;

/// The address of a host.
fn at(host: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, host).into()
}

fn take(seats: &Arc<Seats>, host: u8, count: usize) -> Vec<Seat> {
    let taken = (0..count).map(|_| seats.take(at(host)));
    taken.collect::<Option<_>>().expect("nobody waits")
}

/// Which of them have been given to somebody else.
fn lost(seats: &[Seat]) -> Vec<usize> {
    let lost = |seat: &Seat| {
        !seat
            .seats
            .taken
            .lock()
            .by
            .get(&seat.host)
            .is_some_and(|party| party.has(seat.number))
    };
    (0..seats.len()).filter(|at| lost(&seats[*at])).collect()
}

impl Party {
    fn has(&self, number: u64) -> bool {
        self.idle.contains_key(&number) || self.served.contains_key(&number)
    }
}

#[tokio::test]
async fn a_newcomer_has_the_oldest_seat_of_the_host_with_the_most() {
    let seats = Seats::new(4);
    let few = take(&seats, 1, 1);
    let many = take(&seats, 2, 3);
    let _newcomer = take(&seats, 3, 1);
    assert_eq!((lost(&few), lost(&many)), (vec![], vec![0]));
    many[0].lost().await;
    // Two of one host, one each of two others.
    let _another = take(&seats, 4, 1);
    assert_eq!((lost(&few), lost(&many)), (vec![], vec![0, 1]));
    // One each: the oldest of all goes.
    let _last = take(&seats, 5, 1);
    assert_eq!((lost(&few), lost(&many)), (vec![0], vec![0, 1]));
}

#[tokio::test]
async fn a_host_that_comes_again_and_again_only_displaces_itself() {
    let seats = Seats::new(8);
    let other = take(&seats, 1, 1);
    let many = take(&seats, 2, 1_000);
    assert!(lost(&other).is_empty(), "the only one of its host");
    assert_eq!(lost(&many), (0..993).collect::<Vec<_>>());
    drop((other, many));
    seats.left().await;
    assert!(seats.taken.lock().by.is_empty() && seats.taken.lock().turns.is_empty());
}

#[tokio::test]
async fn who_is_served_goes_last() {
    let seats = Seats::new(3);
    let held = take(&seats, 1, 3);
    let served = [held[0].served(), held[1].served()];
    let _newcomer = take(&seats, 2, 1);
    assert_eq!(lost(&held), [2]);
    let _newcomer = take(&seats, 3, 1);
    assert_eq!(lost(&held), [0, 2], "nobody else is left");
    drop(served);
    assert_eq!(
        lost(&held),
        [0, 2],
        "whoever has lost a seat is not given it back"
    );
}

#[tokio::test]
async fn who_waits_displaces_only_those_with_more_than_twice_as_many() {
    let seats = Seats::new(6);
    let held = take(&seats, 1, 6);
    let mut others = Vec::new();
    for _ in 0..2 {
        others.extend(seats.wait(at(2)).await);
    }
    assert_eq!(lost(&held), [0, 1]);
    // Four of one host, two of the other.
    let mut waiting = std::pin::pin!(seats.wait(at(2)));
    assert!(futures_poll(waiting.as_mut()).is_none(), "it waits its turn");
    drop(others);
    waiting.await.expect("one is free");
    assert_eq!(lost(&held), [0, 1]);
}

/// What a future has, asked once.
fn futures_poll<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.poll(&mut context) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}

#[test]
fn addresses_of_a_network_of_64_bits_are_one_host() {
    for (one, other, is_one) in [
        ("2001:db8::1", "2001:db8::ffff:2", true),
        ("2001:db8::1", "2001:db8:0:1::1", false),
        ("10.0.0.1", "10.0.0.2", false),
        ("10.0.0.1", "::ffff:10.0.0.1", true),
    ] {
        let [one, other] = [one, other].map(|text| host(text.parse().unwrap()));
        assert_eq!(one == other, is_one, "{one} {other}");
    }
}
