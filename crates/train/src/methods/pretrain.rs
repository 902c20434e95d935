//! Pre-training of a small llama, on `wordmath`, whose problems are generated as they are needed, so that no row is seen twice,
//! or on rows of files, epoch after epoch. A tokenizer is trained first on the same texts.

use data::batch::Sampler;
use data::render::Example;
use data::tokenizer::{BpeOptions, Tokenizer, train_bpe};
use data::wordmath::{Config as Difficulty, Generator, Split, corpus};
use generate::{Purpose, Stream};
use inference::setup::{self, DataTable, Places};
use model::learn::{Row, log_probs};
use model::{Config, Decoder, Grads, Shape};
use recipe::{Optim, Rules, Validate, Violation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::checkpoint::Learner;
use crate::error::Error;
use crate::meters::Meters;
use crate::trainer::Task;

/// `[method.pretrain]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Pretrain {
    /// Number of tokens of the tokenizer, which is trained on the problems' or the rows' text.
    #[schemars(range(min = 300, max = 65536))]
    pub vocab_size: usize,
    /// Problems of `wordmath` whose text the tokenizer is trained on. Of files it is all rows.
    #[schemars(range(min = 100))]
    pub tokenizer_problems: u64,
    /// Width of the residual stream.
    #[schemars(range(min = 8))]
    pub hidden_size: usize,
    /// Width inside the feed-forward blocks.
    #[schemars(range(min = 8))]
    pub intermediate_size: usize,
    /// Number of layers.
    #[schemars(range(min = 1))]
    pub layers: usize,
    /// Number of heads.
    #[schemars(range(min = 1))]
    pub heads: usize,
    /// Number of key and value heads.
    #[schemars(range(min = 1))]
    pub kv_heads: usize,
    /// The most positions.
    #[schemars(range(min = 32))]
    pub context: usize,
    /// Learn the prompts' tokens too, with this weight of their loss (0: completions alone).
    #[schemars(range(min = 0, max = 1))]
    pub prompt_weight: f64,
}

impl Default for Pretrain {
    fn default() -> Self {
        Self {
            vocab_size: 768,
            tokenizer_problems: 20_000,
            hidden_size: 192,
            intermediate_size: 512,
            layers: 6,
            heads: 6,
            kv_heads: 3,
            context: 512,
            prompt_weight: 0.1,
        }
    }
}

impl Validate for Pretrain {
    fn validate(&self, rules: &mut Rules) {
        rules.check(&["heads", "hidden_size"], heads_divide(self));
        rules.check(&["kv_heads", "heads"], kv_heads_divide(self));
    }
}

fn heads_divide(pretrain: &Pretrain) -> Result<(), Violation> {
    let width = pretrain.hidden_size / pretrain.heads;
    if pretrain.hidden_size.is_multiple_of(pretrain.heads) && width.is_multiple_of(2) {
        return Ok(());
    }
    let message =
        format!("{} heads do not divide a width of {} into even parts", pretrain.heads, pretrain.hidden_size);
    Err(Violation::new(message).hint("choose `hidden_size` as a multiple of twice `heads`"))
}

fn kv_heads_divide(pretrain: &Pretrain) -> Result<(), Violation> {
    if pretrain.heads.is_multiple_of(pretrain.kv_heads) {
        return Ok(());
    }
    let message = format!("{} key and value heads do not divide {} heads", pretrain.kv_heads, pretrain.heads);
    Err(Violation::new(message).hint("choose `kv_heads` as a divisor of `heads`"))
}

impl Pretrain {
    /// A tokenizer for the source's text.
    pub fn tokenizer(&self, source: &Source) -> Result<Tokenizer, Error> {
        let options = BpeOptions { vocab_size: self.vocab_size, ..BpeOptions::default() };
        match source {
            Source::Wordmath(difficulty) => {
                let texts = corpus(difficulty.clone(), self.tokenizer_problems).map_err(Error::other)?;
                train_bpe(texts, &options)
            }
            Source::Rows { texts, .. } => {
                train_bpe(texts.iter().map(|(prompt, completion)| format!("{prompt}{completion}")), &options)
            }
        }
        .map_err(Error::other)
    }

