//! Splitting work over threads: rows into tasks, and one output written by several tasks at disjoint places.
#![allow(
    unsafe_code,
    reason = "disjoint writes to one slice cannot be expressed by splitting it when they are strided"
)]

use std::cell::RefCell;
use std::marker::PhantomData;
use std::rc::Rc;

use rayon::ThreadPool;

use super::team::Team;

/// Says which pool a pass is to run on that begins now; `None` is that of the process.
type Choice = Rc<dyn Fn() -> Option<&'static ThreadPool>>;

thread_local! {
    static CHOICE: RefCell<Option<Choice>> = const { RefCell::new(None) };
}

/// Elements below which a second thread costs more than it saves.
const TASK_ELEMENTS: usize = 16 * 1024;

/// Rows per task so that each has at least [`TASK_ELEMENTS`], given the elements' `cost` of one row.
pub(crate) fn rows_per_task(cost: usize) -> usize {
    TASK_ELEMENTS.div_ceil(cost.max(1)).max(1)
}

/// Runs `task(i)` for `i` below `count`, on this thread if there is only one.
pub(crate) fn for_each(count: usize, task: impl Fn(usize) + Send + Sync) {
    use rayon::iter::{IntoParallelIterator, ParallelIterator};
    match count {
        0 => {}
        1 => task(0),
        _ => Team::led(|team| match team {
            Some(team) => team.run(count, &task),
            None => (0..count).into_par_iter().for_each(task),
        }),
    }
}

/// Runs work with many small kernels on a thread of the pool, whose other threads stay awake for them as far as they are free.
pub fn on_pool<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    let on_thread = || Team::lead(work);
    if rayon::current_thread_index().is_some() {
        return on_thread();
    }
    let choice = CHOICE.with_borrow(Clone::clone);
    match choice.and_then(|choose| choose()) {
        Some(pool) => pool.install(on_thread),
        None => rayon::scope(|_| on_thread()),
    }
}

/// Lets `choose` say, at the beginning of each pass ([`on_pool`]) that this thread begins in `work`, which pool it is to run on. A thread of a pool
/// stays on its own. No pass computes anything else for it.
pub fn choosing_pools<R>(
    choose: impl Fn() -> Option<&'static ThreadPool> + 'static,
    work: impl FnOnce() -> R,
) -> R {
    struct Restore(Option<Choice>);
    impl Drop for Restore {
        fn drop(&mut self) {
            CHOICE.set(self.0.take());
        }
    }
    let _restore = Restore(CHOICE.replace(Some(Rc::new(choose))));
    work()
}

/// A mutable slice of which several tasks write disjoint parts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shared<'a, T = f32> {
    start: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: a `Shared` only hands out memory through `slice`, whose caller promises that parts do not overlap.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    /// Takes over the slice for the lifetime of its borrow.
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), borrow: PhantomData }
    }

    /// Elements in all.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The part of `len` elements from `start`, checked against the slice's end.
    ///
    /// # Safety
    /// No other part that overlaps this one may be alive, and of an [`Output`] the part has been written.
    pub(crate) unsafe fn slice(&self, start: usize, len: usize) -> &'a mut [T] {
        assert!(
            start <= self.len && len <= self.len - start,
            "part {start}+{len} of a slice of {}",
            self.len
        );
        // SAFETY: within the slice by the assertion, not aliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }

    /// The address of an element, for kernels that write strided blocks.
    pub(crate) fn at(&self, index: usize) -> *mut T {
        debug_assert!(index <= self.len);
        self.start.wrapping_add(index)
    }
}

/// Memory for what a kernel gives, not cleared before: clearing it would be one more time over it.
#[derive(Debug)]
pub(crate) struct Output<T = f32> {
    values: Vec<T>,
    len: usize,
}

impl<T: Copy> Output<T> {
    /// Room for `len` elements.
    pub(crate) fn new(len: usize) -> Self {
        Self { values: Vec::with_capacity(len), len }
    }

    /// Where they are to be written.
    pub(crate) fn shared(&mut self) -> Shared<'_, T> {
        Shared { start: self.values.as_mut_ptr(), len: self.len, borrow: PhantomData }
    }

    /// The elements.
    ///
    /// # Safety
    /// Every one of them has been written.
    pub(crate) unsafe fn written(mut self) -> Vec<T> {
        // SAFETY: within the capacity, and written by the caller's promise.
        unsafe { self.values.set_len(self.len) };
        self.values
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::LazyLock;

    use super::*;

    static THREE: LazyLock<ThreadPool> =
        LazyLock::new(|| rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("threads"));

    #[test]
    fn passes_run_on_the_pool_that_is_chosen_as_each_begins() {
        let threads = || on_pool(rayon::current_num_threads);
        let usual = threads();
        let turn = Rc::new(Cell::new(false));
        let choose = {
            let turn = turn.clone();
            move || turn.get().then(|| &*THREE)
        };
        let seen = choosing_pools(choose, || {
            let before = threads();
            turn.set(true);
            let inner = choosing_pools(|| None, threads);
            // A pass within a pass stays where that is.
            [before, threads(), inner, on_pool(|| choosing_pools(|| None, threads))]
        });
        assert_eq!(seen, [usual, 3, usual, 3]);
        assert_eq!(threads(), usual, "the choice ends with its work");
    }
}
