//! Rewards, laws of rewards and values of prefixes: their losses on a small model, gradients by finite differences, and what is
//! saved opens again.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use data::render::{Example, Pair, Renderer, Stepwise};
use data::rows::{StepLabels, Text};
use data::tokenizer::Tokenizer;
use data::wordmath::{Config as Difficulty, Generator, Split};
use generate::{End, Prefix, PrefixReward, Prompt, Purpose, Score, Step, Stream};
use inference::setup::{self, Places, RewardTable};
use model::learn::{scores, token_values};
use model::{Decoder, Head, Policy};
use objective::losses::BradleyTerry;
use objective::reward_law::MixtureShape;
use recipe::ModelName;
use reward::{PoolSample, VocabularyModel};
use train::calibration::{Wanted, laws, laws_of, reward_name};
use train::checkpoint::{Learner, export};
use train::meters::Meters;
use train::methods::dpo::{Dpo, PairwiseLoss};
use train::methods::ipo::Ipo;
use train::methods::prefix_scorer::{Form, HeadName, PrefixScorer, Scorer, values_before_each};
use train::methods::pretrain::{Pretrain, Source};
use train::methods::quantile::{Meaning, Quantile, QuantileHead};
use train::methods::reward::RewardModel;
use train::methods::stepwise::{StepScorer, at_label};
use train::on_policy::TieRule;
use train::pairs::{ReferencedPair, referenced};
use train::pooled::{Pooled, Scored};
use train::supervised::Objective;

fn assert_close(got: &[f64], want: &[f64], limit: f64) {
    assert_eq!(got.len(), want.len());
    for (at, (got, want)) in got.iter().zip(want).enumerate() {
        testkit::assert_close(&format!("value {at}"), *got, *want, limit, 0.0);
    }
}

fn settings() -> Pretrain {
    Pretrain {
        vocab_size: 300,
        tokenizer_problems: 200,
        hidden_size: 16,
        intermediate_size: 24,
        layers: 2,
        heads: 2,
        kv_heads: 1,
        context: 256,
        prompt_weight: 0.1,
    }
}

fn language() -> (Decoder, Tokenizer) {
    let tokenizer = settings().tokenizer(&Source::Wordmath(Difficulty::default())).expect("a tokenizer");
    (settings().decoder(&tokenizer, 7, &Device::flex()), tokenizer)
}

/// A model with a head, all of whose rows are drawn.
fn with_head(head: Head) -> Decoder {
    let mut stream = Stream::new(1, Purpose::Init, 0, 0);
    let mut decoder = language().0.with_head(head, Some(0), &mut || 0.0);
    decoder.visit(&mut |name, mut slot| {
        if name == "score.weight" {
            let count = slot.shape().iter().product();
            let values: Vec<f32> = (0..count).map(|_| 0.25 * stream.normal() as f32).collect();
            slot.set_flat(Tensor::from_data(TensorData::new(values, [count]), &Device::flex()));
        }
    });
    decoder
}

fn prompts(count: u64) -> Vec<Prompt> {
    let tokenizer = language().1;
    let generator = Generator::new(Difficulty::default()).expect("settings");
    (0..count)
        .map(|index| {
            let text = generator.problem(Split::Train, index).prompt();
            Prompt::from_ids(index as usize, tokenizer.encode(&text, false).expect("encoded"))
        })
        .collect()
}

fn examples() -> Vec<Example> {
    let mut stream = Stream::new(5, Purpose::Sample, 0, 0);
    let mut ids = |count: usize| (0..count).map(|_| 3 + (stream.bits() % 200) as u32).collect::<Vec<_>>();
    [(4, 5), (3, 1), (6, 3)].into_iter().map(|(p, c)| Example::join(&ids(p), &ids(c))).collect()
}

/// The sum of losses of some rows, with their metrics.
fn loss_of<O: Objective>(objective: &O, rows: &[&O::Row], decoder: &Decoder) -> (f64, Vec<f64>, Meters) {
    let mut meters = Meters::default();
    let forward = objective.forward(decoder, rows, false);
    let loss = objective.loss(rows, &forward, "", &mut meters);
    let count: f64 = rows.iter().map(|row| O::weight(row)).sum();
    (meters.mean("loss").expect("a loss") * count, loss.coefficients, meters)
}

