//! A completion under way.

use generate::{Completion, End, Prompt, SampleAsk, Stream, TokenId};

/// A completion under way or ended, and where its chance comes from.
///
/// Row `i` of a search begins with the stream of sample `i` of a pool (see [`crate::pool_asks`]). The first continuation
/// of a beam goes on in the beam's own stream, which gives one number to each token; every other one gets a stream of its
/// own. A completion that is only ever its beam's first continuation is therefore sample `i` of the pool, bit for bit.
#[derive(Debug, Clone)]
pub(crate) struct Beam {
    pub(crate) ids: Vec<TokenId>,
    /// Set once it has ended.
    pub(crate) end: Option<End>,
    /// The row that it comes from.
    pub(crate) root: usize,
    /// The stream, and the length at which it began.
    stream: (Stream, usize),
}

impl Beam {
    /// Row `root` of a search.
    pub(crate) fn root(stream: Stream, root: usize) -> Self {
        Self { ids: Vec::new(), end: None, root, stream: (stream.child(root as u64), 0) }
    }

    /// The beam as its continuation number `child` begins.
    pub(crate) fn fork(&self, child: usize) -> Self {
        let mut fork = self.clone();
        if child > 0 {
            let label = (self.ids.len() as u64) << 32 | child as u64;
            fork.stream = (self.stream.0.child(label), self.ids.len());
        }
        fork
    }

    /// The stream of its next token.
    pub(crate) fn stream(&self) -> Stream {
        let (stream, since) = self.stream;
        stream.after(self.ids.len() - since)
    }

    /// The ask for at most `budget` more tokens.
    pub(crate) fn ask(&self, prompt: &Prompt, budget: usize) -> SampleAsk {
        SampleAsk {
            prefix: [&prompt.ids[..], &self.ids].concat(),
            prompt_len: prompt.ids.len(),
            budget,
            stream: self.stream(),
        }
    }

    /// Takes the answer to its ask, of completions of at most `horizon` tokens.
    pub(crate) fn extend(&mut self, new: &Completion, horizon: usize) {
        self.ids.extend(&new.ids);
        let over = new.finished() || self.ids.len() >= horizon;
        self.end = over.then_some(new.end);
    }
}
