//! Rewards by name.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::Device;
use data::rows::Kind;
use generate::{PrefixReward, Prompt, Reward, Step, TokenId};
use model::{Head, Policy};
use recipe::{ModelName, Rules, Validate, Violation};
use reward::{
    AutoregressiveModel, Brevity, Counting, Decode, FinalAnswer, Form, Lexicon, Occurrences, Pattern,
    PerText, Sentiment, SequenceModel, Verifier, VocabularyModel, WeightedSum,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::further::other_template;
use super::places::warn;
use super::reader::{ByText, Reader};
use super::text::{BeforeStop, CompletionText};
use super::{DataTable, Dtype, Error, Loaded, Places, load, load_any};

/// A reward of a recipe, such as `[reward.model]` or `[gold.answer]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum RewardTable {
    /// A sequence reward model.
    Model(RewardModelTable),
    /// An autoregressive reward model: β_r times its log-probability of the completion.
    Arm(ArmTable),
    /// 1 where the final answer (`#### 42`, the last number, `\boxed{…}`, or a letter) is the column
    /// `answer`, else 0. Numbers are
    /// compared by value: `19.0` is `19`, `1,250` is `1250`.
    Answer(AnswerTable),
    /// Minus the number of tokens: `[reward.brevity]`.
    Brevity(BrevityTable),
    /// Whether, or how often, a regular expression occurs.
    Pattern(PatternTable),
    /// Weights of the words that occur.
    Lexicon(LexiconTable),
    /// VADER's compound sentiment, between −1 and 1: `[reward.sentiment]`.
    Sentiment(SentimentTable),
    /// A weighted sum of rewards, for several objectives: a table `[[reward.sum]]` for each part, with
    /// `weight = 1.0` and
    /// `reward = { brevity = {} }` or another.
    Sum(Vec<SumPart>),
}

/// A part of a weighted sum of rewards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SumPart {
    /// Its weight; a negative one makes a price of it.
    pub weight: f64,
    /// The reward.
    pub reward: RewardTable,
}

/// Settings of a sequence reward model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RewardModelTable {
    /// Which model.
    pub path: ModelName,
    /// Number format of its weights.
    #[serde(default, skip_serializing_if = "Dtype::is_default")]
    pub dtype: Dtype,
}

/// Settings of an autoregressive reward model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ArmTable {
    /// Which model.
    pub path: ModelName,
    /// Scale β_r that it was trained with.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub beta: f64,
}

/// Settings of the answer verifier.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AnswerTable {
    /// Name of the column that holds the right answer, if it is not `answer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// What a completion's final answer is.
    #[serde(skip_serializing_if = "AnswerForm::is_default")]
    pub form: AnswerForm,
}

/// Forms of a final answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AnswerForm {
    /// The number after the first `#### `, as the filter `strict-match` of lm-evaluation-harness's GSM8K
    /// reads it
    /// (`#### (\-?[0-9\.\,]+)`); the rest of the line is free. A gold answer is a number, or a solution that
    /// ends in one so marked.
    #[default]
    Marked,
    /// The last number of the text, as its filter `flexible-extract` reads it (the last match of
    /// `(-?[$0-9.,]{2,})|(-?[0-9]+)`); no answer where that match is not a number. A gold answer is as for
    /// `marked`.
    LastNumber,
    /// What stands in the last `\boxed{}`: a number by its value, anything else as it is written but for
    /// blanks. A gold answer
    /// is the expression, or a solution that ends in one so boxed.
    Boxed,
    /// A letter from A to J: in the last box; else where the text says that it is the answer (`Answer: B`,
    /// `the answer is (B)`), the
    /// last time; else alone or before the text of a choice (`B`, `(B)`, `B. Paris`) at the beginning; else
    /// the last in brackets.
    /// A gold answer is a letter.
    Choice,
}

impl From<AnswerForm> for Form {
    fn from(form: AnswerForm) -> Self {
        match form {
            AnswerForm::Marked => Self::Marked,
            AnswerForm::LastNumber => Self::LastNumber,
            AnswerForm::Boxed => Self::Boxed,
            AnswerForm::Choice => Self::Choice,
        }
    }
}

impl fmt::Display for AnswerForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Form::from(*self).name())
    }
}

impl AnswerForm {
    /// Whether it is the one that is taken where none is named.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl AnswerTable {
    fn check(&self) -> FinalAnswer {
        match &self.column {
            Some(column) => FinalAnswer::with_column(self.form.into(), column.clone()),
            None => FinalAnswer::new(self.form.into()),
        }
    }
}

/// Settings of brevity.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BrevityTable {}

/// Settings of a pattern.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PatternTable {
    /// The regular expression.
    pub pattern: String,
    /// Count the occurrences rather than ask for one.
    #[serde(default)]
    pub count: bool,
}

