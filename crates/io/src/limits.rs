//! Limits of the system that end a process without a word, and what the environment asks for.

/// The most threads.
pub const THREADS: usize = 1024;

/// Refuses a number of threads that nobody means, where the environment gives one: all of them would be made.
///
/// # Errors
/// What is wrong, and what to do.
pub fn check_threads_of_environment() -> Result<(), String> {
    match std::env::var("RAYON_NUM_THREADS") {
        Ok(text) => check_threads(&text),
        Err(_) => Ok(()),
    }
}

fn check_threads(text: &str) -> Result<(), String> {
    match text.trim().parse::<u64>() {
        Ok(threads) if threads > THREADS as u64 => Err(format!(
            "RAYON_NUM_THREADS = {threads}: must be at most {THREADS}\n  hint: leave it out to use all processors"
        )),
        _ => Ok(()),
    }
}

/// Makes a write beyond the limit of file sizes (`ulimit -f`) an error of that write, which names the file,
/// instead of the end of the
/// process.
pub fn survive_file_size_limit() {
    #[cfg(unix)]
    {
        use std::sync::Arc;
        use std::sync::atomic::AtomicBool;
        // A signal that is taken is not acted on; the flag itself says nothing more than the error of the
        // write. Where it cannot be
        // taken, all is as it was.
        let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::new(AtomicBool::new(false)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_threads_as_nobody_has_are_refused() {
        for text in ["", "0", "64", "1024", "many"] {
            assert!(check_threads(text).is_ok(), "{text}");
        }
        assert!(check_threads("100000").expect_err("too many").contains("at most 1024"));
    }
}