    /// A decoder with random weights for this tokenizer.
    pub fn decoder(&self, tokenizer: &Tokenizer, seed: u64, device: &burn::tensor::Device) -> Decoder {
        let eos = tokenizer.stop_ids().first().copied().unwrap_or_default();
        let config = Config::llama(&Shape {
            // A multiple of 64 keeps the output matrix in whole panels.
            vocab_size: tokenizer.id_bound().next_multiple_of(64),
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_hidden_layers: self.layers,
            num_attention_heads: self.heads,
            num_key_value_heads: self.kv_heads,
            max_position_embeddings: self.context,
            eos,
            pad: tokenizer.pad_id(),
        });
        let mut stream = Stream::new(seed, Purpose::Init, 0, 0);
        Decoder::random(config, device, &mut || stream.normal())
    }
}

/// What is learned.
#[derive(Debug)]
pub enum Source {
    /// Problems of the generator, each seen once.
    Wordmath(Difficulty),
    /// Prompts and completions of files.
    Rows {
        /// What they are read from, for messages.
        name: String,
        /// The texts.
        texts: Vec<(String, String)>,
    },
}

impl Source {
    /// What a recipe's `[data]` names.
    pub fn of(data: &DataTable, places: &Places, seed: u64) -> Result<Self, Error> {
        Ok(match setup::texts(data, places, seed).map_err(Error::other)? {
            None => Self::Wordmath(data.wordmath.config(seed)),
            Some(texts) => Self::Rows { name: data.path.to_string(), texts },
        })
    }
}

/// Where a batch comes from.
#[derive(Debug)]
enum Rows {
    Generated(Generator),
    Read { examples: Vec<Example>, seed: u64 },
}

/// The task of pre-training.
#[derive(Debug)]
pub struct PretrainTask {
    settings: Pretrain,
    optim: Optim,
    rows: Rows,
    held_out: Vec<Example>,
}

impl PretrainTask {
    /// Trains on the generator's training split and measures on `held_out` problems of `test`; or trains on the rows but for
    /// the last `held_out`, and measures on those.
    ///
    /// # Errors
    /// Settings that the generator refuses; a row of more tokens than the context; fewer rows than are to be held out.
    pub fn new(
        settings: &Pretrain,
        optim: &Optim,
        source: &Source,
        held_out: usize,
        tokenizer: &Tokenizer,
        seed: u64,
    ) -> Result<Self, Error> {
        let (rows, held_out) = match source {
            Source::Wordmath(difficulty) => {
                let generator = Generator::new(difficulty.clone()).map_err(Error::other)?;
                let held_out = (0..held_out as u64)
                    .map(|index| example(&generator, Split::Test, index, tokenizer))
                    .collect::<Result<_, _>>()?;
                (Rows::Generated(generator), held_out)
            }
            Source::Rows { name, texts } => {
                let refuse = |message: String| Error::Data { what: name.clone(), message };
                let mut examples = texts
                    .iter()
                    .map(|(prompt, completion)| join(prompt, completion, tokenizer))
                    .collect::<Result<Vec<_>, _>>()?;
                if let Some(long) = examples.iter().position(|example| example.len() > settings.context) {
                    return Err(refuse(format!(
                        "row {} has {} tokens, more than the context of {}\n  hint: raise method.pretrain.context",
                        long + 1,
                        examples[long].len(),
                        settings.context
                    )));
                }
                if held_out >= examples.len() {
                    return Err(refuse(format!(
                        "{} rows, of which {held_out} are to be held out\n  hint: lower data.held_out",
                        examples.len()
                    )));
                }
                let held = examples.split_off(examples.len() - held_out);
                (Rows::Read { examples, seed }, held)
            }
        };
        Ok(Self { settings: settings.clone(), optim: optim.clone(), rows, held_out })
    }