/// The gradient that training follows is that of the loss it reports, in the head and in the body.
fn check_gradient<O: Objective>(objective: &O, rows: &[&O::Row], mut decoder: Decoder) {
    let plain = decoder.clone();
    decoder.visit(&mut |_, mut slot| slot.set_trained(true));
    for checkpointing in [false, true] {
        let forward = objective.forward(&decoder, rows, checkpointing);
        let loss = objective.loss(rows, &forward, "", &mut Meters::default());
        let coefficients: Vec<f32> = loss.coefficients.iter().map(|c| *c as f32).collect();
        let grads = forward.backward(&mut decoder, &coefficients);
        for name in ["score.weight", "model.norm.weight", "model.layers.1.mlp.down_proj.weight"] {
            let gradient: Vec<f32> = grads.get(name).expect(name).to_data().iter().collect();
            // The steepest directions: others are lost in the rounding of f32.
            let mut order: Vec<usize> = (0..gradient.len()).collect();
            order.sort_by(|a, b| gradient[*b].abs().total_cmp(&gradient[*a].abs()));
            for at in order.into_iter().take(3) {
                let h = 5e-3;
                let moved = |by: f32| {
                    let mut decoder = plain.clone();
                    decoder.visit(&mut |visited, mut slot| {
                        if visited == name {
                            let mut values: Vec<f32> = slot.flat().to_data().iter().collect();
                            values[at] += by;
                            let count = values.len();
                            slot.set_flat(Tensor::from_data(
                                TensorData::new(values, [count]),
                                &Device::flex(),
                            ));
                        }
                    });
                    loss_of(objective, rows, &decoder).0
                };
                let numeric = (moved(h) - moved(-h)) / (2.0 * f64::from(h));
                let exact = f64::from(gradient[at]);
                assert!(
                    (exact - numeric).abs() < 0.02 * exact.abs() + 2e-3,
                    "{name} {at}: {exact} {numeric}"
                );
            }
        }
    }
}

fn saved(decoder: &Decoder, folder: &Path) -> ModelName {
    let learner =
        Learner { decoder: decoder.clone(), adapter: None, tokenizer: language().1, base: "test".into() };
    let path = export(folder, &learner, "# Test\n").expect("saved");
    path.display().to_string().parse().expect("a name")
}

#[test]
fn a_rows_own_margin_takes_the_place_of_the_setting() {
    let made = examples();
    let pair = |margin| Pair::new(made[0].clone(), made[2].clone()).with_margin(margin);
    let (own, none) = (pair(Some(2.5)), pair(None));
    let decoder = with_head(Head::Score);
    let method = RewardModel { margin: 0.75, center_rewards_coefficient: 0.1 };
    let values = scores(&decoder, &[&made[0].ids, &made[2].ids], false).values;
    let (c, r) = (f64::from(values[0]), f64::from(values[1]));
    let loss = BradleyTerry { center_coefficient: 0.1 };
    for (row, margin) in [(&own, 2.5), (&none, 0.75)] {
        let want = loss.pair(c, r, margin);
        let (sum, coefficients, meters) = loss_of(&method, &[row], &decoder);
        assert_close(
            &[sum, coefficients[0], coefficients[1]],
            &[want.loss, want.grad_chosen, want.grad_rejected],
            1e-9,
        );
        // What is reported beside the loss is the lead itself.
        assert_close(&[meters.mean("margin").expect("a margin")], &[c - r], 1e-9);
    }
    check_gradient(&method, &[&own, &none], decoder);
}

/// Pairs whose answers have a user's turn in them, of other lengths on the two sides, which is not learned.
fn pairs_with_gaps() -> Vec<Pair> {
    let side = |length: u32, gap: usize| {
        let ids: Vec<u32> = (0..length).map(|at| 5 + (at * at + 3 * at) % 200).collect();
        let loss = (0..ids.len()).map(|at| at >= 4 && !(7..7 + gap).contains(&at)).collect();
        Example { ids, loss }
    };
    [(20, 5, 28, 9), (15, 2, 15, 0), (12, 1, 30, 15)]
        .map(|(chosen, gap, rejected, other)| Pair::new(side(chosen, gap), side(rejected, other)))
        .to_vec()
}