/// Settings of a lexicon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LexiconTable {
    /// A file of lines `word<TAB>weight`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Words of weight 1.
    #[serde(default)]
    pub positive: Vec<String>,
    /// Words of weight −1.
    #[serde(default)]
    pub negative: Vec<String>,
    /// The mean weight of all words of a text rather than the sum.
    #[serde(default)]
    pub mean: bool,
}

/// Settings of the sentiment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SentimentTable {}

impl Validate for RewardTable {
    fn validate(&self, rules: &mut Rules) {
        match self {
            Self::Pattern(table) => rules.check(&["pattern", "pattern"], pattern_parses(table)),
            Self::Lexicon(table) => rules.check(&["lexicon"], lexicon_has_words(table)),
            Self::Sum(parts) => {
                rules.check(&["sum"], sum_has_parts(parts));
                for (place, part) in parts.iter().enumerate() {
                    rules.within(&format!("sum.{place}.reward"), &part.reward);
                }
            }
            _ => {}
        }
    }
}

fn pattern_parses(table: &PatternTable) -> Result<(), Violation> {
    Pattern::new(&table.pattern, Occurrences::Any)
        .map(|_| ())
        .map_err(|error| Violation::new(error.to_string()))
}

fn sum_has_parts(parts: &[SumPart]) -> Result<(), Violation> {
    if let Some(part) = parts.iter().find(|part| !part.weight.is_finite()) {
        return Err(Violation::new(format!("{} is no weight", part.weight)).hint("give finite numbers"));
    }
    if parts.iter().all(|part| part.weight == 0.0) {
        return Err(Violation::new("a sum needs a part of a weight other than 0")
            .hint("add `[[reward.sum]]` with `weight = 1.0` and `reward = { brevity = {} }` or another"));
    }
    Ok(())
}

fn lexicon_has_words(table: &LexiconTable) -> Result<(), Violation> {
    let lists = !table.positive.is_empty() || !table.negative.is_empty();
    if table.path.is_some() != lists {
        return Ok(());
    }
    Err(Violation::new("give a file, or lists of words").hint("set `path`, or `positive` and `negative`"))
}

impl RewardTable {
    /// What a final answer is, where the reward is that of one.
    pub fn answers(&self) -> Option<AnswerForm> {
        match self {
            Self::Answer(table) => Some(table.form),
            _ => None,
        }
    }

    /// The right answer of a prompt, where the reward compares with one and the prompt has it.
    pub fn gold(&self, prompt: &Prompt) -> Option<String> {
        match self {
            Self::Answer(table) => table.check().expected(&prompt.columns).ok(),
            _ => None,
        }
    }

    /// The comparisons with columns that it and its parts make.
    fn answer_checks(&self) -> Vec<FinalAnswer> {
        match self {
            Self::Answer(table) => vec![table.check()],
            Self::Sum(parts) => parts.iter().flat_map(|part| part.reward.answer_checks()).collect(),
            _ => Vec::new(),
        }
    }

    /// Refuses rows whose right answer is missing or cannot be compared with, before anything is drawn. All
    /// rows are looked at; files
    /// of the hub or of an earlier stage that are not there yet are not.
    pub fn check_rows(&self, data: &DataTable, places: &Places, seed: u64) -> Result<(), Error> {
        let checks = self.answer_checks();
        let files = if checks.is_empty() { None } else { data.files(places, "prompts.jsonl", false)? };
        let Some(files) = files.filter(|files| files.iter().all(|file| file.exists())) else { return Ok(()) };
        drop(files);
        let rows = data.read(places, Kind::Prompt, "prompts.jsonl", seed, false)?.rows;
        let wrong = |row: &data::rows::Row| {
            let problem = checks.iter().find_map(|check| check.expected(&row.extra).err())?;
            Some((format!("{}:{}", row.file, row.line), problem))
        };
        let mut wrong = rows.iter().filter_map(wrong);
        let Some((what, problem)) = wrong.next() else { return Ok(()) };
        let more = match wrong.count() {
            0 => String::new(),
            more => format!(
                "\n  {more} more of {} rows have a right answer that cannot be compared with",
                rows.len()
            ),
        };
        Err(Error::Data { what, message: format!("reward answer: {problem}{more}") })
    }

    /// The models it needs.
    pub fn models(&self) -> Vec<&ModelName> {
        match self {
            Self::Model(table) => vec![&table.path],
            Self::Arm(table) => vec![&table.path],
            Self::Sum(parts) => parts.iter().flat_map(|part| part.reward.models()).collect(),
            _ => Vec::new(),
        }
    }

    /// The files that it reads beside models.
    pub fn files(&self) -> Vec<&Path> {
        match self {
            Self::Lexicon(table) => table.path.iter().map(PathBuf::as_path).collect(),
            Self::Sum(parts) => parts.iter().flat_map(|part| part.reward.files()).collect(),
            _ => Vec::new(),
        }
    }
}

