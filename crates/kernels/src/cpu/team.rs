//! Threads that stay together for a pass of many small kernels.
//!
//! A decode step is some three hundred kernels of ten to a hundred microseconds. Handing each over to sleeping threads costs as
//! much as many of them take, so that helpers wait awake between the kernels of one pass, and for nothing else: the leader
//! publishes a kernel's tasks, each thread takes those of its own part of them and then what others have left.
//!
//! The leader never waits for a helper that has not taken a task. A pass on a busy pool therefore goes on alone, and two
//! passes at once cannot wait for each other.
#![allow(unsafe_code, reason = "helpers run a closure on the leader's stack")]

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Looks for work before a waiting helper lets other threads run: about a tenth of a millisecond.
const PATIENCE: u32 = 4096;

thread_local! {
    /// The team that this thread leads, while it is not in a task.
    static LED: Cell<Option<NonNull<Team>>> = const { Cell::new(None) };
}

/// A thread's part of the tasks: those below `end` in the upper half of the word, the next one in the lower half. Alone on its
/// cache lines.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Part(AtomicU64);

impl Part {
    /// Takes a task. A word is whole: whoever gets a task below its end has one of the kernel that was published with it.
    fn take(&self) -> Option<usize> {
        let halves = |word: u64| ((word >> 32) as u32, word as u32);
        let (end, next) = halves(self.0.load(Ordering::Relaxed));
        if next >= end {
            return None;
        }
        let (end, next) = halves(self.0.fetch_add(1, Ordering::Acquire));
        (next < end).then_some(next as usize)
    }
}

/// A task of a kernel, by its number.
type Task<'t> = dyn Fn(usize) + Sync + 't;

/// A leader and its helpers.
pub(super) struct Team {
    parts: Box<[Part]>,
    /// The kernel that tasks belong to. Written by the leader while no task is out.
    task: UnsafeCell<Option<NonNull<Task<'static>>>>,
    /// Tasks of the kernel that ended.
    ended: AtomicUsize,
    /// No kernel will follow.
    over: AtomicBool,
    /// What a task panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `task` is written by the leader alone, before it publishes tasks (release) and after all of those before have ended
// (acquire on `ended`); others read it only between taking a task (acquire) and ending it (release).
unsafe impl Sync for Team {}

/// Ends the team however the leader's work ends.
struct Lead<'t> {
    team: &'t Team,
    before: Option<NonNull<Team>>,
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        LED.set(self.before);
        self.team.over.store(true, Ordering::Release);
    }
}

impl Team {
    /// The team that this thread leads now.
    pub(super) fn led<R>(with: impl FnOnce(Option<&Self>) -> R) -> R {
        // SAFETY: `lead` takes the pointer back before its team ends, and the team is not moved meanwhile.
        with(LED.get().map(|team| unsafe { team.as_ref() }))
    }

    /// Runs `work` on this thread of the pool, with the pool's other threads as helpers as far as they are free.
    pub(super) fn lead<R>(work: impl FnOnce() -> R) -> R {
        let threads = rayon::current_num_threads();
        if threads == 1 || LED.get().is_some() {
            return work();
        }
        let team = Self {
            parts: (0..threads).map(|_| Part::default()).collect(),
            task: UnsafeCell::new(None),
            ended: AtomicUsize::new(0),
            over: AtomicBool::new(false),
            panic: Mutex::new(None),
        };
        rayon::in_place_scope(|scope| {
            for own in 1..threads {
                let team = &team;
                scope.spawn(move |_| team.help(own));
            }
            let _lead = Lead { team: &team, before: LED.replace(Some(NonNull::from(&team))) };
            work()
        })
    }

    /// Runs `task(i)` for `i` below `count` and returns when all have ended.
    pub(super) fn run(&self, count: usize, task: &Task<'_>) {
        let count = u32::try_from(count).expect("fewer than 2^32 tasks");
        // SAFETY: only the lifetime changes; nobody holds the pointer when this function returns.
        let lasting =
            unsafe { std::mem::transmute::<NonNull<Task<'_>>, NonNull<Task<'static>>>(NonNull::from(task)) };
        // SAFETY: no task is out: all of the kernel before have ended.
        unsafe { *self.task.get() = Some(lasting) };
        self.ended.store(0, Ordering::Relaxed);
        let threads = self.parts.len() as u64;
        for (index, part) in (0_u64..).zip(&self.parts) {
            let bound = |index: u64| index * u64::from(count) / threads;
            part.0.store(bound(index + 1) << 32 | bound(index), Ordering::Release);
        }
        // A task that starts kernels of its own does so without the team, which has its hands full.
        let led = LED.take();
        while self.take(0) {}
        let mut waited = 0;
        while self.ended.load(Ordering::Acquire) < count as usize {
            wait(&mut waited);
        }
        LED.set(led);
        if let Some(panic) = self.panic.lock().unwrap_or_else(PoisonError::into_inner).take() {
            resume_unwind(panic);
        }
    }

    /// Runs one task, of its own part or of another's. Whether there was one.
    fn take(&self, own: usize) -> bool {
        let mut parts = self.parts[own..].iter().chain(&self.parts[..own]);
        let Some(index) = parts.find_map(Part::take) else { return false };
        // SAFETY: the kernel of a task that has not ended is in place, and its closure alive: the leader waits for it.
        let task = unsafe { (*self.task.get()).expect("a kernel whose tasks are published").as_ref() };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| task(index))) {
            self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
        }
        self.ended.fetch_add(1, Ordering::Release);
        true
    }

    /// Runs tasks until the pass is over.
    fn help(&self, own: usize) {
        let mut waited = 0;
        while !self.over.load(Ordering::Acquire) {
            if self.take(own) {
                waited = 0;
            } else {
                wait(&mut waited);
            }
        }
    }
}

fn wait(waited: &mut u32) {
    *waited += 1;
    if *waited < PATIENCE {
        std::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::super::parallel::{for_each, on_pool};
    use super::*;

    #[test]
    fn every_task_runs_once_in_many_kernels_of_many_passes_at_a_time() {
        // More passes than threads, so that helpers of some never come.
        std::thread::scope(|scope| {
            for pass in 0..5 {
                scope.spawn(move || {
                    on_pool(|| {
                        for kernel in 0..400 {
                            let count = (kernel * 7 + pass) % 23;
                            let seen: Vec<AtomicU32> = (0..count).map(|_| AtomicU32::new(0)).collect();
                            for_each(count, |task| {
                                seen[task].fetch_add(1, Ordering::Relaxed);
                            });
                            assert!(seen.iter().all(|seen| seen.load(Ordering::Relaxed) == 1));
                        }
                    });
                });
            }
        });
    }

    #[test]
    fn a_task_may_start_tasks() {
        let sum = AtomicU32::new(0);
        let add = |inner: usize| {
            sum.fetch_add(inner as u32, Ordering::Relaxed);
        };
        on_pool(|| for_each(5, |_| for_each(6, add)));
        assert_eq!(sum.into_inner(), 5 * 15);
    }

    #[test]
    fn a_panic_in_a_task_is_the_leaders_and_the_next_pass_is_whole() {
        let panicked = catch_unwind(|| {
            on_pool(|| for_each(8, |task| assert!(task != 3, "task three")));
        });
        let message = panicked.expect_err("task three panics");
        assert_eq!(message.downcast_ref::<&str>(), Some(&"task three"));
        let sum = AtomicU32::new(0);
        let add = |task: usize| {
            sum.fetch_add(task as u32, Ordering::Relaxed);
        };
        on_pool(|| for_each(8, add));
        assert_eq!(sum.into_inner(), 28);
    }
}
