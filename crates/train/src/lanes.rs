//! A micro-batch run as two halves side by side.
//!
//! A forward and backward pass has stretches that one thread does alone (allocation, elementwise work between the fused
//! kernels). Two halves fill each other's gaps. The number of halves is fixed and their sums are added in order, so that the
//! bits of a run do not depend on the number of threads.

use std::sync::LazyLock;

use model::{Decoder, Grads};
use rayon::{ThreadPool, ThreadPoolBuilder};

/// Halves of a micro-batch.
const LANES: usize = 2;

/// The threads of each lane: its share of all. On two cores a lane runs its kernels on the thread it is on, without any
/// hand-over. Empty where threads cannot be had: then the lanes share the pool of the process.
static POOLS: LazyLock<Vec<ThreadPool>> = LazyLock::new(|| {
    let threads = (rayon::current_num_threads() / LANES).max(1);
    (0..LANES).map_while(|_| ThreadPoolBuilder::new().num_threads(threads).build().ok()).collect()
});

/// Runs `pass` on the parts of `rows`, each with its own copy of the decoder (shared memory, separate gradients), and gives
/// what it returned for each part in order, with the sum of the gradients.
pub fn run<T: Sync, R: Send>(
    decoder: &Decoder,
    rows: &[T],
    pass: impl Fn(&mut Decoder, &[T]) -> (Grads, R) + Sync,
) -> (Grads, Vec<R>) {
    let parts: Vec<&[T]> = rows.chunks(rows.len().div_ceil(LANES).max(1)).collect();
    let mut copies: Vec<Decoder> = parts.iter().map(|_| leaves_of_its_own(decoder)).collect();
    let pass = &pass;
    // Threads of their own rather than tasks of the pool: a task that waits for a kernel would take up the other half.
    let done: Vec<(Grads, R)> = std::thread::scope(|scope| {
        let lanes: Vec<_> = parts
            .iter()
            .zip(&mut copies)
            .enumerate()
            .map(|(lane, (part, copy))| {
                scope.spawn(move || match POOLS.get(lane) {
                    Some(pool) => pool.install(|| pass(copy, part)),
                    None => pass(copy, part),
                })
            })
            .collect();
        lanes
            .into_iter()
            .map(|lane| lane.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let mut grads = Grads::default();
    let mut results = Vec::with_capacity(done.len());
    for (part, result) in done {
        grads.merge(part);
        results.push(result);
    }
    (grads, results)
}

/// A copy whose trained parameters are leaves of a graph of their own: graphs that share a leaf share a lock.
fn leaves_of_its_own(decoder: &Decoder) -> Decoder {
    let mut copy = decoder.clone();
    copy.visit(&mut |_, mut slot| slot.set_trained(slot.is_trained()));
    copy
}
