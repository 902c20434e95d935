//! Tokenizers in Hugging Face's format: loading a directory, encoding with offsets, decoding, streaming, training.
//!
//! A [`Tokenizer`] never truncates, pads or adds special tokens behind the caller's back: whatever `tokenizer.json`
//! says about truncation and padding is switched off, and special tokens are added only where `add_special` asks.

mod bpe;
mod error;
mod files;
mod slow;
mod special;
mod stream;

pub use bpe::{BpeOptions, train_bpe};
pub use error::TokenizerError;
pub use special::{SpecialToken, SpecialTokens};
pub use stream::Stream;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

use files::Files;

use crate::caught::caught;
use tokenizers::{PostProcessor as _, TruncationDirection};

/// The ids of a text and where each token lies in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids.
    pub ids: Vec<u32>,
    /// For each token its place in the text: bytes or Unicode scalar values, whichever was asked for. Several tokens
    /// that share one character all have that character's place; a token that stands for no text has an empty one.
    pub offsets: Vec<Range<usize>>,
}

/// An end of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Where it begins.
    Start,
    /// Where it ends.
    End,
}

/// A tokenizer with its special tokens and, where it has one, its chat template.
///
/// Loaded with [`Tokenizer::from_dir`], trained with [`train_bpe`], written with [`Tokenizer::save`].
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    files: Files,
    special: SpecialTokens,
    special_ids: BTreeSet<u32>,
    stop_ids: Vec<u32>,
    adds_bos: bool,
    /// Whether a mark, as SentencePiece's `▁`, is put before every text.
    marks_start: bool,
    /// Bytes of the longest token as the vocabulary spells it.
    longest: usize,
    template: Option<String>,
    hash: String,
}

impl Tokenizer {
    /// Loads `tokenizer.json` and, where present, `tokenizer_config.json`, `special_tokens_map.json`,
    /// `chat_template.jinja` (which wins over the config's own entry) and the end-of-text ids of
    /// `generation_config.json`.
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<Self, TokenizerError> {
        let dir = dir.as_ref();
        let files = Files::read(dir).map_err(|error| error.within(dir))?;
        Self::from_files(files).map_err(|error| error.within(dir))
    }

    /// Whether a directory holds a tokenizer that [`from_dir`](Self::from_dir) reads.
    pub fn is_in(dir: impl AsRef<Path>) -> bool {
        Files::are_in(dir.as_ref())
    }

    /// Writes the files this tokenizer was made from, byte for byte, into `dir`, which is created if absent.
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<(), TokenizerError> {
        self.files.write(dir.as_ref())
    }

