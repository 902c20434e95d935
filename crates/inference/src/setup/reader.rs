//! Texts for a reward model that reads other tokens, or another chat template, than the policy writes.
//!
//! What a policy has written is decoded, and the reward model gets it as it was trained to read it: the
//! messages of the prompt and the
//! completion by its own template, or the plain text, by its own tokenizer.

use data::chat::{ChatTemplate, Clock, Message};
use data::render::{RenderError, Renderer};
use data::rows::Text;
use data::tokenizer::Tokenizer;
use generate::{Candidate, Error, Ledger, Prefix, PrefixReward, Prompt, Reward, TokenId};
use serde_json::Value;

use super::Loaded;

/// The column of a prompt that holds its messages, where it is a chat.
pub const MESSAGES: &str = "messages";

/// Whether the ids of two tokenizers mean the same: every id that both have is the same token.
pub(super) fn same_tokens(a: &Tokenizer, b: &Tokenizer) -> bool {
    let shared = a.id_bound().min(b.id_bound()) as u32;
    let same = |id: u32| match (a.token(id), b.token(id)) {
        (Some(a), Some(b)) => a == b,
        // A hole is nothing that could be read otherwise.
        _ => true,
    };
    a.hash() == b.hash() || (shared > 0 && (0..shared).all(same))
}

/// How a reward model reads what a policy writes.
#[derive(Debug, Clone)]
pub(super) struct Reader {
    policy: Tokenizer,
    own: Tokenizer,
    template: Option<ChatTemplate>,
    /// Whether it reads the policy's ids where there are no messages.
    by_ids: bool,
}

impl Reader {
    /// How `scorer` reads the texts of `policy`; `None` where it reads the policy's own ids.
    pub(super) fn of(scorer: &Loaded, policy: &Loaded) -> Result<Option<Self>, super::Error> {
        let by_ids = scorer.reads_tokens_of(policy);
        let source = scorer.tokenizer.chat_template();
        let own_template = source.is_some() && source != policy.tokenizer.chat_template();
        if by_ids && !own_template {
            return Ok(None);
        }
        let template = match source {
            Some(_) => Some(ChatTemplate::of(&scorer.tokenizer, Clock::default())?),
            None => None,
        };
        let (own, policy) = (scorer.tokenizer.clone(), policy.tokenizer.clone());
        Ok(Some(Self { policy, own, template, by_ids }))
    }

    /// What identifies it among the ways to read a policy's texts.
    pub(super) fn identity(&self) -> String {
        let template = blake3::hash(self.policy.chat_template().unwrap_or_default().as_bytes()).to_hex();
        format!("text {} {}", &self.policy.hash()[..16], &template[..16])
    }

    /// What is to be said of it.
    pub(super) fn note(&self) -> &'static str {
        match (&self.template, self.by_ids) {
            (Some(_), true) => "it reads chats by its own chat template, which is not the policy's",
            (Some(_), false) => {
                "it reads texts by its own tokenizer and chat template, which are not the policy's"
            }
            (None, _) => {
                "it reads texts by its own tokenizer, which is not the policy's; it has no chat template and reads the policy's"
            }
        }
    }

    /// Prompt and completion as the reward model reads them; `None` where it reads the ids. `whole` says that
    /// the completion is all
    /// there will be, so that its turn ends.
    fn read(&self, prompt: &Prompt, ids: &[TokenId], whole: bool) -> Result<Option<Parts>, String> {
        let messages = match (prompt.columns.get(MESSAGES), &self.template) {
            (Some(messages), Some(_)) => serde_json::from_value::<Vec<Message>>(messages.clone()).ok(),
            _ => None,
        };
        if messages.is_none() && self.by_ids {
            return Ok(None);
        }
        let completion = self.policy.decode(ids, true).map_err(|error| error.to_string())?;
        let renderer = Renderer::new(&self.own, self.template.clone());
        let read = if let Some(messages) = messages {
            chat(&renderer, messages, completion, whole)
        } else {
            let text = if prompt.text.is_empty() {
                self.policy.decode(&prompt.ids, false).map_err(|error| error.to_string())?
            } else {
                prompt.text.clone()
            };
            plain(&renderer, text, completion, whole)
        };
        read.map(Some).map_err(|error| error.to_string())
    }
}

/// Ids of a prompt and of its completion.
type Parts = (Vec<u32>, Vec<u32>);