#[test]
fn at_step_one_log_ratios_are_zero_whatever_lies_between_learned_tokens() {
    let (decoder, _) = language();
    let policy = Policy::new("base", &decoder);
    let at_first = |loss: PairwiseLoss, beta: f64| {
        let method = Dpo { loss, beta, ..Dpo::default() };
        let rows = referenced(&policy, pairs_with_gaps()).expect("scores");
        let rows: Vec<&ReferencedPair> = rows.iter().collect();
        loss_of(&method, &rows, &decoder).2
    };
    let meters = at_first(PairwiseLoss::Sigmoid, 0.1);
    assert_close(&[meters.mean("loss").expect("a loss")], &[2.0_f64.ln()], 1e-5);
    for name in ["rewards/chosen", "rewards/rejected", "rewards/margins"] {
        assert_close(&[meters.mean(name).expect("a reward")], &[0.0], 1e-5);
    }
    assert_close(&[at_first(PairwiseLoss::Hinge, 0.1).mean("loss").expect("a loss")], &[1.0], 1e-5);
    // (0 - 1/(2 beta))^2.
    assert_close(&[at_first(PairwiseLoss::Ipo, 0.1).mean("loss").expect("a loss")], &[25.0], 1e-3);
    let rows = referenced(&policy, pairs_with_gaps()).expect("scores");
    let rows: Vec<&ReferencedPair> = rows.iter().collect();
    let meters = loss_of(&Ipo { tau: 0.1 }, &rows, &decoder).2;
    assert_close(&[meters.mean("loss").expect("a loss")], &[25.0], 1e-3);
}

fn probes(settings: &Quantile) -> Vec<<QuantileHead as Objective>::Row> {
    let head = QuantileHead::new(settings);
    let mut stream = Stream::new(3, Purpose::Sample, 0, 0);
    let mut rows = Vec::new();
    for prompt in prompts(6) {
        let rewards: Vec<f64> = (0..settings.pool_samples).map(|_| (4.0 * stream.normal()).round()).collect();
        let sample = PoolSample { ids: vec![1], end: End::Eos, log_prob: 0.0, raw_log_prob: 0.0, kl: None };
        let samples = vec![sample; rewards.len()];
        let scored = Scored { prompt: &prompt.ids, samples: &samples, rewards: &rewards };
        rows.extend(head.rows(scored, &mut stream).expect("rows"));
    }
    rows
}

#[test]
fn a_quantile_head_follows_its_loss_and_measures_its_calibration() {
    let settings = Quantile { components: 3, ..Quantile::default() };
    let rows = probes(&settings);
    let shape = QuantileHead::new(&settings).shape_of(&rows).expect("rewards");
    let head = QuantileHead::new(&settings).with_shape(shape);
    let rows: Vec<_> = rows.iter().collect();
    let decoder = with_head(Head::Quantile { outputs: 9 });
    check_gradient(&head, &rows[..3], decoder.clone());

    let mut meters = Meters::default();
    head.measure(&decoder, &rows, &mut meters);
    let policy = Policy::new("head", &decoder);
    let meaning = meaning(shape);
    let mut predicted = Vec::new();
    for (row, prompt) in rows.iter().zip(prompts(6)) {
        let law = laws_of(&policy, &meaning, &[prompt]).expect("a law").remove(0);
        predicted.extend(row.rewards().iter().map(|r| law.cdf(*r).expect("finite")));
    }
    predicted.sort_by(f64::total_cmp);
    let n = predicted.len() as f64;
    let miss = |(k, u): (usize, &f64)| (u - (k as f64 + 0.5) / n).abs();
    let uniform = predicted.iter().enumerate().map(miss).sum::<f64>() / n;
    assert_close(&[meters.mean("eval_uniformity_error").expect("measured")], &[uniform], 1e-5);
    let calibration = meters.mean("eval_calibration_error").expect("measured");
    assert!(calibration > 0.0 && calibration < 1.0);
}

fn meaning(shape: MixtureShape) -> Meaning {
    let (reward, reference) = ("reward".into(), "reference".into());
    Meaning { shape, ties: TieRule::MidRank, reward, reference }
}

