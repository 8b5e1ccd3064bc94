//! The order of the data: shuffled anew in each epoch, in batches of samples of one shape, the same for the same seed on every
//! machine, and resumable.

use std::collections::HashMap;
use std::hash::Hash;

use serde::{Deserialize, Serialize};

use crate::train::random::{Draws, Purpose};

/// How far the data has been gone through; goes into checkpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderState {
    /// Times that all samples were taken.
    pub epoch: u64,
    /// Samples taken in this epoch.
    pub taken: usize,
    /// Samples that wait for others of their shape to make up a batch, by shape.
    pub waiting: Vec<Vec<usize>>,
}

/// Batches of samples that have the same shapes.
#[derive(Debug, Clone)]
pub struct BatchOrder {
    /// Number of the shape of each sample.
    shapes: Vec<usize>,
    batch: usize,
    seed: u64,
    order: Vec<usize>,
    state: OrderState,
}

impl BatchOrder {
    /// The order of samples with these shapes (equal ones have equal shapes), in batches of `batch`, from `state` on.
    pub fn new<S: Eq + Hash>(shapes: &[S], batch: usize, seed: u64, mut state: OrderState) -> Self {
        let mut distinct: HashMap<&S, usize> = HashMap::new();
        let mut number = |shape| {
            let next = distinct.len();
            *distinct.entry(shape).or_insert(next)
        };
        let numbers: Vec<usize> = shapes.iter().map(&mut number).collect();
        state.waiting.resize(distinct.len(), Vec::new());
        let order = shuffled(seed, state.epoch, shapes.len());
        Self { shapes: numbers, batch: batch.max(1), seed, order, state }
    }

    /// The next batch: numbers of samples, all of one shape. No sample is left out: those that find no companions in an epoch wait
    /// for the next one's. Empty only if there are no samples.
    pub fn next_batch(&mut self) -> Vec<usize> {
        if self.shapes.is_empty() {
            return Vec::new();
        }
        loop {
            if self.state.taken >= self.order.len() {
                self.state.epoch += 1;
                self.state.taken = 0;
                self.order = shuffled(self.seed, self.state.epoch, self.shapes.len());
            }
            let sample = self.order[self.state.taken];
            self.state.taken += 1;
            let waiting = &mut self.state.waiting[self.shapes[sample]];
            waiting.push(sample);
            if waiting.len() >= self.batch {
                return std::mem::take(waiting);
            }
        }
    }

    /// How far it has gone.
    pub fn state(&self) -> &OrderState {
        &self.state
    }

    /// Of every `world` batches, the one of number `rank`: what one of several processes takes.
    pub fn next_batch_of(&mut self, rank: usize, world: usize) -> Vec<usize> {
        let mut mine = Vec::new();
        for number in 0..world.max(1) {
            let batch = self.next_batch();
            if number == rank {
                mine = batch;
            }
        }
        mine
    }
}

fn shuffled(seed: u64, epoch: u64, count: usize) -> Vec<usize> {
    Draws::new(seed, Purpose::Shuffle, epoch).permutation(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_comes_once_per_epoch_and_orders_differ() {
        let mut order = BatchOrder::new(&[0; 10], 1, 7, OrderState::default());
        let mut epoch = || (0..10).map(|_| order.next_batch()[0]).collect::<Vec<_>>();
        let (first, second) = (epoch(), epoch());
        assert_ne!(first, second);
        for mut epoch in [first, second] {
            epoch.sort_unstable();
            assert_eq!(epoch, (0..10).collect::<Vec<_>>());
        }
    }

    #[test]
    fn batches_have_one_shape_and_nothing_is_left_out() {
        let shapes = ["a", "b", "a", "c", "a", "b", "a"];
        let mut order = BatchOrder::new(&shapes, 2, 1, OrderState::default());
        let mut seen = [0; 7];
        for _ in 0..70 {
            let batch = order.next_batch();
            assert!(batch.len() == 2 && shapes[batch[0]] == shapes[batch[1]]);
            batch.into_iter().for_each(|i| seen[i] += 1);
        }
        assert!(seen.iter().all(|n| (19..=21).contains(n)), "{seen:?}");
    }

    #[test]
    fn it_goes_on_where_it_was() {
        let shapes = [0, 1, 0, 0, 1, 2];
        let mut whole = BatchOrder::new(&shapes, 2, 3, OrderState::default());
        for stop in 0..12 {
            let mut resumed = BatchOrder::new(&shapes, 2, 3, whole.state().clone());
            let mut straight = whole.clone();
            for _ in 0..9 {
                assert_eq!(resumed.next_batch(), straight.next_batch(), "stopped at {stop}");
            }
            whole.next_batch();
        }
    }

    #[test]
    fn processes_share_the_batches_without_overlap() {
        let make = || BatchOrder::new(&[0; 6], 1, 5, OrderState::default());
        let all: Vec<_> = {
            let mut o = make();
            (0..6).map(|_| o.next_batch()).collect()
        };
        let (mut a, mut b) = (make(), make());
        let shared: Vec<_> = (0..3).flat_map(|_| [a.next_batch_of(0, 2), b.next_batch_of(1, 2)]).collect();
        assert_eq!(all, shared);
    }

    #[test]
    fn no_samples_give_no_batch() {
        assert!(BatchOrder::new::<u8>(&[], 2, 0, OrderState::default()).next_batch().is_empty());
    }
}