fn chat(
    renderer: &Renderer<'_>,
    mut messages: Vec<Message>,
    completion: String,
    whole: bool,
) -> Result<Parts, RenderError> {
    // A prompt that ends within an answer is continued.
    let open = messages.pop_if(|last| last.is_assistant());
    let begun = open.as_ref().and_then(Message::content).unwrap_or_default().to_owned();
    let answer = begun + &completion;
    if whole {
        let example = renderer.completion(&Text::Chat(messages), &Text::Plain(answer))?;
        let (prompt, completion) = example.ids.split_at(example.prompt_len());
        return Ok((prompt.to_vec(), completion.to_vec()));
    }
    if !answer.is_empty() {
        messages.push(Message::assistant(answer));
    }
    Ok((renderer.prompt(&Text::Chat(messages))?.ids, Vec::new()))
}

fn plain(
    renderer: &Renderer<'_>,
    prompt: String,
    completion: String,
    whole: bool,
) -> Result<Parts, RenderError> {
    if whole {
        let example = renderer.completion(&Text::Plain(prompt), &Text::Plain(completion))?;
        let (prompt, completion) = example.ids.split_at(example.prompt_len());
        return Ok((prompt.to_vec(), completion.to_vec()));
    }
    Ok((renderer.prompt(&Text::Plain(prompt + &completion))?.ids, Vec::new()))
}

/// A reward of texts as its model reads them.
pub(super) struct ByText<'a, R> {
    inner: R,
    reader: &'a Reader,
}

impl<'a, R: PrefixReward> ByText<'a, R> {
    pub(super) fn new(inner: R, reader: &'a Reader) -> Self {
        Self { inner, reader }
    }

    fn texts<'t>(
        &self,
        texts: impl Iterator<Item = (&'t Prompt, &'t [TokenId])>,
        whole: bool,
    ) -> Result<Vec<(Prompt, Vec<TokenId>)>, Error> {
        let refuse = |message: String| Error::Reward { name: self.inner.name().into(), message };
        texts
            .map(|(prompt, ids)| {
                let (prompt_ids, ids) = match self.reader.read(prompt, ids, whole).map_err(refuse)? {
                    Some(read) => read,
                    None => (prompt.ids.clone(), ids.to_vec()),
                };
                Ok((Prompt::from_ids(prompt.index, prompt_ids), ids))
            })
            .collect()
    }
}

impl<R: PrefixReward> Reward for ByText<'_, R> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn rewards(&mut self, candidates: &[Candidate<'_>]) -> Result<Vec<f64>, Error> {
        let read = self.texts(candidates.iter().map(|c| (c.prompt, c.ids)), true)?;
        let both = read.iter().zip(candidates);
        let read: Vec<Candidate<'_>> =
            both.map(|((prompt, ids), candidate)| Candidate { prompt, ids, end: candidate.end }).collect();
        self.inner.rewards(&read)
    }

    fn ledger(&self) -> &Ledger {
        self.inner.ledger()
    }

    fn range(&self) -> (f64, f64) {
        self.inner.range()
    }
}

impl<R: PrefixReward> PrefixReward for ByText<'_, R> {
    fn prefix_rewards(&mut self, prefixes: &[Prefix<'_>]) -> Result<Vec<f64>, Error> {
        let read = self.texts(prefixes.iter().map(|p| (p.prompt, p.ids)), false)?;
        let read: Vec<Prefix<'_>> = read.iter().map(|(prompt, ids)| Prefix { prompt, ids }).collect();
        self.inner.prefix_rewards(&read)
    }
}

