//! A micro-batch run as two halves side by side, and two flows of passes ([`Pair`]).
//!
//! A forward and backward pass has stretches that one thread does alone (allocation, elementwise work between the fused
//! kernels). Two halves fill each other's gaps. The number of halves is fixed and their sums are added in order, so that the
//! bits of a run do not depend on the number of threads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use kernels::cpu::choosing_pools;
use model::{Decoder, Grads};
use rayon::{ThreadPool, ThreadPoolBuilder};

/// Halves of a micro-batch.
const LANES: usize = 2;

/// The threads of each lane: its share of all. On two cores a lane runs its kernels on the thread it is on, without any
/// hand-over. Empty where there are too few, or they cannot be had: then one part runs after the other.
static POOLS: LazyLock<Vec<ThreadPool>> = LazyLock::new(|| {
    let threads = rayon::current_num_threads() / LANES;
    let lanes = if threads == 0 { 0 } else { LANES };
    (0..lanes).map_while(|_| ThreadPoolBuilder::new().num_threads(threads).build().ok()).collect()
});

/// Runs `pass` on two parts of `rows` that have about as many tokens, each with its own copy of the decoder (shared memory, separate
/// gradients), and gives what it returned for each part in order, with the sum of the gradients. A single row has all threads.
pub fn run<T: Sync, R: Send>(
    decoder: &Decoder,
    rows: &[T],
    tokens: impl Fn(&T) -> usize,
    pass: impl Fn(&mut Decoder, &[T]) -> (Grads, R) + Sync,
) -> (Grads, Vec<R>) {
    let parts: Vec<&[T]> = match rows.len() {
        0 => Vec::new(),
        1 => vec![rows],
        _ => {
            let (first, second) = rows.split_at(middle(&rows.iter().map(tokens).collect::<Vec<_>>()));
            vec![first, second]
        }
    };
    let mut copies: Vec<Decoder> = parts.iter().map(|_| leaves_of_its_own(decoder)).collect();
    let pass = &pass;
    let work = parts.iter().zip(&mut copies);
    let done: Vec<(Grads, R)> = if parts.len() < LANES || !Pair::fits() {
        work.map(|(part, copy)| pass(copy, part)).collect()
    } else {
        // Threads of their own rather than tasks of the pool: a task that waits for a kernel would take up the other half.
        std::thread::scope(|scope| {
            let lanes: Vec<_> = work
                .zip(&*POOLS)
                .map(|((part, copy), pool)| scope.spawn(move || pool.install(|| pass(copy, part))))
                .collect();
            let joined = lanes.into_iter().map(std::thread::ScopedJoinHandle::join);
            joined.map(|done| done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        })
    };
    let mut grads = Grads::default();
    let mut results = Vec::with_capacity(done.len());
    for (part, result) in done {
        grads.merge(part);
        results.push(result);
    }
    (grads, results)
}

/// Where a list is cut so that the sum of the greater part is least: at least one is on either side.
fn middle(counts: &[usize]) -> usize {
    let total: usize = counts.iter().sum();
    let mut before = 0;
    let greater = |at: usize| {
        before += counts[at - 1];
        (before.max(total - before), at)
    };
    (1..counts.len()).map(greater).min().map_or(0, |(_, at)| at)
}

/// Two flows of passes at the same time: each has all threads while the other rests, and its share of them otherwise. What
/// they compute does not depend on it.
#[derive(Debug, Default)]
pub struct Pair {
    busy: [AtomicBool; LANES],
}

impl Pair {
    /// Whether there are threads for two.
    pub fn fits() -> bool {
        POOLS.len() == LANES
    }

    /// Runs work whose passes are those of a lane.
    pub fn run<R>(self: &Arc<Self>, lane: usize, work: impl FnOnce() -> R) -> R {
        struct Rest<'a>(&'a AtomicBool);
        impl Drop for Rest<'_> {
            fn drop(&mut self) {
                self.0.store(false, Ordering::Relaxed);
            }
        }
        self.busy[lane].store(true, Ordering::Relaxed);
        let _rest = Rest(&self.busy[lane]);
        let pair = self.clone();
        let beside = move || pair.busy[1 - lane].load(Ordering::Relaxed);
        choosing_pools(move || if beside() { POOLS.get(lane) } else { None }, work)
    }

    /// Whether a lane has work.
    pub fn is_busy(&self, lane: usize) -> bool {
        self.busy[lane].load(Ordering::Relaxed)
    }
}

