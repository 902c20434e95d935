//! How much an engine runs and keeps at once.

/// Limits of the engine.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most rows that run at once.
    pub rows: usize,
    /// Most prefix tokens filled in one pass.
    pub prefill_tokens: usize,
    /// Most tokens kept in the cache for reuse, per source; never more than 1 GiB of all sources together.
    pub kept_tokens: usize,
    /// Most bytes of cached keys and values, a quarter of them for what is kept for reuse. Rows that would need more wait; one
    /// row always runs.
    pub memory: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { rows: 64, prefill_tokens: 4096, kept_tokens: usize::MAX, memory: None }
    }
}

impl Limits {
    /// What is kept of tokens whose size is not known: some hundred rows.
    pub const FEW: usize = 16_384;

    /// What is kept at most of a token's `bytes` in all sources; where nothing is known of its size, some hundred rows.
    pub(super) fn kept(self, bytes: u64) -> usize {
        const BYTES: u64 = 1 << 30;
        let room = |bytes_in_all: u64| usize::try_from(bytes_in_all / bytes.max(1)).unwrap_or(usize::MAX);
        let most = if bytes == 0 { Self::FEW } else { room(BYTES) };
        let within = self.memory.map_or(usize::MAX, |memory| room(memory / 4));
        self.kept_tokens.min(most).min(within)
    }
}