    fn batch(&self, step: usize, tokenizer: &Tokenizer) -> Result<Vec<Example>, Error> {
        let start = (step * self.optim.batch_size) as u64;
        match &self.rows {
            Rows::Generated(generator) => (start..start + self.optim.batch_size as u64)
                .map(|index| example(generator, Split::Train, index, tokenizer))
                .collect(),
            Rows::Read { examples, seed } => {
                let mut sampler = Sampler::resume(*seed, examples.len(), start);
                Ok(sampler.take(self.optim.batch_size).into_iter().map(|row| examples[row].clone()).collect())
            }
        }
    }
}

fn example(generator: &Generator, split: Split, index: u64, tokenizer: &Tokenizer) -> Result<Example, Error> {
    let problem = generator.problem(split, index);
    join(&problem.prompt(), &problem.completion(), tokenizer)
}

fn join(prompt: &str, completion: &str, tokenizer: &Tokenizer) -> Result<Example, Error> {
    let prompt = tokenizer.encode(prompt, false).map_err(Error::other)?;
    let mut completion = tokenizer.encode(completion, false).map_err(Error::other)?;
    completion.extend(tokenizer.stop_ids().first());
    Ok(Example::join(&prompt, &completion))
}

impl Task for PretrainTask {
    fn total_steps(&self) -> usize {
        match &self.rows {
            Rows::Generated(_) => self.optim.steps.unwrap_or(1),
            Rows::Read { examples, .. } => self.optim.total_steps(examples.len()),
        }
    }

    fn gradient(
        &mut self,
        learner: &mut Learner,
        step: usize,
        meters: &mut Meters,
    ) -> Result<(Grads, u64), Error> {
        let mut examples = self.batch(step, &learner.tokenizer)?;
        // Rows of like length together: a micro-batch is padded to its longest.
        examples.sort_by_key(Example::len);
        let weight = self.settings.prompt_weight;
        let total: f64 = examples.iter().map(|e| e.loss_tokens() as f64).sum();
        let mut grads = Grads::default();
        let mut tokens = 0;
        for micro in examples.chunks(self.optim.micro_batch()) {
            let all: Vec<Vec<bool>> = micro
                .iter()
                .map(|e| {
                    e.loss
                        .iter()
                        .enumerate()
                        .map(|(at, wanted)| at > 0 && (*wanted || weight > 0.0))
                        .collect()
                })
                .collect();
            let rows: Vec<Row<'_>> =
                micro.iter().zip(&all).map(|(e, loss)| Row { ids: &e.ids, loss }).collect();
            let forward = log_probs(&learner.decoder, &rows, self.optim.gradient_checkpointing);
            let mut coefficients = Vec::with_capacity(forward.values.len());
            let mut values = forward.values.iter();
            for (e, wanted) in micro.iter().zip(&all) {
                tokens += e.ids.len() as u64;
                for at in (0..e.ids.len()).filter(|at| wanted[*at]) {
                    let log_prob = f64::from(*values.next().unwrap_or(&0.0));
                    if e.loss[at] {
                        meters.add("loss", -log_prob);
                        coefficients.push((-1.0 / total) as f32);
                    } else {
                        meters.add("prompt_loss", -log_prob);
                        coefficients.push((-weight / total) as f32);
                    }
                }
            }
            grads.merge(forward.backward(&mut learner.decoder, &coefficients));
        }
        Ok((grads, tokens))
    }

    fn evaluate(&mut self, learner: &Learner, meters: &mut Meters) -> Result<(), Error> {
        let frozen = learner.decoder.frozen();
        for micro in self.held_out.chunks(64) {
            let rows: Vec<Row<'_>> = micro.iter().map(|e| Row { ids: &e.ids, loss: &e.loss }).collect();
            for log_prob in log_probs(&frozen, &rows, false).values {
                meters.add("eval_loss", -f64::from(log_prob));
            }
        }
        Ok(())
    }
}
