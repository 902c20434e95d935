//! PARM: what its loss makes of preferences, exactly; and a small model that is trained by it, stopped, resumed and loaded.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use burn::tensor::Device;
use data::render::Example;
use data::wordmath::Config as Difficulty;
use generate::{Purpose, Score, Stream};
use inference::setup::{LabelledPair, Places, load, load_preferring};
use model::Policy;
use model::files::{AdapterConfig, attach};
use objective::losses::Preference;
use objective::numeric::sigmoid;
use objective::tabular::{Space, TabularLm, TabularPolicy};
use recipe::{Log, ModelName, Optim, Save, Schedule};
use train::checkpoint::{self, Learner};
use train::identity::Identity;
use train::methods::parm::{Parm, PreferenceAware};
use train::methods::pretrain::{Pretrain, Source};
use train::supervised::Supervised;
use train::trainer::{Outcome, Plan, run};

/// The optimum of the loss at `weights` for two strings, whose difference under objective `i` is `differences[i]`, as
/// β times the log-odds of the first: gradient descent on a tabular policy.
fn margin(loss: &Preference, weights: &[f64], differences: &[f64]) -> f64 {
    let space = Space::new(2, 1, 1).expect("space");
    let mut policy =
        TabularPolicy::from_lm(&TabularLm::from_law(space, &[0.5, 0.5]).expect("law")).expect("full support");
    for _ in 0..5_000 {
        let law = policy.log_law().expect("law");
        let mut gradient = [0.0; 2];
        // All labels, each with its probability.
        for labels in 0..1_usize << weights.len() {
            let label = |i: usize| labels >> i & 1;
            let likely: f64 = (0..weights.len())
                .map(|i| sigmoid(if label(i) == 0 { differences[i] } else { -differences[i] }))
                .product();
            let part = loss.labelled([law[0], law[1]], (0..weights.len()).map(|i| (weights[i], label(i))));
            for (sum, slope) in gradient.iter_mut().zip(part.gradient) {
                *sum += likely * slope;
            }
        }
        let slopes = policy.backward(&gradient).expect("aligned");
        for (logit, slope) in policy.logits_mut().iter_mut().zip(slopes) {
            *logit -= 8.0 * slope;
        }
    }
    let law = policy.log_law().expect("law");
    loss.beta * (law[0] - law[1])
}

#[test]
fn the_optimum_is_the_log_odds_of_the_mean_preference_and_on_a_vertex_the_reward() {
    let loss = Preference::new(0.5);
    let differences = [2.0, -1.2, 0.3];
    for weights in [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]] {
        let want: f64 = weights.iter().zip(differences).map(|(w, d)| w * d).sum();
        let got = margin(&loss, &weights, &differences);
        assert!((got - want).abs() < 1e-6, "{got} and not {want}");
    }
    let weights = [0.5, 0.3, 0.2];
    let mean: f64 = weights.iter().zip(differences).map(|(w, d)| w * sigmoid(d)).sum();
    let want = (mean / (1.0 - mean)).ln();
    let got = margin(&loss, &weights, &differences);
    assert!((got - want).abs() < 1e-6, "{got} and not {want}");
    let sum: f64 = weights.iter().zip(differences).map(|(w, d)| w * d).sum();
    assert!((got - sum).abs() > 0.05, "the mean of the rewards is something else: {sum}");
}

fn model() -> (model::Decoder, data::tokenizer::Tokenizer) {
    let settings = Pretrain {
        vocab_size: 300,
        tokenizer_problems: 200,
        hidden_size: 32,
        intermediate_size: 48,
        layers: 2,
        heads: 2,
        kv_heads: 1,
        context: 64,
        prompt_weight: 0.1,
    };
    let tokenizer = settings.tokenizer(&Source::Wordmath(Difficulty::default())).expect("a tokenizer");
    let mut decoder = settings.decoder(&tokenizer, 7, &Device::flex());
    // As large as those of trained models: new ones are so small that no adapter can make any token likely.
    decoder.embed_tokens = decoder.embed_tokens.clone() * 25.0;
    (decoder, tokenizer)
}

fn settings() -> Parm {
    Parm { objectives: vec!["even".into(), "brief".into()], beta: 0.5, own_rank: 2, ..Parm::default() }
}

/// Pairs of answers that repeat one of two tokens: one objective prefers the even token, the other the shorter answer. They
/// disagree about half the time, and often one of them is silent.
fn pairs() -> Vec<LabelledPair> {
    let pair = |row: u64| {
        let mut stream = Stream::new(5, Purpose::Sample, 0, row);
        let mut answer = || {
            let count = 2 + (stream.bits() % 6) as usize;
            let odd = (stream.bits() % 2) as u32;
            (Example::join(&[5, 6, 7], &vec![20 + 11 * odd; count]), 1 - odd, count)
        };
        let ((first, e0, n0), (second, e1, n1)) = (answer(), answer());
        let prefers = |a: f64, b: f64| (a != b).then_some(usize::from(b > a));
        let preferred = vec![prefers(f64::from(e0), f64::from(e1)), prefers(-(n0 as f64), -(n1 as f64))];
        LabelledPair { answers: [first, second], preferred }
    };
    (0..48).map(pair).collect()
}

