//! Slots that are named by index and generation, so that a stale name finds nothing.

/// The name of a value in an [`Arena`]; never valid again once the value has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Id {
    index: u32,
    generation: u32,
}

/// Values by [`Id`]; insertion and removal are O(1) and reuse memory.
#[derive(Debug)]
pub(super) struct Arena<V> {
    slots: Vec<Slot<V>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot<V> {
    generation: u32,
    value: Option<V>,
}

impl<V> Arena<V> {
    pub(super) const fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn insert(&mut self, value: V) -> Id {
        if let Some(index) = self.free.pop() {
            let slot = &mut self.slots[index as usize];
            slot.value = Some(value);
            return Id {
                index,
                generation: slot.generation,
            };
        }
        let index = u32::try_from(self.slots.len()).expect("queues are bounded far below 2^32");
        self.slots.push(Slot {
            generation: 0,
            value: Some(value),
        });
        Id { index, generation: 0 }
    }

    pub(super) fn get(&self, id: Id) -> Option<&V> {
        let slot = self.slots.get(id.index as usize)?;
        if slot.generation == id.generation {
            slot.value.as_ref()
        } else {
            None
        }
    }

    pub(super) fn get_mut(&mut self, id: Id) -> Option<&mut V> {
        let slot = self.slots.get_mut(id.index as usize)?;
        if slot.generation == id.generation {
            slot.value.as_mut()
        } else {
            None
        }
    }

    pub(super) fn remove(&mut self, id: Id) -> Option<V> {
        let slot = self.slots.get_mut(id.index as usize)?;
        if slot.generation != id.generation {
            return None;
        }
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(id.index);
        Some(value)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Id, &V)> {
        (0u32..).zip(&self.slots).filter_map(|(index, slot)| {
            slot.value.as_ref().map(|value| {
                (
                    Id {
                        index,
                        generation: slot.generation,
                    },
                    value,
                )
            })
        })
    }
}