    /// The files this tokenizer was made from, by name.
    pub fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.files.entries()
    }

    fn from_files(files: Files) -> Result<Self, TokenizerError> {
        let mut inner = files.tokenizer()?;
        let config = files.json("tokenizer_config.json")?;
        special::add_missing_tokens(&mut inner, &config)?;
        let ends = special::ends(&files.json("generation_config.json")?)?;
        let special = SpecialTokens::find(&inner, &config, &files.json("special_tokens_map.json")?, &ends)?;
        let special_ids = special::special_ids(&inner);
        let stop_ids: BTreeSet<u32> = special.eos.iter().map(|token| token.id).chain(ends).collect();
        let stop_ids = stop_ids.into_iter().collect();
        let template = files.template(&config)?;
        let hash = files.hash(&inner)?;
        let encode = |text: &str, special| {
            let found = caught(|| inner.encode_fast(text, special));
            let found = found.map_err(|message| {
                TokenizerError::file(
                    "tokenizer.json",
                    format!("the tokenizers library fails to encode by it: {message}"),
                )
            })?;
            found.map_err(|source| TokenizerError::encode(text, &source))
        };
        let empty = encode("", true)?;
        let adds_bos = special.bos.as_ref().is_some_and(|bos| empty.get_ids().first() == Some(&bos.id));
        let one = encode("a", false)?;
        let first = one.get_ids().first().and_then(|id| inner.id_to_token(*id)).unwrap_or_default();
        let marks_start = first.starts_with(['▁', 'Ġ']);
        let longest = inner.get_vocab(true).keys().map(String::len).max().unwrap_or_default();
        Ok(Self {
            inner,
            files,
            special,
            special_ids,
            stop_ids,
            adds_bos,
            marks_start,
            longest,
            template,
            hash,
        })
    }

    /// The ids of `text`. With `add_special`, also what the tokenizer's post-processor adds (often a BOS).
    ///
    /// Text that looks like a special token is encoded as that token.
    ///
    /// # Errors
    /// [`TokenizerError::DoubleBos`] where `add_special` would put a second BOS before a text that begins with one.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, TokenizerError> {
        self.check_bos(text, add_special)?;
        let encoding = guarded(text, || self.inner.encode_fast(text, add_special))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The ids of `text` as it stands after other text: without the mark that SentencePiece and its like put
    /// before every
    /// text they encode.
    pub fn encode_inside(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        if self.marks_start {
            for anchor in ["\n", ":", "x"] {
                let before = self.encode(anchor, false)?;
                if let Some(rest) = self.encode(&format!("{anchor}{text}"), false)?.strip_prefix(&before[..])
                {
                    return Ok(rest.to_vec());
                }
            }
        }
        self.encode(text, false)
    }

    /// Bytes of the longest token as the vocabulary spells it, which no token's text has more of.
    pub fn longest_token(&self) -> usize {
        self.longest
    }

    /// The ids of `text`, cut to at most `max` tokens by dropping the rest on the other side of `keep`; and how many
    /// were dropped. What the post-processor adds is never cut.
    pub fn encode_within(
        &self,
        text: &str,
        add_special: bool,
        max: usize,
        keep: Side,
    ) -> Result<(Vec<u32>, usize), TokenizerError> {
        self.check_bos(text, add_special)?;
        let mut encoding = guarded(text, || self.inner.encode(text, false))?;
        let added = match self.inner.get_post_processor() {
            Some(processor) if add_special => processor.added_tokens(false),
            _ => 0,
        };
        let length = encoding.len();
        let direction = match keep {
            Side::Start => TruncationDirection::Right,
            Side::End => TruncationDirection::Left,
        };
        encoding.truncate(max.saturating_sub(added), 0, direction);
        let dropped = length - encoding.len();
        let encoding = guarded(text, || self.inner.post_process(encoding, None, add_special))?;
        Ok((encoding.get_ids().to_vec(), dropped))
    }

    /// The ids of `text` with each token's place in bytes.
    pub fn encode_bytes(&self, text: &str, add_special: bool) -> Result<Encoded, TokenizerError> {
        self.check_bos(text, add_special)?;
        guarded(text, || self.inner.encode(text, add_special)).map(|encoding| encoded(&encoding))
    }

    /// The ids of `text` with each token's place in Unicode scalar values.
    pub fn encode_chars(&self, text: &str, add_special: bool) -> Result<Encoded, TokenizerError> {
        self.check_bos(text, add_special)?;
        guarded(text, || self.inner.encode_char_offsets(text, add_special)).map(|encoding| encoded(&encoding))
    }

    /// The text of `ids`, without special tokens if `skip_special`. Bytes that form no character become U+FFFD; ids
    /// beyond the vocabulary (a model's padding rows) stand for no text.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        let fail = |detail: String| TokenizerError::Decode { detail };
        let panicked = |message| fail(format!("the tokenizers library fails by tokenizer.json: {message}"));
        caught(|| self.inner.decode(ids, skip_special))
            .map_err(panicked)?
            .map_err(|source| fail(source.to_string()))
    }

    /// A decoder for ids that arrive one by one.
    pub fn stream(&self, skip_special: bool) -> Stream<'_> {
        Stream::new(self, skip_special)
    }

    /// The number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// One more than the largest id: the least number of rows an embedding must have. Differs from
    /// [`vocab_size`](Self::vocab_size) where ids have holes.
    pub fn id_bound(&self) -> usize {
        self.inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1)
    }

    /// The token's text as the vocabulary spells it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The id of a token spelt as in the vocabulary.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// BOS, EOS, padding and unknown token.
    pub fn special(&self) -> &SpecialTokens {
        &self.special
    }

    /// Whether `id` is one of the special tokens, which `skip_special` leaves out.
    pub fn is_special(&self, id: u32) -> bool {
        self.special_ids.contains(&id)
    }

    /// Ids that end a generation: the EOS and those listed in `generation_config.json`; ascending.
    pub fn stop_ids(&self) -> &[u32] {
        &self.stop_ids
    }

    /// The id to pad with: the padding token, else the EOS, else 0. Losses and attention go by masks, never by this id.
    pub fn pad_id(&self) -> u32 {
        self.special.pad.as_ref().or(self.special.eos.as_ref()).map_or(0, |token| token.id)
    }

    /// Whether the post-processor puts a BOS in front of a text (where `add_special` asks for it).
    pub fn adds_bos(&self) -> bool {
        self.adds_bos
    }

    /// Source of the chat template, if there is one.
    pub fn chat_template(&self) -> Option<&str> {
        self.template.as_deref()
    }

    /// What templates see of the special tokens: `bos_token`, `eos_token`, `pad_token`, `unk_token`, those that are set.
    pub fn template_variables(&self) -> BTreeMap<String, String> {
        self.special.named().map(|(name, token)| (name.to_owned(), token.text.clone())).collect()
    }

    /// Identity of the mapping between text and ids: BLAKE3 (hex) of the vocabulary and the merges in a canonical order.
    /// Two models whose tokenizers agree in it can exchange token ids.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// A copy whose chat template is `source`, also in the files that [`save`](Self::save) writes.
    #[must_use]
    pub fn with_chat_template(mut self, source: &str) -> Self {
        self.files.set_template(source);
        self.template = Some(source.to_owned());
        self
    }

    /// A copy that pads with `token`, also in the files that [`save`](Self::save) writes. A token that is not
    /// of the vocabulary changes
    /// nothing.
    ///
    /// # Errors
    /// A file is damaged.
    pub fn with_pad(mut self, token: &str) -> Result<Self, TokenizerError> {
        let Some(id) = self.id(token) else { return Ok(self) };
        for name in ["tokenizer_config.json", "special_tokens_map.json"] {
            self.files.set_field(name, "pad_token", token)?;
        }
        self.special.pad = Some(SpecialToken { text: token.to_owned(), id });
        Ok(self)
    }

    /// A token to pad with that no text ends with: the padding token, unless it ends texts too, else the
    /// unknown token, else another
    /// special token that neither ends a generation nor stands in the chat template.
    pub fn pad_beside_ends(&self) -> Option<SpecialToken> {
        let template = self.template.as_deref().unwrap_or_default();
        let fits =
            |token: &SpecialToken| !self.stop_ids.contains(&token.id) && !template.contains(&token.text);
        let others =
            self.special_ids.iter().filter_map(|id| Some(SpecialToken { text: self.token(*id)?, id: *id }));
        self.special.pad.clone().into_iter().chain(self.special.unk.clone()).chain(others).find(fits)
    }

    fn check_bos(&self, text: &str, add_special: bool) -> Result<(), TokenizerError> {
        match &self.special.bos {
            Some(bos) if add_special && self.adds_bos && text.starts_with(&bos.text) => {
                Err(TokenizerError::DoubleBos { bos: bos.text.clone() })
            }
            _ => Ok(()),
        }
    }
}

/// Runs a function of the library on a text; a panic in it, as files of a model may cause, is an error too.
fn guarded<T>(text: &str, run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, TokenizerError> {
    match caught(run) {
        Ok(result) => result.map_err(|source| TokenizerError::encode(text, &source)),
        Err(message) => {
            let source = format!("the tokenizers library fails by tokenizer.json: {message}").into();
            Err(TokenizerError::encode(text, &source))
        }
    }
}

fn encoded(encoding: &tokenizers::Encoding) -> Encoded {
    Encoded {
        ids: encoding.get_ids().to_vec(),
        offsets: encoding.get_offsets().iter().map(|&(start, end)| start..end).collect(),
    }
}
