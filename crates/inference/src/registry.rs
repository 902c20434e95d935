//! All methods by name.

use std::collections::BTreeMap;

use generate::{Engine, Sampling, Scheduled};
use recipe::{Rules, Validate, Violation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Problem};
use crate::method::{Further, Info, Method, Need, Parts, Tools};
use crate::methods::{
    args, beam, best_of_n, cbs, cd, cd_blockwise, contrastive, eft, genarm, genarm_smc, greedy,
    independence_mh, likeliest_of_n, majority, mbr, mbr_bon, multi_objective, parm, pessimism, power, qalign,
    quest, random_cut, rbon_kl, rbon_l, sample, soft_best_of_n, speculative_rejection, srbon_kl, srbon_wd,
    transfer_q, treebon, twisted_smc, weighted_majority, worst_of_n,
};
use crate::selection::PoolRule;

/// What each method is, in the order of a listing.
pub static METHODS: [&Info; 35] = [
    &sample::INFO,
    &greedy::INFO,
    &best_of_n::INFO,
    &majority::INFO,
    &weighted_majority::INFO,
    &worst_of_n::INFO,
    &likeliest_of_n::INFO,
    &soft_best_of_n::INFO,
    &mbr::INFO,
    &mbr_bon::INFO,
    &rbon_kl::INFO,
    &rbon_l::INFO,
    &srbon_kl::INFO,
    &srbon_wd::INFO,
    &pessimism::INFO,
    &genarm::INFO,
    &genarm_smc::INFO,
    &parm::INFO,
    &multi_objective::INFO,
    &eft::INFO,
    &contrastive::INFO,
    &qalign::INFO,
    &cd_blockwise::INFO,
    &cbs::INFO,
    &treebon::INFO,
    &speculative_rejection::INFO,
    &beam::INFO,
    &args::INFO,
    &cd::INFO,
    &transfer_q::INFO,
    &twisted_smc::INFO,
    &quest::INFO,
    &power::INFO,
    &independence_mh::INFO,
    &random_cut::INFO,
];

/// The methods of the program `train`, which is where their recipes belong.
pub const TRAINING: [&str; 24] = [
    "pretrain",
    "sft",
    "reward",
    "arm",
    "parm",
    "dpo",
    "ipo",
    "bon-sft",
    "bonbon",
    "qrpo",
    "sppo",
    "quantile",
    "prefix-scorer",
    "soup",
    "vbon",
    "rl",
    "ctrl",
    "bond",
    "j-bond",
    "wind",
    "bon-aware",
    "parl",
    "pool",
    "compare",
];