/// A copy whose trained parameters are leaves of a graph of their own: graphs that share a leaf share a lock.
fn leaves_of_its_own(decoder: &Decoder) -> Decoder {
    let mut copy = decoder.clone();
    copy.visit(&mut |_, mut slot| slot.set_trained(slot.is_trained()));
    copy
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use generate::{Purpose, Stream};
    use model::learn::{Row, log_probs};
    use model::{Config, Shape};

    fn decoder() -> Decoder {
        let shape = Shape::small(50);
        let mut stream = Stream::new(3, Purpose::Init, 0, 0);
        let mut decoder =
            Decoder::random(Config::llama(&shape), &Device::flex(), &mut || 4.0 * stream.normal());
        decoder.visit(&mut |_, mut slot| slot.set_trained(true));
        decoder
    }

    fn values(grads: &Grads) -> Vec<(String, Vec<f32>)> {
        grads.iter().map(|(name, g)| (name.to_owned(), g.to_data().iter::<f32>().collect())).collect()
    }

    #[test]
    fn a_list_is_cut_where_both_parts_are_most_alike() {
        let cuts: [(&[usize], usize); 6] = [
            (&[5, 5], 1),
            (&[1, 2, 3, 4], 3),
            (&[100, 1, 1], 1),
            (&[1, 1, 100], 2),
            (&[0, 0, 0], 1),
            (&[3, 3, 3], 1),
        ];
        for (counts, cut) in cuts {
            assert_eq!(middle(counts), cut, "{counts:?}");
        }
    }

    #[test]
    fn halves_side_by_side_give_the_gradient_of_one_pass_and_the_same_bits_each_time() {
        let mut decoder = decoder();
        let mut stream = Stream::new(4, Purpose::Sample, 0, 0);
        for count in [1, 2, 5] {
            let texts: Vec<Vec<u32>> =
                (0..count).map(|row| (0..10 + row).map(|_| (stream.bits() % 50) as u32).collect()).collect();
            let masks: Vec<Vec<bool>> = texts.iter().map(|text| vec![true; text.len()]).collect();
            let rows: Vec<Row<'_>> = texts.iter().zip(&masks).map(|(ids, loss)| Row { ids, loss }).collect();
            let pass = |decoder: &mut Decoder, rows: &[Row<'_>]| {
                let forward = log_probs(decoder, rows, false);
                let sum: f32 = forward.values.iter().sum();
                let ones = vec![1.0; forward.values.len()];
                (forward.backward(decoder, &ones), sum)
            };
            let (whole, sum) = pass(&mut decoder, &rows);
            let tokens = |row: &Row<'_>| row.ids.len();
            let (halves, sums) = run(&decoder, &rows, tokens, pass);
            assert_eq!(sums.len(), LANES.min(count));
            assert!((sums.iter().sum::<f32>() - sum).abs() < 1e-3);
            let (whole, first) = (values(&whole), values(&halves));
            assert_eq!(first, values(&run(&decoder, &rows, tokens, pass).0), "the same bits again");
            assert_eq!(whole.len(), first.len());
            for ((name, whole), (_, halves)) in whole.iter().zip(&first) {
                for (a, b) in whole.iter().zip(halves) {
                    assert!((a - b).abs() <= 1e-4 * (1.0 + a.abs()), "{name}: {a} against {b}");
                }
            }
        }
    }
}
