//! How completions ended: many that are empty or cut off say that the prompt's format or the limit is wrong.

use generate::{End, TokenId};

/// Counts of how completions ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Endings {
    /// Completions.
    pub total: usize,
    /// Those without a token beside the one that ends them.
    pub empty: usize,
    /// Those that were cut at the limit of new tokens.
    pub cut: usize,
}

impl Endings {
    /// Counts some completions, each with its tokens, the end-of-sequence token included.
    pub fn of<'a>(completions: impl IntoIterator<Item = (&'a [TokenId], End)>) -> Self {
        let mut endings = Self::default();
        for (ids, end) in completions {
            endings.total += 1;
            endings.empty += usize::from(ids.len() <= usize::from(end == End::Eos));
            endings.cut += usize::from(end == End::Budget);
        }
        endings
    }

    /// What is wrong where most completions are empty or cut off. `template` says whether the model has a
    /// chat template that
    /// the prompts are not put in.
    pub fn warning(&self, max_new_tokens: usize, template: bool) -> Option<String> {
        let most = |count: usize| 2 * count > self.total;
        let Self { total, empty, cut } = *self;
        if most(empty) {
            let hint = if template {
                "the model has a chat template and the prompts are plain text: set data.chat = true, or leave it out"
            } else {
                "check the format of the prompts: what the model was trained on, and whether they end with white space"
            };
            return Some(format!(
                "WARNING: {empty} of {total} completions are empty: the model ended at once\n  hint: {hint}"
            ));
        }
        most(cut).then(|| {
            format!(
                "WARNING: {cut} of {total} completions were cut at {max_new_tokens} new tokens\n  hint: raise sampling.max_new_tokens, or set sampling.stop"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_that_are_empty_or_cut_are_told() {
        let of = |ends: &[(usize, End)]| {
            let ids: Vec<Vec<TokenId>> = ends.iter().map(|(count, _)| vec![0; *count]).collect();
            Endings::of(ids.iter().zip(ends).map(|(ids, (_, end))| (&ids[..], *end)))
        };
        let fine = of(&[(4, End::Eos), (1, End::Eos), (9, End::Budget), (3, End::Stop)]);
        assert_eq!(fine, Endings { total: 4, empty: 1, cut: 1 });
        assert_eq!(fine.warning(9, true), None);
        let empty = of(&[(1, End::Eos), (0, End::Stop), (5, End::Eos)]).warning(9, true).unwrap();
        assert!(
            empty.contains("2 of 3 completions are empty") && empty.contains("data.chat = true"),
            "{empty}"
        );
        let cut = of(&[(9, End::Budget)]).warning(9, false).unwrap();
        assert!(cut.contains("1 of 1 completions were cut at 9 new tokens"), "{cut}");
        assert_eq!(Endings::default().warning(9, true), None);
    }
}
