//! Places: how many there may be of something, and how many of them one workload may have.
//!
//! Sidecars of one workload share its identity, by the thousand, so that a bound on each of them would
//! bind nobody. The bound is a share: whatever one workload does, there is room for others.

use std::collections::HashMap;
use std::sync::Arc;

use jitney_api::Workload;
use parking_lot::Mutex;

/// So many places, of which no workload can take the last sixteenth.
#[derive(Debug)]
pub struct Places {
    most: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    of: HashMap<Workload, usize>,
}

/// One that is taken, until this is dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    workload: Workload,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPlace {
    /// All of them are taken.
    #[error("as many sidecars as this control plane takes are connected: {0}")]
    Full(usize),
    /// The workload has as many as one may have.
    #[error("as many sidecars of one workload as this control plane takes are connected: {0}")]
    Share(usize),
}

impl Places {
    /// So many.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            taken: Mutex::default(),
        })
    }

    /// Takes one for a workload.
    ///
    /// # Errors
    /// When there is none, or none for this workload.
    pub fn take(self: &Arc<Self>, workload: &Workload) -> Result<Place, NoPlace> {
        let share = self.most - self.most / RESERVE;
        let mut taken = self.taken.lock();
        if taken.all >= self.most {
            return Err(NoPlace::Full(self.most));
        }
        let of_workload = taken.of.get(workload).copied().unwrap_or_default();
        if of_workload >= share {
            return Err(NoPlace::Share(share));
        }
        taken.all += 1;
        taken.of.insert(workload.clone(), of_workload + 1);
        drop(taken);
        Ok(Place {
            places: Arc::clone(self),
            workload: workload.clone(),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        taken.all -= 1;
        if let Some(of_workload) = taken.of.get_mut(&self.workload) {
            *of_workload -= 1;
            if *of_workload == 0 {
                taken.of.remove(&self.workload);
            }
        }
    }
}

/// One in so many places is for another workload than the one that has all the rest.
const RESERVE: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(account: &str) -> Workload {
        Workload {
            namespace: "shop".into(),
            account: account.into(),
        }
    }

    fn take(places: &Arc<Places>, account: &str, count: usize) -> Vec<Place> {
        let taken = (0..count).map_while(|_| places.take(&workload(account)).ok());
        taken.collect()
    }

    #[test]
    fn one_workload_never_takes_the_last_places() {
        let places = Places::new(64);
        let users = take(&places, "users", 99);
        assert_eq!(users.len(), 60);
        let error = places.take(&workload("users")).unwrap_err();
        assert_eq!(error, NoPlace::Share(60));
        let orders = take(&places, "orders", 99);
        assert_eq!(orders.len(), 4);
        let error = places.take(&workload("carts")).unwrap_err();
        assert_eq!(error, NoPlace::Full(64));
    }

    #[test]
    fn a_place_that_is_left_is_free() {
        let places = Places::new(1);
        let only = places.take(&workload("users")).unwrap();
        places.take(&workload("orders")).unwrap_err();
        drop(only);
        drop(places.take(&workload("orders")).unwrap());
        assert!(places.taken.lock().of.is_empty(), "who has left is forgotten");
    }
}
