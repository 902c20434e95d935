//! Learned laws of rewards, for methods that calibrate by a head and not by cached samples.

use burn::tensor::Device;
use generate::{Prompt, Session, Step};
use inference::setup::{self, Loaded, Places, RewardSet};
use model::{Config, Policy};
use objective::rank::Ties;
use objective::reward_law::RewardLaw;
use recipe::ModelName;

use crate::error::Error;
use crate::methods::quantile::Meaning;
use crate::on_policy::TieRule;

/// Prompts run at once.
const PROMPTS: usize = 32;

/// The name under which a head remembers a reward: what identifies it, hashed.
pub fn reward_name(reward: &RewardSet) -> String {
    blake3::hash(reward.identity.as_bytes()).to_hex()[..32].to_owned()
}

/// What a method asks of a head.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The head.
    pub name: &'a ModelName,
    /// How equal rewards are to count.
    pub ties: TieRule,
    /// The model whose samples answers are ranked among.
    pub reference: &'a Loaded,
    /// The reward that answers are ranked by.
    pub reward: &'a RewardSet,
}

/// The law of the reference's rewards for every prompt, by a head that `quantile` trained. Each prompt is run once.
///
/// # Errors
/// The model is no such head, or one of another reward, reference, tokenizer or rule for ties.
pub fn laws(
    wanted: Wanted<'_>,
    prompts: &[Prompt],
    places: &Places,
    device: &Device,
) -> Result<Vec<RewardLaw>, Error> {
    let head = setup::load_any(places, wanted.name, device).map_err(Error::other)?;
    let meaning = meaning(&head.decoder.config, &wanted)?;
    if head.tokenizer.hash() != wanted.reference.tokenizer.hash() {
        let other = format!("its tokenizer is not that of {}", wanted.reference.name);
        return Err(refuse(&wanted, &other, "name models of one family"));
    }
    let policy = head.policy(head.name.clone());
    let mut laws = Vec::with_capacity(prompts.len());
    for some in prompts.chunks(PROMPTS) {
        laws.extend(laws_of(&policy, &meaning, some)?);
    }
    Ok(laws)
}

/// The laws of some prompts, run together.
pub fn laws_of(policy: &Policy, meaning: &Meaning, prompts: &[Prompt]) -> Result<Vec<RewardLaw>, Error> {
    let mut session: Box<dyn Session + '_> = policy.session();
    let rows: Vec<_> = prompts.iter().map(|prompt| (session.open(), prompt.ids.as_slice())).collect();
    let outputs = session.extend(&rows)?;
    (0..prompts.len())
        .map(|place| {
            let numbers: Vec<f64> = outputs.row(place).iter().map(|x| f64::from(*x)).collect();
            meaning.shape.read(&numbers).map_err(Error::other)
        })
        .collect()
}

fn refuse(wanted: &Wanted<'_>, what: &str, hint: &str) -> Error {
    Error::Data { what: wanted.name.to_string(), message: format!("{what}\n  hint: {hint}") }
}

fn meaning(config: &Config, wanted: &Wanted<'_>) -> Result<Meaning, Error> {
    let Some(meaning) = Meaning::of(config) else {
        return Err(refuse(
            wanted,
            "it gives no laws of rewards",
            "train one by [method.quantile], and name it",
        ));
    };
    if meaning.reward != reward_name(wanted.reward) {
        let what = "it was trained on another reward than this method's";
        return Err(refuse(wanted, what, "give both stages the same [reward]"));
    }
    if meaning.reference != wanted.reference.hash {
        let what = format!(
            "it was trained on samples of another model than {}, which training begins with",
            wanted.reference.name
        );
        return Err(refuse(wanted, &what, "give both stages the same [model]"));
    }
    if meaning.ties != wanted.ties {
        let name = |ties: TieRule| match Ties::from(ties) {
            Ties::NonStrict => "non-strict",
            Ties::Strict => "strict",
            Ties::MidRank => "mid-rank",
        };
        let what = format!("it counts ties {}, and this method {}", name(meaning.ties), name(wanted.ties));
        let hint = format!("set `ties = \"{}\"` in [method.quantile]", name(wanted.ties));
        return Err(refuse(wanted, &what, &hint));
    }
    Ok(meaning)
}