fn learner() -> Learner {
    let (mut decoder, tokenizer) = model();
    let config = AdapterConfig {
        r: 2,
        alpha: 4.0,
        use_rslora: false,
        targets: vec!["q_proj".into(), "v_proj".into(), "up_proj".into(), "down_proj".into()],
        base: "base".into(),
        bilinear: Some(settings().bilinear()),
    };
    let mut stream = Stream::new(1, Purpose::Init, 1, 0);
    attach(&mut decoder, &config, &mut || stream.uniform()).expect("known targets");
    decoder.visit(&mut |name, mut slot| slot.set_trained(name.contains("lora_")));
    Learner { decoder, adapter: Some(config), tokenizer, base: "base".into() }
}

fn train(folder: &Path, steps: usize, resume: bool) -> Learner {
    let optim = Optim {
        steps: Some(steps),
        batch_size: 16,
        micro_batch_size: Some(8),
        learning_rate: 1e-2,
        schedule: Schedule::Constant,
        ..Optim::default()
    };
    let method = PreferenceAware::new(&settings(), 3);
    let rows = method.rows(pairs());
    let mut task = Supervised::new(method, rows, Vec::new(), &optim, 3).expect("rows");
    let mut learner = learner();
    let stop = AtomicBool::new(false);
    let plan = Plan {
        folder,
        title: "test",
        optim: &optim,
        save: &Save { every_steps: 0, keep_last: 9, ..Save::default() },
        log: &Log { every_steps: 1, tensorboard: false, samples: 0 },
        identity: &Identity::default(),
        resume,
        stop: &stop,
        card: "# Test\n",
    };
    let ended = run(&plan, &mut learner, &mut task, &Device::flex()).expect("it runs");
    assert!(matches!(ended, Outcome::Done(_)));
    learner
}

#[test]
fn a_small_model_learns_both_objectives_and_weighs_them_as_it_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let (decoder, tokenizer) = model();
    // The base where the adapter says it is, so that the adapter is loaded as a recipe loads it.
    let base = folder.path().join("base");
    let whole = Learner { decoder, adapter: None, tokenizer, base: "base".into() };
    checkpoint::export(&base, &whole, "# Base\n").expect("saved");
    let base: ModelName = base.join("latest").display().to_string().parse().expect("a directory");
    let mut trained = train(&folder.path().join("arm"), 150, false);
    if let Some(adapter) = &mut trained.adapter {
        adapter.base = base.to_string();
    }
    let arm = folder.path().join("saved");
    checkpoint::export(&arm, &trained, "# Model\n").expect("saved");
    let arm: ModelName = arm.join("latest").display().to_string().parse().expect("a directory");

    let places = Places::default();
    let device = Device::flex();
    let right = |weights: &[(&str, f64)]| -> [f64; 2] {
        let weights: BTreeMap<String, f64> = weights.iter().map(|(n, w)| ((*n).to_owned(), *w)).collect();
        let loaded = load_preferring(&places, &arm, &device, &weights).expect("the model");
        let policy = Policy::new("arm", &loaded.decoder);
        let pairs = pairs();
        let items: Vec<(&[u32], &[u32])> = pairs
            .iter()
            .flat_map(|pair| &pair.answers)
            .map(|answer| answer.ids.split_at(answer.prompt_len()))
            .collect();
        let sums: Vec<f64> = policy
            .score(&items)
            .expect("scores")
            .iter()
            .map(|row| row.iter().map(|log| f64::from(*log)).sum())
            .collect();
        let mut counts = [(0.0, 0.0); 2];
        for (pair, sums) in pairs.iter().zip(sums.chunks_exact(2)) {
            for (count, label) in counts.iter_mut().zip(&pair.preferred) {
                if let Some(label) = label {
                    count.0 += f64::from(u8::from(sums[*label] > sums[1 - *label]));
                    count.1 += 1.0;
                }
            }
        }
        counts.map(|(right, all)| right / all)
    };
    let (even, brief) = (right(&[("even", 1.0)]), right(&[("brief", 1.0)]));
    assert!(even[0] > 0.9 && brief[1] > 0.8, "{even:?} {brief:?}");
    // One model at two weights: what an objective does not ask for is left to chance, or to the other.
    assert!(even[1] + 0.1 < brief[1] && brief[0] + 0.1 < even[0], "{even:?} {brief:?}");
    let refused = |weights: &[(&str, f64)]| {
        let weights = weights.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect();
        load_preferring(&places, &arm, &device, &weights).expect_err("refused").to_string()
    };
    assert!(refused(&[("evn", 1.0)]).contains("give weights of even, brief"));
    let unweighed = load(&places, &arm, &device).expect_err("refused").to_string();
    assert!(unweighed.contains("depends on the weights of even, brief"), "{unweighed}");
    let plain = load_preferring(&places, &base, &device, &BTreeMap::new()).expect_err("refused").to_string();
    assert!(plain.contains("does not depend on weights"), "{plain}");
}

#[test]
fn a_run_that_was_resumed_is_the_same_bit_for_bit() {
    let (whole, parts) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let adapter =
        |folder: &Path| fs_err::read(folder.join("latest/adapter_model.safetensors")).expect("a checkpoint");
    train(whole.path(), 6, false);
    // A run of fewer updates left its checkpoint, which the longer one goes on from.
    train(parts.path(), 3, false);
    assert_ne!(adapter(whole.path()), adapter(parts.path()));
    train(parts.path(), 6, true);
    assert_eq!(adapter(whole.path()), adapter(parts.path()));
}
