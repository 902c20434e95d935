//! Which instruction set the kernels run on, found out once at run time.

use std::sync::OnceLock;

/// An instruction set a kernel has a path for. All paths give the same bits, but for dot products of bf16 ([`Isa::of_dots`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isa {
    /// 512-bit vectors with fused multiply-add.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// 256-bit vectors with fused multiply-add.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Whatever the compiler makes of plain loops and [`f32::mul_add`].
    Portable,
}

impl Isa {
    /// The instruction sets this machine can run, the best first.
    pub(crate) fn available() -> &'static [Self] {
        static AVAILABLE: OnceLock<Vec<Isa>> = OnceLock::new();
        AVAILABLE.get_or_init(|| {
            let mut all = Vec::new();
            #[cfg(target_arch = "x86_64")]
            {
                let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
                let avx512 = is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl");
                if avx2 && avx512 {
                    all.push(Self::Avx512);
                }
                if avx2 {
                    all.push(Self::Avx2);
                }
            }
            all.push(Self::Portable);
            all
        })
    }

    /// The instruction set to use now.
    pub(crate) fn current() -> Self {
        #[cfg(test)]
        if let Some(&isa) = Self::available().get(forced::INDEX.load(std::sync::atomic::Ordering::SeqCst)) {
            return isa;
        }
        Self::available()[0]
    }

    /// The instruction set for dot products of pairs in bf16, where the processor has them and is fast at them: weights in bf16 are then multiplied with
    /// a left operand in bf16, and have bits of their own.
    pub(crate) fn of_dots() -> Option<Self> {
        let isa = Self::current();
        #[cfg(target_arch = "x86_64")]
        let there = isa == Self::Avx512 && is_x86_feature_detected!("avx512bf16");
        #[cfg(not(target_arch = "x86_64"))]
        let there = false;
        #[cfg(test)]
        if let Some(wanted) = forced::DOTS.get() {
            return wanted.then_some(if there { isa } else { Self::Portable });
        }
        #[cfg(target_arch = "x86_64")]
        #[allow(unsafe_code, reason = "calls code compiled for an instruction set")]
        // SAFETY: they are measured only where the processor reports them.
        let there = there && unsafe { super::dots::are_worth_it() };
        there.then_some(isa)
    }
}

/// Compiles a function's body once per instruction set and calls the best one.
///
/// The body is plain Rust: the compiler vectorises it for each set. It neither reorders floating-point sums nor fuses
/// what is not written as [`f32::mul_add`], so all versions give the same bits. Helpers it calls must be
/// `#[inline(always)]`, or they are compiled without the instruction set.
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident$(<$kind:ident: $bound:ident>)?($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name$(<$kind: $bound>)?($($arg: $ty),*) $(-> $ret)? {
            #[allow(clippy::inline_always, clippy::too_many_arguments, reason = "compiled into each version")]
            #[inline(always)]
            fn body$(<$kind: $bound>)?($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[allow(clippy::too_many_arguments, reason = "the kernel's own")]
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512$(<$kind: $bound>)?($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                #[allow(clippy::too_many_arguments, reason = "the kernel's own")]
                #[target_feature(enable = "avx2,fma")]
                fn avx2$(<$kind: $bound>)?($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }

                #[allow(unsafe_code, reason = "calls code compiled for an instruction set")]
                match $crate::cpu::isa::Isa::current() {
                    // SAFETY: `Isa::current` returns a set only where the processor reports its features.
                    $crate::cpu::isa::Isa::Avx512 => unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    $crate::cpu::isa::Isa::Avx2 => unsafe { avx2($($arg),*) },
                    $crate::cpu::isa::Isa::Portable => body($($arg),*),
                }
            }
            #[cfg(not(target_arch = "x86_64"))]
            body($($arg),*)
        }
    };
}
pub(crate) use multiversion;

/// Runs a closure once per available instruction set, for tests that compare their bits.
#[cfg(test)]
pub(crate) mod forced {
    use super::Isa;
    use std::cell::Cell;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    thread_local! {
        /// Whether products that this thread begins are dot products of bf16, on any processor; `None`: as it has them.
        pub(super) static DOTS: Cell<Option<bool>> = const { Cell::new(None) };
    }

    /// The closure's result with or without dot products of bf16 in the products that this thread begins.
    pub(crate) fn with_dots<T>(dots: bool, run: impl FnOnce() -> T) -> T {
        DOTS.set(Some(dots));
        let result = run();
        DOTS.set(None);
        result
    }

    pub(super) static INDEX: AtomicUsize = AtomicUsize::new(usize::MAX);
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

    /// The closure's result on every instruction set. Other tests running meanwhile may land on the forced one, which
    /// is sound because all are available and give the same bits.
    pub(crate) fn on_each<T>(mut run: impl FnMut() -> T) -> Vec<(Isa, T)> {
        let guard = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let results = Isa::available()
            .iter()
            .enumerate()
            .map(|(index, &isa)| {
                INDEX.store(index, Ordering::SeqCst);
                (isa, run())
            })
            .collect();
        INDEX.store(usize::MAX, Ordering::SeqCst);
        drop(guard);
        results
    }

    /// Asserts that the closure gives the same bits on every instruction set, and returns them.
    pub(crate) fn same_bits(run: impl FnMut() -> Vec<f32>) -> Vec<f32> {
        let mut results = on_each(run);
        let (first, expected) = results.remove(0);
        for (isa, actual) in results {
            super::super::math::assert_bits(&format!("{isa:?} against {first:?}"), &actual, &expected);
        }
        expected
    }
}