/// A method with its settings, as a recipe has it: `[method.best-of-n] n = 16`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MethodConfig {
    /// One completion drawn from the policy.
    Sample(sample::Sample),
    /// The likeliest token at every step.
    Greedy(greedy::Greedy),
    /// The completion of greatest reward out of n.
    BestOfN(best_of_n::BestOfN),
    /// The most frequent final answer out of n.
    Majority(majority::Majority),
    /// The final answer of greatest weight out of n.
    WeightedMajority(weighted_majority::WeightedMajority),
    /// The completion of least reward out of n.
    WorstOfN(worst_of_n::WorstOfN),
    /// The likeliest completion out of n.
    LikeliestOfN(likeliest_of_n::LikeliestOfN),
    /// A completion out of n, drawn by softmax of the rewards.
    SoftBestOfN(soft_best_of_n::SoftBestOfN),
    /// The completion out of n most alike to all.
    Mbr(mbr::Mbr),
    /// Reward plus mean similarity.
    MbrBon(mbr_bon::MbrBon),
    /// Reward plus log-probability.
    RbonKl(rbon_kl::RbonKl),
    /// Reward less a price of shortness.
    RbonL(rbon_l::RbonL),
    /// A completion out of n, drawn by reference probability and reward.
    SrbonKl(srbon_kl::SrbonKl),
    /// A completion out of n, drawn by an optimal transport of the reference.
    SrbonWd(srbon_wd::SrbonWd),
    /// Rejection sampling with weights of a χ² penalty.
    Pessimism(pessimism::Pessimism),
    /// Guidance by autoregressive reward models.
    #[serde(rename = "genarm")]
    GenArm(genarm::GenArm),
    /// Particles guided by autoregressive reward models, weighted to the sequence-level optimum.
    #[serde(rename = "genarm-smc")]
    GenArmSmc(genarm_smc::GenArmSmc),
    /// Guidance by one autoregressive reward model of several objectives.
    Parm(parm::Parm),
    /// Several aligned policies as one.
    Mod(multi_objective::MultiObjective),
    /// The policy moved by what tuning did to another model.
    Eft(eft::Eft),
    /// The policy moved away from a weaker model.
    Contrastive(contrastive::Contrastive),
    /// A Markov chain over completions.
    #[serde(rename = "qalign")]
    QAlign(qalign::QAlign),
    /// Best of k blocks, block after block.
    CdBlockwise(cd_blockwise::CdBlockwise),
    /// Beam search over chunks of sampled tokens.
    Cbs(cbs::Cbs),
    /// Best-of-n whose rows are pruned and branch.
    #[serde(rename = "treebon")]
    TreeBon(treebon::TreeBon),
    /// Best-of-n that stops the rows of least value on the way.
    SpeculativeRejection(speculative_rejection::SpeculativeRejection),
    /// Beam search over steps by a process reward.
    Beam(beam::BeamSearch),
    /// The policy's candidates for the next token, by a reward of the text so far.
    Args(args::Args),
    /// Next tokens weighed by a value of prefixes.
    Cd(cd::Cd),
    /// Next tokens weighed by what an aligned policy makes of them.
    TransferQ(transfer_q::TransferQ),
    /// Particles that follow the tilted policy.
    TwistedSmc(twisted_smc::TwistedSmc),
    /// A Markov chain without the policy as a prior.
    Quest(quest::Quest),
    /// A Markov chain towards a power of the policy's law.
    Power(power::Power),
    /// A Markov chain by whole fresh completions.
    IndependenceMh(independence_mh::IndependenceMh),
    /// Resampling at random cuts, without accept and reject.
    RandomCut(random_cut::RandomCut),
}

impl MethodConfig {
    /// The method `name` with its default settings.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "sample" => Self::Sample(sample::Sample::default()),
            "greedy" => Self::Greedy(greedy::Greedy::default()),
            "best-of-n" => Self::BestOfN(best_of_n::BestOfN::default()),
            "majority" => Self::Majority(majority::Majority::default()),
            "weighted-majority" => Self::WeightedMajority(weighted_majority::WeightedMajority::default()),
            "worst-of-n" => Self::WorstOfN(worst_of_n::WorstOfN::default()),
            "likeliest-of-n" => Self::LikeliestOfN(likeliest_of_n::LikeliestOfN::default()),
            "soft-best-of-n" => Self::SoftBestOfN(soft_best_of_n::SoftBestOfN::default()),
            "mbr" => Self::Mbr(mbr::Mbr::default()),
            "mbr-bon" => Self::MbrBon(mbr_bon::MbrBon::default()),
            "rbon-kl" => Self::RbonKl(rbon_kl::RbonKl::default()),
            "rbon-l" => Self::RbonL(rbon_l::RbonL::default()),
            "srbon-kl" => Self::SrbonKl(srbon_kl::SrbonKl::default()),
            "srbon-wd" => Self::SrbonWd(srbon_wd::SrbonWd::default()),
            "pessimism" => Self::Pessimism(pessimism::Pessimism::default()),
            "genarm" => Self::GenArm(genarm::GenArm::default()),
            "genarm-smc" => Self::GenArmSmc(genarm_smc::GenArmSmc::default()),
            "parm" => Self::Parm(parm::Parm::default()),
            "mod" => Self::Mod(multi_objective::MultiObjective::default()),
            "eft" => Self::Eft(eft::Eft::default()),
            "contrastive" => Self::Contrastive(contrastive::Contrastive::default()),
            "qalign" => Self::QAlign(qalign::QAlign::default()),
            "cd-blockwise" => Self::CdBlockwise(cd_blockwise::CdBlockwise::default()),
            "cbs" => Self::Cbs(cbs::Cbs::default()),
            "treebon" => Self::TreeBon(treebon::TreeBon::default()),
            "speculative-rejection" => {
                Self::SpeculativeRejection(speculative_rejection::SpeculativeRejection::default())
            }
            "beam" => Self::Beam(beam::BeamSearch::default()),
            "args" => Self::Args(args::Args::default()),
            "cd" => Self::Cd(cd::Cd::default()),
            "transfer-q" => Self::TransferQ(transfer_q::TransferQ::default()),
            "twisted-smc" => Self::TwistedSmc(twisted_smc::TwistedSmc::default()),
            "quest" => Self::Quest(quest::Quest::default()),
            "power" => Self::Power(power::Power::default()),
            "independence-mh" => Self::IndependenceMh(independence_mh::IndependenceMh::default()),
            "random-cut" => Self::RandomCut(random_cut::RandomCut::default()),
            _ => return None,
        })
    }

    /// The method.
    pub fn method(&self) -> &dyn Method {
        match self {
            Self::Sample(method) => method,
            Self::Greedy(method) => method,
            Self::BestOfN(method) => method,
            Self::Majority(method) => method,
            Self::WeightedMajority(method) => method,
            Self::WorstOfN(method) => method,
            Self::LikeliestOfN(method) => method,
            Self::SoftBestOfN(method) => method,
            Self::Mbr(method) => method,
            Self::MbrBon(method) => method,
            Self::RbonKl(method) => method,
            Self::RbonL(method) => method,
            Self::SrbonKl(method) => method,
            Self::SrbonWd(method) => method,
            Self::Pessimism(method) => method,
            Self::GenArm(method) => method,
            Self::GenArmSmc(method) => method,
            Self::Parm(method) => method,
            Self::Mod(method) => method,
            Self::Eft(method) => method,
            Self::Contrastive(method) => method,
            Self::QAlign(method) => method,
            Self::CdBlockwise(method) => method,
            Self::Cbs(method) => method,
            Self::TreeBon(method) => method,
            Self::SpeculativeRejection(method) => method,
            Self::Beam(method) => method,
            Self::Args(method) => method,
            Self::Cd(method) => method,
            Self::TransferQ(method) => method,
            Self::TwistedSmc(method) => method,
            Self::Quest(method) => method,
            Self::Power(method) => method,
            Self::IndependenceMh(method) => method,
            Self::RandomCut(method) => method,
        }
    }
}

