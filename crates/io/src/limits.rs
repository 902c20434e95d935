//! Limits of the system that end a process without a word.

/// Makes a write beyond the limit of file sizes (`ulimit -f`) an error of that write, which names the file, instead of the end of the
/// process.
pub fn survive_file_size_limit() {
    #[cfg(unix)]
    {
        use std::sync::Arc;
        use std::sync::atomic::AtomicBool;
        // A signal that is taken is not acted on; the flag itself says nothing more than the error of the write. Where it cannot be
        // taken, all is as it was.
        let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::new(AtomicBool::new(false)));
    }
}