/// The columns of a prompt with its messages.
pub fn with_messages(
    mut columns: serde_json::Map<String, Value>,
    messages: Option<&[Message]>,
) -> serde_json::Map<String, Value> {
    if let Some(value) = messages.and_then(|messages| serde_json::to_value(messages).ok()) {
        columns.insert(MESSAGES.into(), value);
    }
    columns
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use burn::tensor::Device;
    use generate::{End, Purpose, Stream};
    use model::files::model_files;
    use model::weights::Float;
    use model::{Config, Decoder, Head, Policy, Shape};
    use recipe::ModelName;
    use reward::SequenceModel;
    use serde_json::json;
    use tempfile::TempDir;

    use super::super::rewards::build;
    use super::super::{Places, RewardTable, load, load_any};
    use super::*;

    const POLICY: &str = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}\
                          {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
    const OTHER: &str = "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '\n' }}{% endfor %}\
                         {% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}";

    /// A random model in a folder of its own: its tokenizer is that of the shipped one with `more` tokens,
    /// and this template.
    fn model(head: Head, more: usize, rows: usize, template: &str) -> TempDir {
        let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../checkpoints/tiny");
        let mut stream = Stream::new(7, Purpose::Init, 0, 0);
        let shape = Shape { max_position_embeddings: 256, ..Shape::small(768 + rows) };
        let mut draw = || 4.0 * stream.normal();
        let mut decoder = Decoder::random(Config::llama(&shape), &Device::flex(), &mut draw);
        if head.is_score() {
            decoder = decoder.with_head(head, Some(0), &mut draw);
        }
        let folder = tempfile::tempdir().expect("a folder");
        for (name, bytes) in model_files(&decoder, Float::F32).expect("files") {
            fs_err::write(folder.path().join(name), bytes).expect("written");
        }
        let text = fs_err::read_to_string(tiny.join("tokenizer.json")).expect("a file");
        let mut tokenizer: Value = serde_json::from_str(&text).expect("JSON");
        for place in 0..more {
            let token = json!({ "id": 768 + place, "content": format!("[ADDED{place}]"), "single_word": false, "lstrip": false,
                                "rstrip": false, "normalized": false, "special": true });
            tokenizer["added_tokens"].as_array_mut().expect("a list").push(token);
        }
        fs_err::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).expect("written");
        fs_err::copy(tiny.join("tokenizer_config.json"), folder.path().join("tokenizer_config.json"))
            .expect("copied");
        fs_err::write(folder.path().join("chat_template.jinja"), template).expect("written");
        folder
    }

    fn name(folder: &TempDir) -> ModelName {
        folder.path().display().to_string().parse().expect("a name")
    }

    fn loaded(folder: &TempDir) -> Loaded {
        load_any(&Places::default(), &name(folder), &Device::flex()).expect("a model")
    }

    fn table(folder: &TempDir) -> RewardTable {
        serde_json::from_value(json!({ "model": { "path": name(folder) } })).expect("a table")
    }

    /// A prompt of messages and one of text, as the policy reads them.
    fn prompts(policy: &Loaded) -> [Prompt; 2] {
        let messages = vec![Message::user("Name a colour.")];
        let renderer = policy.renderer().expect("a renderer");
        let chat = renderer.prompt(&Text::Chat(messages.clone())).expect("a prompt");
        let plain = renderer.prompt(&Text::Plain("Name a colour: ".into())).expect("a prompt");
        [
            Prompt {
                index: 0,
                ids: chat.ids,
                text: chat.text,
                columns: with_messages(serde_json::Map::default(), Some(&messages)),
            },
            Prompt { index: 1, ids: plain.ids, text: plain.text, columns: serde_json::Map::default() },
        ]
    }

    /// What the model gives for token ids.
    fn score(model: &Loaded, ids: &[u32]) -> f64 {
        let policy = Policy::new("reward", &model.decoder);
        let mut scores = SequenceModel::new(&policy).expect("a head");
        scores
            .rewards(&[Candidate { prompt: &Prompt::from_ids(0, ids.to_vec()), ids: &[], end: End::Eos }])
            .expect("a score")[0]
    }

    fn rewards(table: &RewardTable, policy: &Loaded, prompt: &Prompt, ids: &[u32]) -> Result<f64, String> {
        let set =
            build(table, &Places::default(), policy, &Device::flex()).map_err(|error| error.to_string())?;
        let mut reward = set.open().map_err(|error| error.to_string())?;
        let given =
            reward.rewards(&[Candidate { prompt, ids, end: End::Eos }]).map_err(|error| error.to_string())?;
        Ok(given[0])
    }

    #[test]
    fn a_reward_model_reads_chats_by_its_own_template_and_other_prompts_by_their_ids() {
        let (own, other) = (model(Head::Language, 0, 0, POLICY), model(Head::Score, 1, 1, OTHER));
        let policy = load(&Places::default(), &name(&own), &Device::flex()).expect("a policy");
        let judge = loaded(&other);
        let [chat, plain] = prompts(&policy);
        let ids = [
            policy.tokenizer.encode("blue", false).expect("ids"),
            vec![policy.tokenizer.special().eos.as_ref().expect("an end").id],
        ]
        .concat();
        let renderer = judge.renderer().expect("a renderer");
        let messages = Text::Chat(vec![Message::user("Name a colour.")]);
        let read = renderer.completion(&messages, &Text::Plain("blue".into())).expect("an example");
        assert_eq!(rewards(&table(&other), &policy, &chat, &ids), Ok(score(&judge, &read.ids)));
        assert_eq!(
            rewards(&table(&other), &policy, &plain, &ids),
            Ok(score(&judge, &[&plain.ids[..], &ids].concat()))
        );
        // With the policy's template nothing is rendered again.
        let same = model(Head::Score, 1, 1, POLICY);
        let judge = loaded(&same);
        assert!(Reader::of(&judge, &policy).expect("no error").is_none());
        assert_eq!(
            rewards(&table(&same), &policy, &chat, &ids),
            Ok(score(&judge, &[&chat.ids[..], &ids].concat()))
        );
    }

    #[test]
    fn partial_answers_are_read_within_their_turn() {
        let (own, other) = (model(Head::Language, 0, 0, POLICY), model(Head::Score, 0, 0, OTHER));
        let policy = load(&Places::default(), &name(&own), &Device::flex()).expect("a policy");
        let judge = loaded(&other);
        let [chat, _] = prompts(&policy);
        let set = build(&table(&other), &Places::default(), &policy, &Device::flex()).expect("a reward");
        let mut value = set.open_value().expect("a value");
        let ids = policy.tokenizer.encode("blu", false).expect("ids");
        let given = value
            .prefix_rewards(&[Prefix { prompt: &chat, ids: &[] }, Prefix { prompt: &chat, ids: &ids }])
            .expect("values");
        let renderer = judge.renderer().expect("a renderer");
        for (given, answer) in given.iter().zip(["", "blu"]) {
            let mut messages = vec![Message::user("Name a colour.")];
            messages.extend((!answer.is_empty()).then(|| Message::assistant(answer)));
            let read = renderer.prompt(&Text::Chat(messages)).expect("a prompt");
            assert_eq!(*given, score(&judge, &read.ids), "{answer:?}");
        }
    }

    #[test]
    fn one_token_more_or_less_is_the_same_tokenizer_and_a_token_beyond_the_embedding_is_refused() {
        let policy = loaded(&model(Head::Language, 1, 1, POLICY));
        let judge = model(Head::Score, 0, 0, POLICY);
        let [chat, _] = prompts(&policy);
        assert!(loaded(&judge).reads_tokens_of(&policy) && policy.reads_tokens_of(&loaded(&judge)));
        assert!(rewards(&table(&judge), &policy, &chat, &[44, 3]).is_ok());
        let error = rewards(&table(&judge), &policy, &chat, &[44, 768]).expect_err("refused");
        assert!(error.contains("768"), "{error}");
    }

    #[test]
    fn a_reward_model_of_another_family_reads_texts_by_its_own_tokenizer() {
        let own = model(Head::Language, 0, 0, POLICY);
        let policy = load(&Places::default(), &name(&own), &Device::flex()).expect("a policy");
        let other = model(Head::Score, 0, 0, POLICY);
        // The same tokens under other ids.
        let path = other.path().join("tokenizer.json");
        let mut file: Value =
            serde_json::from_str(&fs_err::read_to_string(&path).expect("a file")).expect("JSON");
        let special: Vec<u64> = file["added_tokens"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|t| t["id"].as_u64())
            .collect();
        let vocabulary = file["model"]["vocab"].as_object_mut().expect("a map");
        for id in vocabulary.values_mut() {
            let old = id.as_u64().expect("an id");
            let swap = |id: u64| if id.is_multiple_of(2) { id + 1 } else { id - 1 };
            if !special.contains(&old) && !special.contains(&swap(old)) && swap(old) < 768 {
                *id = json!(swap(old));
            }
        }
        fs_err::write(&path, file.to_string()).expect("written");
        let judge = loaded(&other);
        assert!(!judge.reads_tokens_of(&policy));
        let [_, plain] = prompts(&policy);
        let end = policy.tokenizer.special().eos.as_ref().expect("an end").id;
        let ids = [policy.tokenizer.encode("blue", false).expect("ids"), vec![end]].concat();
        let renderer = judge.renderer().expect("a renderer");
        let read = renderer
            .completion(&Text::Plain(plain.text.clone()), &Text::Plain("blue".into()))
            .expect("an example");
        assert_ne!(read.ids, [&plain.ids[..], &ids].concat());
        assert_eq!(rewards(&table(&other), &policy, &plain, &ids), Ok(score(&judge, &read.ids)));
        // Log-probabilities of other ids mean nothing.
        let arm = model(Head::Language, 0, 0, POLICY);
        fs_err::copy(&path, arm.path().join("tokenizer.json")).expect("copied");
        let table: RewardTable =
            serde_json::from_value(json!({ "arm": { "path": name(&arm), "beta": 0.5 } })).expect("a table");
        let error = rewards(&table, &policy, &plain, &ids).expect_err("refused");
        assert!(error.contains("its tokenizer is not that of"), "{error}");
    }
}
