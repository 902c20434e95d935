//! Training a small byte-level BPE.

use serde_json::json;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{AddedToken, PreTokenizerWrapper};

use super::files::Files;
use super::{Tokenizer, TokenizerError};

/// What [`train_bpe`] makes.
#[derive(Clone, Debug)]
pub struct BpeOptions {
    /// Number of tokens, the 256 bytes and the special tokens included; fewer where the texts hold no more pairs.
    pub vocab_size: usize,
    /// A pair is merged only if it occurs at least this often.
    pub min_frequency: u64,
    /// Special tokens; they get the ids 0, 1, … in this order.
    pub special: Vec<String>,
    /// Which of them ends a text.
    pub eos: String,
    /// Which of them pads a batch. It should differ from `eos`, so that padding can be told from an end.
    pub pad: String,
    /// Which of them begins a text, where one does. Named in the config; nothing is added to a text by itself.
    pub bos: Option<String>,
    /// Chat template to write beside the tokenizer.
    pub chat_template: Option<String>,
    /// The longest text the model is meant for, in tokens: `model_max_length` of the config.
    pub max_length: usize,
}

impl Default for BpeOptions {
    fn default() -> Self {
        Self {
            vocab_size: 1024,
            min_frequency: 2,
            special: vec!["<|endoftext|>".to_owned(), "<|pad|>".to_owned()],
            eos: "<|endoftext|>".to_owned(),
            pad: "<|pad|>".to_owned(),
            bos: None,
            chat_template: None,
            max_length: 1024,
        }
    }
}

impl BpeOptions {
    fn check(&self) -> Result<(), TokenizerError> {
        let fail = |detail: String| Err(TokenizerError::Train { detail });
        let least = 256 + self.special.len();
        if self.vocab_size < least {
            return fail(format!(
                "vocab_size is {}, but the 256 bytes and {} special tokens need {least}\nhint: raise vocab_size",
                self.vocab_size,
                self.special.len()
            ));
        }
        let roles = [("eos", Some(&self.eos)), ("pad", Some(&self.pad)), ("bos", self.bos.as_ref())];
        for (role, token) in roles {
            if let Some(token) = token
                && !self.special.contains(token)
            {
                return fail(format!(
                    "{role} is `{token}`, which is not among the special tokens {:?}\nhint: add it to them",
                    self.special
                ));
            }
        }
        Ok(())
    }
}

/// Trains a byte-level BPE in which every digit is a token of its own: digits are split off before merges are counted,
/// so that a number is always spelt one way and carries place value by position.
///
/// The same texts and options give the same tokenizer, bit for bit. [`Tokenizer::save`] writes a directory that
/// transformers' `AutoTokenizer` opens.
pub fn train_bpe<I, S>(texts: I, options: &BpeOptions) -> Result<Tokenizer, TokenizerError>
where
    I: IntoIterator<Item = S>,
    I::IntoIter: Send,
    S: AsRef<str> + Send,
{
    options.check()?;
    let fail = |source: tokenizers::Error| TokenizerError::Train { detail: source.to_string() };
    let split: Vec<PreTokenizerWrapper> =
        vec![Digits::new(true).into(), ByteLevel::new(false, false, true).into()];
    let mut tokenizer = tokenizers::Tokenizer::new(BPE::default());
    tokenizer
        .with_pre_tokenizer(Some(Sequence::new(split)))
        .with_post_processor(Some(ByteLevel::new(false, false, true)))
        .with_decoder(Some(ByteLevel::new(false, false, true)));
    let special: Vec<AddedToken> =
        options.special.iter().map(|token| AddedToken::from(token.as_str(), true)).collect();
    let mut trainer = tokenizers::models::TrainerWrapper::from(
        BpeTrainer::builder()
            .vocab_size(options.vocab_size)
            .min_frequency(options.min_frequency)
            .special_tokens(special)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .show_progress(false)
            .build(),
    );
    tokenizer.train(&mut trainer, texts.into_iter()).map_err(fail)?;
    let tokenizer_json = tokenizer.to_string(true).map_err(fail)?;

    let added: serde_json::Map<String, serde_json::Value> = options
        .special
        .iter()
        .enumerate()
        .map(|(id, token)| {
            let entry = json!({
                "content": token, "lstrip": false, "normalized": false, "rstrip": false, "single_word": false,
                "special": true,
            });
            (id.to_string(), entry)
        })
        .collect();
    let mut roles = serde_json::Map::new();
    if let Some(bos) = &options.bos {
        roles.insert("bos_token".to_owned(), json!(bos));
    }
    roles.insert("eos_token".to_owned(), json!(options.eos));
    roles.insert("pad_token".to_owned(), json!(options.pad));
    let mut config = serde_json::Map::from_iter([("added_tokens_decoder".to_owned(), json!(added))]);
    config.extend(roles.clone());
    config.insert("clean_up_tokenization_spaces".to_owned(), json!(false));
    config.insert("model_max_length".to_owned(), json!(options.max_length));
    config.insert("tokenizer_class".to_owned(), json!("PreTrainedTokenizerFast"));

    let text = |value: &serde_json::Map<String, serde_json::Value>| {
        serde_json::to_string_pretty(value)
            .map(|text| (text + "\n").into_bytes())
            .map_err(|source| TokenizerError::Train { detail: source.to_string() })
    };
    let mut files = vec![
        ("tokenizer.json".to_owned(), tokenizer_json.into_bytes()),
        ("tokenizer_config.json".to_owned(), text(&config)?),
        ("special_tokens_map.json".to_owned(), text(&roles)?),
    ];
    if let Some(template) = &options.chat_template {
        files.push(("chat_template.jinja".to_owned(), template.clone().into_bytes()));
    }
    Tokenizer::from_files(Files::new(files))
}
