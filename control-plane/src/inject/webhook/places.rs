//! The connections that there is room for. Whoever comes when all places are taken gets one of somebody who asks
//! nothing, of the address with the most of them: anybody in the cluster can open connections and say nothing.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// So many places, shared by all clones.
#[derive(Clone, Debug)]
pub(super) struct Places {
    most: usize,
    taken: Arc<Mutex<Taken>>,
    /// One has been given back.
    freed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    /// The oldest first.
    by_number: BTreeMap<u64, Holder>,
}

#[derive(Debug)]
struct Holder {
    peer: IpAddr,
    /// Whether a question of it is being answered.
    is_asking: bool,
    /// Whether it was told to leave.
    is_leaving: bool,
    leave: Arc<Notify>,
}

/// One place, given back when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    number: u64,
    of: Places,
    leave: Arc<Notify>,
}

/// For as long as this lives the place is nobody else's.
#[derive(Debug)]
pub(super) struct Asking(Arc<Place>);

impl Places {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            taken: Arc::default(),
            freed: Arc::default(),
        }
    }

    /// A place for somebody at this address, once there is one.
    ///
    /// # Cancellation
    /// Safe: no place is taken.
    pub(super) async fn take(&self, peer: IpAddr) -> Place {
        loop {
            let freed = self.freed.notified();
            if let Some(place) = self.try_take(peer) {
                return place;
            }
            freed.await;
        }
    }

    /// `None` when there is none now; whoever is to make room was told then.
    fn try_take(&self, peer: IpAddr) -> Option<Place> {
        let mut taken = self.taken.lock();
        if taken.by_number.len() >= self.most {
            taken.make_room();
            return None;
        }
        let (number, leave) = (taken.next, Arc::<Notify>::default());
        taken.next += 1;
        let holder = Holder {
            peer,
            is_asking: false,
            is_leaving: false,
            leave: Arc::clone(&leave),
        };
        taken.by_number.insert(number, holder);
        Some(Place {
            number,
            of: self.clone(),
            leave,
        })
    }

    /// Returns when all are free.
    pub(super) async fn emptied(&self) {
        loop {
            let freed = self.freed.notified();
            if self.taken.lock().by_number.is_empty() {
                return;
            }
            freed.await;
        }
    }
}

impl Taken {
    /// Has the oldest leave that asks nothing, of the address that has the most places. One at a time: it goes at once.
    fn make_room(&mut self) {
        if self.by_number.values().any(|one| one.is_leaving) {
            return;
        }
        let mut counts = HashMap::<IpAddr, usize>::new();
        for one in self.by_number.values() {
            *counts.entry(one.peer).or_default() += 1;
        }
        let silent = self.by_number.iter_mut().filter(|(_, one)| !one.is_asking);
        // Of equals the last one is found, so the oldest come last.
        if let Some((_, one)) = silent.rev().max_by_key(|(_, one)| counts.get(&one.peer).copied()) {
            one.is_leaving = true;
            one.leave.notify_one();
        }
    }
}

impl Place {
    /// Returns when somebody else needs it, and nothing is asked by it.
    pub(super) async fn is_needed(&self) {
        self.leave.notified().await;
    }

    /// Its question is complete; `None` when it was told to leave before.
    pub(super) fn ask(self: &Arc<Self>) -> Option<Asking> {
        let mut taken = self.of.taken.lock();
        let holder = taken.by_number.get_mut(&self.number)?;
        holder.is_asking = !holder.is_leaving;
        holder.is_asking.then(|| Asking(Arc::clone(self)))
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let mut taken = self.0.of.taken.lock();
        if let Some(holder) = taken.by_number.get_mut(&self.0.number) {
            holder.is_asking = false;
        }
        drop(taken);
        // Whoever waits for a place may have this one now.
        self.0.of.freed.notify_one();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.of.taken.lock().by_number.remove(&self.number);
        self.of.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    /// What comes of it at once.
    fn now<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
        match Pin::new(&mut future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    fn peer(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    /// Which of these are to leave.
    fn leaving(places: &[Arc<Place>]) -> Vec<usize> {
        let told = places.iter().enumerate();
        let told = told.filter(|(_, place)| now(Box::pin(place.is_needed())).is_some());
        told.map(|(at, _)| at).collect()
    }

    #[test]
    fn whoever_has_most_and_asks_nothing_makes_room() {
        let places = Places::new(4);
        let mut held: Vec<Arc<Place>> = [1, 2, 2, 2]
            .map(|last| places.try_take(peer(last)).unwrap().into())
            .into();
        let asking = held[1].ask().unwrap();
        assert!(places.try_take(peer(3)).is_none());
        assert!(places.try_take(peer(3)).is_none(), "one that leaves is enough");
        assert_eq!(
            leaving(&held),
            [2],
            "the oldest of the greediest that asks nothing"
        );
        assert!(held[2].ask().is_none(), "it is too late to ask");
        drop(held.remove(2));
        held.push(places.try_take(peer(3)).unwrap().into());
        drop(asking);
        assert!(places.try_take(peer(4)).is_none());
        assert_eq!(leaving(&held), [1]);
    }

    #[tokio::test]
    async fn who_is_answered_is_waited_for() {
        let places = Places::new(1);
        let only = Arc::new(places.try_take(peer(1)).unwrap());
        let asking = only.ask().unwrap();
        let mut waiting = Box::pin(places.take(peer(2)));
        assert!(now(&mut waiting).is_none());
        assert!(now(Box::pin(only.is_needed())).is_none());
        drop(asking);
        assert!(now(&mut waiting).is_none());
        assert!(now(Box::pin(only.is_needed())).is_some());
        drop(only);
        let place = waiting.await;
        assert!(now(Box::pin(places.emptied())).is_none());
        drop(place);
        places.emptied().await;
    }
}