/// A reward with what it owns; [`RewardSet::open`] gives the reward itself.
#[derive(Debug)]
pub struct RewardSet {
    table: RewardTable,
    model: Option<Policy>,
    /// How the model reads texts, where it does not read the policy's ids.
    reader: Option<Reader>,
    /// The parts of a sum.
    parts: Vec<(f64, RewardSet)>,
    text: CompletionText,
    /// Whether stop strings may end completions.
    stops: bool,
    /// What identifies it among the rewards of a pool.
    pub identity: String,
}

/// Extracts the final answer of a text; the empty string where there is none.
pub type Extract = Arc<dyn Fn(&Prompt, &[TokenId]) -> String + Send + Sync>;

/// Turns ids of `loaded`'s tokenizer into text without special tokens.
pub fn decode_of(loaded: &Loaded) -> Decode {
    let tokenizer = loaded.tokenizer.clone();
    Arc::new(move |ids| tokenizer.decode(ids, true).unwrap_or_default())
}

/// The final answer of completions of `loaded` that were drawn with the stop strings `stop`, as votes count
/// it.
pub fn answer_of(loaded: &Loaded, form: AnswerForm, stop: &[String]) -> Extract {
    let text = CompletionText::new(loaded, stop);
    let form = Form::from(form);
    Arc::new(move |_, ids| form.read(&text.of(ids)).unwrap_or_default())
}

/// Whether a token of `loaded`'s tokenizer has a line break: where steps of a solution end.
pub fn ends_step_of(loaded: &Loaded) -> impl Fn(TokenId) -> bool + use<> {
    let decode = decode_of(loaded);
    move |id| decode(&[id]).contains('\n')
}

/// Loads what a reward needs. A reward model reads the token ids of the policy `loaded`, or where its chat
/// template or tokenizer is
/// another, its texts.
pub fn build(
    table: &RewardTable,
    places: &Places,
    loaded: &Loaded,
    device: &Device,
) -> Result<RewardSet, Error> {
    let mut identity = serde_json::to_string(table).unwrap_or_default();
    if matches!(table, RewardTable::Answer(_)) {
        // Scores in pools of earlier versions are of another reading of answers.
        identity.push_str(", compared by value");
    }
    let (mut parts, mut reader) = (Vec::new(), None);
    let model = match (table, &table.models()[..]) {
        (RewardTable::Sum(all), _) => {
            for part in all.iter().filter(|part| part.weight != 0.0) {
                let set = build(&part.reward, places, loaded, device)?;
                identity = format!("{identity} {}", set.identity);
                parts.push((part.weight, set));
            }
            None
        }
        (_, []) => None,
        (_, [name, ..]) => {
            let dtype = if let RewardTable::Model(table) = table { table.dtype } else { Dtype::F32 };
            let scorer = match table {
                RewardTable::Arm(_) => load(places, name, device)?,
                _ => load_any(places, name, device)?,
            };
            let scorer = scorer.with_dtype(dtype)?;
            if scorer.decoder.config.head == Head::Score {
                reader = Reader::of(&scorer, loaded)?;
            } else if !scorer.reads_tokens_of(loaded) {
                let message = format!(
                    "its tokenizer is not that of {}\n  hint: log-probabilities and values of next tokens are of the policy's token ids; a reward model with one score (`reward`) reads texts by its own tokenizer",
                    loaded.name
                );
                return Err(Error::Data { what: name.to_string(), message });
            }
            let other = reader.as_ref().map(|reader| format!("{name}: {}", reader.note()));
            let other = other.or_else(|| other_template(&scorer, loaded));
            if let Some(note) = &other {
                warn(note);
            }
            identity = format!("{identity} {}", scorer.hash);
            Some(scorer.policy(scorer.name.clone()))
        }
    };
    if let Some(reader) = &reader {
        identity = format!("{identity} {}", reader.identity());
    }
    let text = CompletionText::new(loaded, &[]);
    Ok(RewardSet { table: table.clone(), model, reader, parts, text, stops: false, identity })
}

/// What a reward of models would read, counted without running them; see [`RewardSet::counting`].
#[derive(Debug)]
pub struct CountingSet(CountingKind);

/// Models with what completions are read as, where they had stop strings.
#[derive(Debug)]
enum CountingKind {
    Model(Counting, Option<CompletionText>),
    Arm(Counting, Option<CompletionText>),
    Sum(Vec<CountingSet>),
}

