//! The allocator of the programs.
//!
//! Tensors come and go at every operation, many of them of megabytes. An allocator that gives such memory back has the system clear
//! every page of it again at the next operation, which was up to a third of a training step.
#![allow(unsafe_code, reason = "a setting of the allocator is a call into C")]

pub use mimalloc::MiMalloc as Allocator;

/// The variable by which a user says for how many milliseconds freed memory is kept, -1 for always.
const VARIABLE: &str = "MIMALLOC_PURGE_DELAY";
/// `mi_option_purge_delay`, which the bindings do not name.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// How long freed memory is kept where the peak matters more than the time, in milliseconds.
const BRIEFLY: i64 = 1000;

/// Keeps freed memory for the next tensors until the process ends, unless the environment has `MIMALLOC_PURGE_DELAY`. Has an effect
/// in programs whose global allocator is [`Allocator`].
pub fn keep() {
    keep_for(-1);
}

/// Keeps freed memory for a second, unless the environment says otherwise: what lies in the heap of one thread is then there for another.
pub fn keep_briefly() {
    keep_for(BRIEFLY);
}

/// Gives freed memory back at once, unless the environment says otherwise: while models are loaded, what they were made of is not wanted again.
pub fn keep_nothing() {
    keep_for(0);
}

fn keep_for(milliseconds: i64) {
    if std::env::var_os(VARIABLE).is_none() {
        // SAFETY: mimalloc keeps its options in an array of its own; the index is one of them, and any time is allowed.
        unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, milliseconds as _) };
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[global_allocator]
    static ALLOCATOR: Allocator = Allocator;

    /// Pages that the system has given to this thread so far.
    #[allow(clippy::disallowed_methods, reason = "a test of this crate alone; the path is in the message")]
    fn faults() -> u64 {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").expect("/proc/thread-self/stat");
        let after_name = stat.rsplit(") ").next().expect("fields");
        after_name.split(' ').nth(7).expect("minor faults").parse().expect("a number")
    }

    #[test]
    fn freed_memory_is_used_again_without_the_system() {
        const BYTES: usize = 64 << 20;
        keep();
        let use_some = || {
            let mut memory = vec![0_u8; BYTES];
            memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
            std::hint::black_box(&memory);
        };
        use_some();
        let before = faults();
        for _ in 0..20 {
            use_some();
        }
        let pages = faults() - before;
        assert!(pages < 20 * 10, "{pages} pages came from the system, twenty times over the same memory");
    }
}