impl Method for MethodConfig {
    fn info(&self) -> &'static Info {
        self.method().info()
    }
    fn problems(&self) -> Vec<Problem> {
        self.method().problems()
    }
    fn samples(&self) -> usize {
        self.method().samples()
    }
    fn counts(&self) -> Vec<usize> {
        self.method().counts()
    }
    fn rows(&self) -> usize {
        self.method().rows()
    }
    fn needs(&self) -> Vec<Need> {
        self.method().needs()
    }
    fn sampling(&self, sampling: Sampling) -> Sampling {
        self.method().sampling(sampling)
    }
    fn further(&self) -> Further {
        self.method().further()
    }
    fn preference(&self) -> Option<&BTreeMap<String, f64>> {
        self.method().preference()
    }
    fn suits(&self, sampling: &Sampling, beta_r: &[Option<f64>]) -> Result<(), Error> {
        self.method().suits(sampling, beta_r)
    }
    fn control(&self, beta_r: &[Option<f64>], arms: usize, temperature: f64) -> Option<f64> {
        self.method().control(beta_r, arms, temperature)
    }
    fn engine<'a>(&self, parts: &Parts<'a>, sampling: Sampling) -> Result<Engine<'a>, Error> {
        self.method().engine(parts, sampling)
    }
    fn machine(&self, tools: &Tools) -> Result<Box<dyn Scheduled>, Error> {
        self.method().machine(tools)
    }
    fn rule(&self) -> Option<&dyn PoolRule> {
        self.method().rule()
    }
}

impl Validate for MethodConfig {
    fn validate(&self, rules: &mut Rules) {
        let name = self.info().name;
        for problem in self.problems() {
            let key = format!("{name}.{}", problem.key);
            rules.check(&[&key], Err(Violation::new(problem.message).hint(problem.hint)));
        }
    }
}