impl CountingSet {
    /// A fresh reward that scores nothing and counts everything.
    pub fn open(&self) -> Result<Box<dyn Reward + '_>, Error> {
        Ok(self.open_value()?)
    }

    fn open_value(&self) -> Result<Box<dyn PrefixReward + '_>, Error> {
        let (reward, text): (Box<dyn PrefixReward + '_>, _) = match &self.0 {
            CountingKind::Model(model, text) if model.width() == 1 => {
                (Box::new(SequenceModel::new(model)?), text)
            }
            CountingKind::Model(model, text) => (Box::new(VocabularyModel::new(model)?), text),
            CountingKind::Arm(model, text) => (Box::new(AutoregressiveModel::new(model, 1.0)?), text),
            CountingKind::Sum(parts) => {
                let mut opened = Vec::with_capacity(parts.len());
                for part in parts {
                    opened.push((1.0, part.open_value()?));
                }
                (Box::new(WeightedSum::new(opened)?), &None)
            }
        };
        Ok(match text {
            Some(text) => Box::new(BeforeStop::new(reward, text.clone())),
            None => reward,
        })
    }
}

impl RewardSet {
    /// The same of completions that were drawn with stop strings: it sees them without what the first of
    /// these ended. `loaded` is the
    /// policy that it was built for.
    #[must_use]
    pub fn with_stop(mut self, loaded: &Loaded, stop: &[String]) -> Self {
        self.text = CompletionText::new(loaded, stop);
        self.stops = !stop.is_empty();
        self.parts = self.parts.into_iter().map(|(w, part)| (w, part.with_stop(loaded, stop))).collect();
        self
    }

    /// What counts what reading by its models would cost; `None` for a reward without a model.
    pub fn counting(&self) -> Option<CountingSet> {
        let text = self.stops.then(|| self.text.clone());
        let kind = match (&self.table, &self.model) {
            (RewardTable::Arm(_), Some(model)) => CountingKind::Arm(Counting::of(model), text),
            (_, Some(model)) => CountingKind::Model(Counting::of(model), text),
            (_, None) => {
                let parts: Vec<_> = self.parts.iter().filter_map(|(_, part)| part.counting()).collect();
                if parts.is_empty() {
                    return None;
                }
                CountingKind::Sum(parts)
            }
        };
        Some(CountingSet(kind))
    }

    /// The reward.
    pub fn open(&self) -> Result<Box<dyn Reward + '_>, Error> {
        Ok(self.open_value()?)
    }

    /// The reward, which judges partial texts as they stand too.
    pub fn open_value(&self) -> Result<Box<dyn PrefixReward + '_>, Error> {
        let reward = self.open_whole()?;
        // Verifiers read the text, and the parts of a sum see to themselves.
        let reads_ids = self.model.is_some() || matches!(self.table, RewardTable::Brevity(_));
        if !self.stops || !reads_ids {
            return Ok(reward);
        }
        Ok(Box::new(BeforeStop::new(reward, self.text.clone())))
    }

    fn open_whole(&self) -> Result<Box<dyn PrefixReward + '_>, Error> {
        let decode = || self.text.decode();
        Ok(match (&self.table, &self.model) {
            (RewardTable::Sum(_), _) => {
                let mut parts = Vec::with_capacity(self.parts.len());
                for (weight, set) in &self.parts {
                    parts.push((*weight, set.open_value()?));
                }
                Box::new(WeightedSum::new(parts)?)
            }
            (RewardTable::Model(_), Some(model)) if model.decoder().config.head == Head::Vocabulary => {
                Box::new(VocabularyModel::new(model)?)
            }
            (RewardTable::Model(_), Some(model)) => {
                let scores = SequenceModel::new(model)?;
                match &self.reader {
                    Some(reader) => Box::new(ByText::new(scores, reader)),
                    None => Box::new(scores),
                }
            }
            (RewardTable::Arm(table), Some(model)) => Box::new(AutoregressiveModel::new(model, table.beta)?),
            (RewardTable::Answer(table), _) => Box::new(Verifier::new(table.check(), decode())),
            (RewardTable::Pattern(table), _) => {
                let occurrences = if table.count { Occurrences::Count } else { Occurrences::Any };
                Box::new(Verifier::new(Pattern::new(&table.pattern, occurrences)?, decode()))
            }
            (RewardTable::Lexicon(table), _) => {
                let per_text = if table.mean { PerText::Mean } else { PerText::Sum };
                let lexicon = match &table.path {
                    Some(path) => Lexicon::load(path, per_text)?,
                    None => Lexicon::of_lists(&table.positive, &table.negative, per_text)?,
                };
                Box::new(Verifier::new(lexicon, decode()))
            }
            (RewardTable::Sentiment(_), _) => Box::new(Verifier::new(Sentiment::default(), decode())),
            (RewardTable::Brevity(_) | RewardTable::Model(_) | RewardTable::Arm(_), _) => {
                Box::new(Verifier::new(Brevity::tokens(), decode()))
            }
        })
    }
}
