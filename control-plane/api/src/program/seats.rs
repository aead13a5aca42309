//! Seats: how many connections there may be at once, so that those who take all they can get keep nobody out.
//!
//! Where none is free, somebody who has one gives it to the newcomer: the host that has most of them, and of its
//! connections the oldest of those that are owed nothing. So a host of which there are few is never sent away by
//! one of which there are many, however often that one comes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// So many seats.
#[derive(Debug)]
pub struct Seats {
    most: u32,
    free: Arc<Semaphore>,
    taken: Mutex<Taken>,
}

/// One that is taken, until this is dropped or it is given to somebody else.
#[derive(Debug)]
pub struct Seat {
    seats: Arc<Seats>,
    host: IpAddr,
    number: u64,
    lost: Arc<Notify>,
}

/// While it lives, whoever has the [`Seat`] is owed something and loses it after the host's others.
#[derive(Debug)]
pub struct Served<'a>(&'a Seat);

#[derive(Debug, Default)]
struct Taken {
    by: HashMap<IpAddr, Party>,
    /// Of each host the seat that is given away next; the last of them comes first.
    turns: BTreeSet<Turn>,
    last: u64,
}

/// The connections of a host, by the order in which they came.
#[derive(Debug, Default)]
struct Party {
    idle: BTreeMap<u64, Held>,
    served: BTreeMap<u64, Held>,
}

/// What a seat is worth while it is somebody's.
#[derive(Debug)]
struct Held {
    permit: OwnedSemaphorePermit,
    lost: Arc<Notify>,
}

/// How many a host has, whether one of them is idle, the number of the one that goes, whose it is.
type Turn = (usize, bool, Reverse<u64>, IpAddr);

impl Seats {
    /// So many.
    pub fn new(most: u16) -> Arc<Self> {
        Arc::new(Self {
            most: most.into(),
            free: Arc::new(Semaphore::new(most.into())),
            taken: Mutex::default(),
        })
    }

    /// One for whoever comes from this address, be it somebody else's: never waits. `None` only where all are
    /// just being given to those who [wait](Self::wait).
    pub fn take(self: &Arc<Self>, address: IpAddr) -> Option<Seat> {
        let (host, mut taken) = (host(address), self.taken.lock());
        let free = Arc::clone(&self.free).try_acquire_owned().ok();
        let permit = free.or_else(|| taken.give_away(|_| true))?;
        Some(self.seat(&mut taken, host, permit))
    }

    /// One for whoever comes from this address: somebody else's where a host has more than twice as many as
    /// this one would have with it, and otherwise the next that is free, in turn. `None` never comes of it
    /// while the program runs.
    ///
    /// # Cancellation
    /// Loses the turn, and nothing else.
    pub async fn wait(self: &Arc<Self>, address: IpAddr) -> Option<Seat> {
        let host = host(address);
        if let Some(seat) = self.share(host) {
            return Some(seat);
        }
        let permit = Arc::clone(&self.free).acquire_owned().await.ok()?;
        Some(self.seat(&mut self.taken.lock(), host, permit))
    }

    /// Returns when nobody has one.
    pub async fn left(&self) {
        // A closed semaphore is the only error, and nobody closes this one.
        drop(self.free.acquire_many(self.most).await);
    }

    /// One that is free, or is too many for another host.
    fn share(self: &Arc<Self>, host: IpAddr) -> Option<Seat> {
        let mut taken = self.taken.lock();
        let free = Arc::clone(&self.free).try_acquire_owned().ok();
        let own = taken.by.get(&host).map_or(0, Party::len);
        let permit = free.or_else(|| taken.give_away(|most| most > 2 * (own + 1)))?;
        Some(self.seat(&mut taken, host, permit))
    }

    fn seat(self: &Arc<Self>, taken: &mut Taken, host: IpAddr, permit: OwnedSemaphorePermit) -> Seat {
        let lost = Arc::new(Notify::new());
        let held = Held {
            permit,
            lost: Arc::clone(&lost),
        };
        taken.last += 1;
        let number = taken.last;
        taken.change(host, |party| drop(party.idle.insert(number, held)));
        Seat {
            seats: Arc::clone(self),
            host,
            number,
            lost,
        }
    }
}

impl Seat {
    /// Returns, once, when somebody else has it: the connection is to end.
    ///
    /// # Cancellation
    /// Safe: it is told the next time.
    pub async fn lost(&self) {
        self.lost.notified().await;
    }

    /// Says that the connection is owed something, for as long as what is returned lives.
    pub fn served(&self) -> Served<'_> {
        self.change(|party, number| {
            let held = party.idle.remove(&number);
            party.served.extend(held.map(|held| (number, held)));
        });
        Served(self)
    }

    fn change(&self, change: impl FnOnce(&mut Party, u64)) {
        let mut taken = self.seats.taken.lock();
        taken.change(self.host, |party| change(party, self.number));
    }
}

impl Drop for Served<'_> {
    fn drop(&mut self) {
        self.0.change(|party, number| {
            let held = party.served.remove(&number);
            party.idle.extend(held.map(|held| (number, held)));
        });
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.change(|party, number| drop(party.remove(number)));
    }
}

impl Taken {
    /// The seat whose turn it is, if this is so of how many its host has.
    fn give_away(&mut self, is_due: impl FnOnce(usize) -> bool) -> Option<OwnedSemaphorePermit> {
        let (_, _, Reverse(number), host) = *self.turns.last().filter(|turn| is_due(turn.0))?;
        let held = self.change(host, |party| party.remove(number))?;
        held.lost.notify_one();
        Some(held.permit)
    }

    /// Changes what a host has.
    fn change<T>(&mut self, host: IpAddr, change: impl FnOnce(&mut Party) -> T) -> T {
        let party = self.by.entry(host).or_default();
        if let Some(turn) = party.turn(host) {
            self.turns.remove(&turn);
        }
        let changed = change(party);
        match party.turn(host) {
            Some(turn) => drop(self.turns.insert(turn)),
            None => drop(self.by.remove(&host)),
        }
        changed
    }
}

impl Party {
    fn len(&self) -> usize {
        self.idle.len() + self.served.len()
    }

    fn turn(&self, host: IpAddr) -> Option<Turn> {
        let (number, _) = self
            .idle
            .first_key_value()
            .or_else(|| self.served.first_key_value())?;
        Some((self.len(), !self.idle.is_empty(), Reverse(*number), host))
    }

    fn remove(&mut self, number: u64) -> Option<Held> {
        self.idle.remove(&number).or_else(|| self.served.remove(&number))
    }
}

/// Who is at an address: a host of IPv6 has as many as it likes within a network of 64 bits.
const fn host(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests;