#[test]
fn a_quantile_head_opens_again_with_equal_laws_and_serves_what_it_was_trained_for() {
    let device = Device::flex();
    let (places, folders) = (Places::default(), [(); 2].map(|()| tempfile::tempdir().expect("a folder")));
    let (language, _) = language();
    let base_name = saved(&language, folders[0].path());
    let base = setup::load(&places, &base_name, &device).expect("a model");
    let reward = |table: &str| {
        let table: RewardTable = serde_json::from_str(table).expect("a reward");
        setup::build(&table, &places, &base, &device).expect("a reward")
    };
    let (brevity, sentiment) = (reward(r#"{"brevity": {}}"#), reward(r#"{"sentiment": {}}"#));
    let shape = MixtureShape { components: 4, location: -20.0, scale: 6.0 };
    let reference = base.hash.clone();
    let meaning = Meaning { reward: reward_name(&brevity), reference, ..meaning(shape) };
    let mut decoder = meaning.head_on(language, 0).expect("a head");
    // As it begins, no prompt changes the law.
    let prompts = prompts(5);
    let begun = laws_of(&Policy::new("new", &decoder), &meaning, &prompts).expect("laws");
    assert!(begun.iter().all(|law| *law == begun[0]));
    let drawn = with_head(Head::Quantile { outputs: 12 });
    decoder.head = drawn.head;
    let before = laws_of(&Policy::new("trained", &decoder), &meaning, &prompts).expect("laws");
    assert!(before.windows(2).all(|pair| pair[0] != pair[1]));

    let name = saved(&decoder, folders[1].path());
    let wanted = Wanted { name: &name, ties: TieRule::MidRank, reference: &base, reward: &brevity };
    assert_eq!(laws(wanted, &prompts, &places, &device).expect("laws"), before);
    let refused = |wanted: Wanted<'_>, part: &str| {
        let message = laws(wanted, &prompts, &places, &device).expect_err("refused").to_string();
        assert!(message.contains(part) && message.contains("hint"), "{message}");
    };
    refused(Wanted { ties: TieRule::NonStrict, ..wanted }, "set `ties = \"non-strict\"`");
    refused(Wanted { reward: &sentiment, ..wanted }, "another reward");
    refused(Wanted { name: &base_name, ..wanted }, "gives no laws of rewards");
    let other = setup::load(&places, &base_name, &device).expect("a model");
    let mut other = other;
    other.hash = "another".into();
    refused(Wanted { reference: &other, ..wanted }, "samples of another model");
    // It is no policy.
    let message = setup::load(&places, &name, &device).expect_err("refused").to_string();
    assert!(message.contains("laws of rewards") && message.contains("hint"), "{message}");
}

#[test]
fn a_vocabulary_head_has_the_value_of_every_next_token_in_one_pass() {
    let decoder = with_head(Head::Vocabulary);
    let vocab = decoder.config.vocab_size;
    let made = examples();
    let rows: Vec<model::learn::Row<'_>> =
        made.iter().map(|e| model::learn::Row { ids: &e.ids, loss: &e.loss }).collect();
    let taken = token_values(&decoder, &rows, false);
    for (example, values) in made.iter().zip(taken.rows()) {
        let start = example.prompt_len();
        assert_eq!(values.len(), example.len() - start);
        for (t, value) in values.iter().enumerate() {
            let outputs = scores(&decoder, &[&example.ids[..start + t]], false).values;
            assert_eq!(outputs.len(), vocab + 1);
            let want = outputs[example.ids[start + t] as usize] + outputs[vocab];
            assert!((value - want).abs() < 1e-5, "{value} {want}");
        }
    }
    // Saved, it serves values of texts, the same.
    let folder = tempfile::tempdir().expect("a folder");
    let name = saved(&decoder, folder.path());
    let device = Device::flex();
    let loaded = setup::load_any(&Places::default(), &name, &device).expect("a scorer");
    assert_eq!(loaded.decoder.config.head, Head::Vocabulary);
    assert!(setup::load(&Places::default(), &name, &device).is_err(), "it is no policy");
    let policy = loaded.policy("scorer");
    let mut model = VocabularyModel::new(&policy).expect("a head");
    let (prompt_ids, completion) = made[0].ids.split_at(made[0].prompt_len());
    let prompt = Prompt::from_ids(0, prompt_ids.to_vec());
    let prefixes: Vec<_> =
        (1..=completion.len()).map(|t| Prefix { prompt: &prompt, ids: &completion[..t] }).collect();
    let served = model.prefix_rewards(&prefixes).expect("values");
    for (served, value) in served.iter().zip(taken.rows().next().expect("a row")) {
        assert!((served - f64::from(*value)).abs() < 1e-5, "{served} {value}");
    }
}

#[test]
fn targets_of_a_vocabulary_head_are_means_over_all_next_tokens_of_the_base() {
    let (base, _) = language();
    let decoder = with_head(Head::Vocabulary);
    let vocab = decoder.config.vocab_size;
    let (policy, target) = (Policy::new("base", &base), Policy::new("target", &decoder));
    let made = examples();
    let given = values_before_each(&policy, &target, &made.iter().collect::<Vec<_>>()).expect("values");
    let mut of_taken = 0.0_f64;
    for (example, values) in made.iter().zip(&given) {
        let start = example.prompt_len();
        assert_eq!((values.len(), values[0]), (example.loss_tokens(), 0.0));
        for t in 1..values.len() {
            let context = &example.ids[..start + t];
            let outputs = scores(&decoder, &[context], false).values;
            let tokens: Vec<[u32; 1]> = (0..vocab as u32).map(|id| [id]).collect();
            let items: Vec<(&[u32], &[u32])> = tokens.iter().map(|id| (context, &id[..])).collect();
            let law: Vec<f64> =
                policy.score(&items).expect("scores").iter().map(|row| f64::from(row[0]).exp()).collect();
            let mean: f64 = (0..vocab).map(|z| law[z] * f64::from(outputs[z] + outputs[vocab])).sum();
            assert!((values[t] - mean).abs() < 1e-4, "{} {mean}", values[t]);
            of_taken = of_taken.max((mean - f64::from(outputs[example.ids[start + t] as usize])).abs());
        }
    }
    assert!(of_taken > 0.1, "the value of the taken token is another");
    // CD-Q: the last target is the reward, every other the mean after the tokens so far.
    let settings = PrefixScorer { form: Form::Q, head: HeadName::Vocabulary, ..PrefixScorer::default() };
    let targets = settings.targets(&given[0], 3.0);
    assert_eq!(targets, [&given[0][1..], &[3.0]].concat());
}

#[test]
fn a_vocabulary_scorer_follows_its_loss() {
    let settings = PrefixScorer { head: HeadName::Vocabulary, ..PrefixScorer::default() };
    let method = Scorer::new(&settings);
    let made = examples();
    let sample = |ids: &[u32]| PoolSample {
        ids: ids.to_vec(),
        end: End::Eos,
        log_prob: 0.0,
        raw_log_prob: 0.0,
        kl: None,
    };
    let mut stream = Stream::new(3, Purpose::Sample, 0, 0);
    let mut rows = Vec::new();
    for (example, reward) in made.iter().zip([1.0, -0.5, 2.0]) {
        let (prompt, completion) = example.ids.split_at(example.prompt_len());
        let samples = [sample(completion)];
        let scored = Scored { prompt, samples: &samples, rewards: &[reward] };
        rows.extend(method.rows(scored, &mut stream).expect("rows"));
    }
    check_gradient(&method, &rows.iter().collect::<Vec<_>>(), with_head(Head::Vocabulary));
}

fn solution(labels: StepLabels, separator: &str) -> Stepwise {
    let (_, tokenizer) = language();
    let steps = ["1 + 2 = 3", "3 + 4 = 8", "so 8"].map(str::to_owned);
    Renderer::new(&tokenizer, None)
        .stepwise(&Text::Plain("What is 1 + 2 + 4?".into()), &steps, &labels, separator)
        .expect("a solution")
}

#[test]
fn steps_are_labelled_where_their_separator_ends() {
    let (_, tokenizer) = language();
    let judged = solution(StepLabels::Judged(vec![true, false, false]), "\n");
    let prompt = tokenizer.encode("What is 1 + 2 + 4?", true).expect("encoded");
    let mut want = prompt;
    let mut ends = Vec::new();
    for step in ["1 + 2 = 3", "3 + 4 = 8", "so 8"] {
        want.extend(tokenizer.encode(step, false).expect("encoded"));
        want.extend(tokenizer.encode("\n", false).expect("encoded"));
        ends.push(want.len() - 1);
    }
    let places: Vec<usize> = (0..judged.ends.len()).filter(|at| judged.ends[*at]).collect();
    assert_eq!((judged.ids.len(), judged.ends.len()), (want.len(), want.len()));
    assert_eq!((judged.ids.clone(), places, judged.judged), (want, ends.clone(), true));
    assert_eq!(judged.labels, [1.0, 0.0, 0.0]);
    let last = judged.last_only();
    assert_eq!((0..last.ids.len()).filter(|at| last.ends[*at]).collect::<Vec<_>>(), [ends[2]]);
    assert_eq!(last.labels, [0.0]);
    // Without a separator a step ends at its own last token.
    let bare = solution(StepLabels::Graded(vec![0.5, -1.0, 2.0]), "");
    assert_eq!(bare.ids.len(), bare.ends.len());
    assert_eq!((bare.ends.iter().filter(|end| **end).count(), bare.judged), (3, false));
    let renderer = Renderer::new(&tokenizer, None);
    let refused = |steps: &[&str], labels| {
        let steps: Vec<String> = steps.iter().map(|step| (*step).to_owned()).collect();
        let labels = StepLabels::Judged(labels);
        renderer.stepwise(&Text::Plain("p".into()), &steps, &labels, "").expect_err("refused").to_string()
    };
    assert!(refused(&["a", ""], vec![true, true]).starts_with("step 1 and its separator have no tokens"));
    assert!(refused(&["a"], vec![true, true]).starts_with("2 labels for 1 steps"));
}

#[test]
fn labels_of_steps_are_learned_by_cross_entropy_or_by_squares() {
    let (judged, graded) = (
        solution(StepLabels::Judged(vec![true, false, true]), "\n"),
        solution(StepLabels::Graded(vec![0.5, -1.0, 2.0]), "\n"),
    );
    assert_close(&[at_label(0.0, 1.0, true).0, at_label(3.0, 1.0, false).0], &[2.0_f64.ln(), 2.0], 1e-12);
    for head in [HeadName::Scalar, HeadName::Vocabulary] {
        let decoder = with_head(head.into());
        let settings = PrefixScorer { form: Form::Stepwise, head, ..PrefixScorer::default() };
        let method = StepScorer::new(&settings);
        for row in [&judged, &graded] {
            let ends: Vec<usize> = (0..row.ids.len()).filter(|at| row.ends[*at]).collect();
            let value = |end: usize| {
                let outputs = |ids: &[u32]| scores(&decoder, &[ids], false).values;
                f64::from(match head {
                    HeadName::Scalar => outputs(&row.ids[..=end])[0],
                    HeadName::Vocabulary => {
                        let outputs = outputs(&row.ids[..end]);
                        outputs[row.ids[end] as usize] + outputs[outputs.len() - 1]
                    }
                })
            };
            let want: f64 = ends
                .iter()
                .zip(&row.labels)
                .map(|(end, label)| at_label(value(*end), *label, row.judged).0)
                .sum();
            let (sum, _, meters) = loss_of(&method, &[row], &decoder);
            assert!((sum - want).abs() < 1e-4, "{sum} {want}");
            assert_eq!(meters.mean("accuracy").is_some(), row.judged);
        }
        check_gradient(&method, &[&judged, &graded], decoder);
        let last = StepScorer::new(&PrefixScorer { train_on_last_step_only: true, ..settings });
        assert_eq!(last.prepare(vec![judged.clone()])[0].labels, [1.0]);
    }
}

#[test]
fn heads_report_their_width() {
    let vocab = language().0.config.vocab_size;
    for (head, width) in [(Head::Score, 1), (Head::Vocabulary, vocab + 1), (Head::Quantile { outputs: 6 }, 6)]
    {
        assert_eq!(Policy::new("head", &with_head(head)).width(), width);
    }
}