/// The listing of all methods as a table: name, access, needs, paper, and a line on each.
pub fn list() -> String {
    let phrase = |info: &Info| {
        let always = info.needs.iter().map(Need::to_string);
        let sometimes = info.may_need.iter().map(|need| format!("({need})"));
        let all: Vec<String> = always.chain(sometimes).collect();
        if all.is_empty() { "nothing else".to_owned() } else { all.join(", ") }
    };
    let mut rows = vec![["METHOD", "ACCESS", "NEEDS", "PAPER"].map(str::to_owned)];
    rows.extend(
        METHODS
            .iter()
            .map(|info| [info.name.into(), info.access.to_string(), phrase(info), info.paper.to_owned()]),
    );
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2)];
    let mut text = String::new();
    for (place, [name, access, needs, paper]) in rows.iter().enumerate() {
        let [a, b, c] = widths;
        text.push_str(format!("{name:a$}  {access:b$}  {needs:c$}  {paper}").trim_end());
        text.push('\n');
        if let Some(info) = place.checked_sub(1).map(|row| METHODS[row]) {
            text.push_str(&" ".repeat(a + 2));
            text.push_str(info.summary);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_has_one_name_everywhere() {
        for info in METHODS {
            let config = MethodConfig::named(info.name).expect("listed");
            assert_eq!(config.info(), info);
            assert!(config.problems().is_empty(), "the defaults of {} are good", info.name);
            let json = serde_json::to_value(&config).expect("plain data");
            assert_eq!(json.as_object().expect("externally tagged").keys().collect::<Vec<_>>(), [info.name]);
            let empty = serde_json::json!({ info.name: {} });
            assert_eq!(
                serde_json::from_value::<MethodConfig>(empty).expect("all keys have defaults"),
                config
            );
            assert!(list().contains(info.name) && list().contains(info.summary));
        }
        assert_eq!(MethodConfig::named("best"), None);
        let schema = serde_json::to_value(schemars::schema_for!(MethodConfig)).expect("JSON");
        assert_eq!(schema["oneOf"].as_array().map(Vec::len), Some(METHODS.len()));
    }

    #[derive(Debug, Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Recipe {
        method: MethodConfig,
    }

    impl Validate for Recipe {
        fn validate(&self, rules: &mut Rules) {
            rules.within("method", &self.method);
        }
    }

    fn mistakes(text: &str) -> String {
        recipe::Source::from_text("r.toml", text).load::<Recipe>().expect_err("a bad recipe").to_string()
    }

    #[test]
    fn a_recipe_with_mistakes_says_where_and_what() {
        assert!(mistakes("[method.best-of-n]\nn = 0\n").starts_with("r.toml:2:5: `method.best-of-n.n` = 0"));
        assert!(mistakes("[method.best-of-m]\nn = 2\n").contains("did you mean `best-of-n`"));
        assert!(mistakes("[method.majority]\nbeta = 1.0\n").contains("unknown key `beta`"));
        assert!(mistakes("[method.weighted-majority]\nbeta = 0.0\n").contains("r.toml:2:8"));
        assert!(mistakes("[method.genarm]\nalpha = [1.0, -2.0]\n").contains("alpha"));
        let contradiction = mistakes("[method.qalign]\nsteps = 8\nburn_in = 9\n");
        assert!(
            contradiction.contains("r.toml:3:11") && contradiction.contains("burn_in"),
            "{contradiction}"
        );
    }

    #[test]
    fn settings_made_in_code_are_checked_as_well() {
        let bad = MethodConfig::BestOfN(best_of_n::BestOfN { n: 0 });
        let refusal = bad.machine(&Tools::new(4).with_reward()).err().expect("n = 0").to_string();
        assert_eq!(refusal, "[method.best-of-n] `n`: 0 is below 1\n  hint: draw at least one completion");
    }

    #[test]
    fn what_is_missing_is_named_with_its_remedy() {
        let refusal = |name: &str, tools: &Tools| {
            MethodConfig::named(name).expect("listed").machine(tools).err().expect("missing").to_string()
        };
        let bare = Tools::new(4);
        assert!(refusal("majority", &bare).starts_with("method majority needs an answer extractor"));
        assert!(refusal("weighted-majority", &bare).starts_with("method weighted-majority needs a reward"));
        assert!(refusal("qalign", &bare.clone().with_reward()).contains("answer extractor"));
        assert!(refusal("cbs", &bare).starts_with("method cbs needs a value of prefixes"));
        let scored = bare.clone().with_reward();
        assert!(refusal("treebon", &scored).contains("[value.model]"));
        assert!(refusal("transfer-q", &scored).contains("needs a policy for rollouts"));
        assert!(refusal("sample", &Tools::new(0)).starts_with("max_new_tokens = 0"));
    }
}
