//! Adapters of one backbone run as rows of one batch, and give what they give by themselves, bit for bit.

use std::path::Path;

use burn::tensor::Device;
use generate::{
    Chance, Completion, Engine, Purpose, RowId, Sample, SampleAsk, Sampling, Source, Step, Stream, TokenId,
};
use model::{Config, Decoder, Policy, Precision};
use serde_json::{Value, json};

const VOCAB: usize = 70;

/// A family's own fields, the maps of its first adapter and those of its second.
type Family = (Value, [&'static [&'static str]; 2]);

fn llama(tied: bool) -> Family {
    let fields = json!({ "model_type": "llama", "num_key_value_heads": 2, "tie_word_embeddings": tied });
    (fields, [&["q_proj", "v_proj"], &["_proj"]])
}

/// A Gemma 2 whose caps and windows are narrow enough to change what is drawn; its second adapter is of the head too, where that is
/// not tied.
fn gemma(tied: bool) -> Family {
    let fields = json!({
        "model_type": "gemma2", "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 5,
        "query_pre_attn_scalar": 5.0, "attn_logit_softcapping": 1.5, "final_logit_softcapping": 2.0,
        "tie_word_embeddings": tied,
    });
    (fields, [&["q_proj", "down_proj"], &["_proj", "lm_head"]])
}

fn families() -> Vec<Family> {
    let neox = |parallel: bool| {
        let fields = json!({ "model_type": "gpt_neox", "use_parallel_residual": parallel });
        let targets: [&[&str]; 2] = [&["query_key_value"], &["dense", "dense_h_to_4h", "dense_4h_to_h"]];
        (fields, targets)
    };
    let gpt2 = (json!({ "model_type": "gpt2" }), [&["c_attn"][..], &["c_proj", "c_fc"]]);
    vec![llama(true), llama(false), gemma(true), gemma(false), neox(true), neox(false), gpt2]
}

fn random(fields: &Value, seed: f64) -> (Decoder, impl FnMut() -> f64) {
    let shape = json!({
        "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 64, "eos_token_id": 1, "pad_token_id": 0,
    });
    let mut map = shape.as_object().cloned().expect("a map");
    map.extend(fields.as_object().cloned().expect("a map"));
    let config = Config::from_json(map, Path::new("config.json")).expect("a config");
    let mut state = seed;
    let mut draw = move || {
        state += 1.0;
        4.0 * (state * 12.9898).sin()
    };
    (Decoder::random(config, &Device::flex(), &mut draw), draw)
}

/// The decoder with an adapter on some of its maps.
fn adapted(base: &Decoder, targets: &[&str], draw: &mut dyn FnMut() -> f64) -> Decoder {
    let mut decoder = base.clone();
    decoder.each_linear(&mut |path, linear| {
        if targets.iter().any(|target| path.ends_with(target)) {
            linear.attach(3, 0.7, &mut || draw().rem_euclid(1.0));
        }
    });
    decoder.visit(&mut |name, mut slot| {
        if name.contains("lora_B") {
            let count = slot.shape().iter().product();
            let values: Vec<f32> = (0..count).map(|_| 0.1 * draw() as f32).collect();
            slot.set_flat(burn::tensor::Tensor::from_data(
                burn::tensor::TensorData::new(values, [count]),
                &Device::flex(),
            ));
        }
    });
    decoder
}

/// A base and two adapters of it as policies that share weights, and as policies that do not.
fn policies((fields, [first, second]): &Family, precision: Precision) -> (Vec<Policy>, Vec<Policy>) {
    let (base, mut draw) = random(fields, 0.0);
    let decoders = [base.clone(), adapted(&base, first, &mut draw), adapted(&base, second, &mut draw)];
    let backbone = base.frozen_as(precision);
    let shared =
        decoders.iter().map(|of| Policy::with_precision("shared", &backbone.with_adapter_of(of), precision));
    let alone = decoders.iter().map(|of| Policy::with_precision("alone", of, precision));
    (shared.collect(), alone.collect())
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn a_joint_batch_gives_what_each_model_gives() {
    for (family, precision) in families()
        .into_iter()
        .flat_map(|family| [Precision::F32, Precision::Bf16].map(|p| (family.clone(), p)))
    {
        let (shared, alone) = policies(&family, precision);
        let mut state = 7_u64;
        let mut pick = move |n: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % n as u64) as usize
        };
        let others: Vec<&dyn Step> = shared[1..].iter().map(|policy| policy as &dyn Step).collect();
        let mut joined = shared[0].join(&others).expect("they share weights");
        let mut single: Vec<_> = alone.iter().map(Step::session).collect();
        // The models' rows differ in what they hold, and so in what they are extended by.
        let mut rows: Vec<(Vec<RowId>, Vec<RowId>, Vec<usize>)> = Vec::new();
        let mut changed = false;
        for round in 0..12 {
            if round % 3 == 0 {
                let open = joined.sessions.iter_mut().map(|session| session.open()).collect();
                rows.push((open, single.iter_mut().map(|session| session.open()).collect(), vec![0; 3]));
            } else if round % 3 == 1 {
                let (from, own, held) = rows[pick(rows.len())].clone();
                let fork =
                    |sessions: &mut Vec<Box<dyn generate::Session + '_>>, rows: &[RowId]| -> Vec<RowId> {
                        sessions
                            .iter_mut()
                            .zip(rows)
                            .zip(&held)
                            .map(|((s, row), len)| s.fork(*row, *len))
                            .collect()
                    };
                let (a, b) = (fork(&mut joined.sessions, &from), fork(&mut single, &own));
                rows.push((a, b, held.clone()));
            }
            let tokens: Vec<Vec<Vec<TokenId>>> = rows
                .iter()
                .map(|_| (0..3).map(|_| (0..=pick(3)).map(|_| pick(VOCAB) as TokenId).collect()).collect())
                .collect();
            let counts = vec![1; rows.len()];
            let items: Vec<Vec<(RowId, &[TokenId])>> = (0..3)
                .map(|m| rows.iter().zip(&tokens).map(|(row, tokens)| (row.0[m], &tokens[m][..])).collect())
                .collect();
            let together = joined.batch.extend_each(&items, &counts).expect("room");
            for (m, session) in single.iter_mut().enumerate() {
                let items: Vec<(RowId, &[TokenId])> =
                    rows.iter().zip(&tokens).map(|(row, tokens)| (row.1[m], &tokens[m][..])).collect();
                let own = session.extend(&items).expect("room");
                let what = format!("{}, round {round}, model {m}", family.0);
                assert_eq!(bits(&together[m].values), bits(&own.values), "{what}");
                assert_eq!(together[m].width, own.width);
            }
            changed |= together[0].values != together[1].values;
            for (row, tokens) in rows.iter_mut().zip(&tokens) {
                row.2.iter_mut().zip(tokens).for_each(|(held, tokens)| *held += tokens.len());
            }
        }
        assert!(changed, "the adapters change nothing");
    }
}

/// What a product of three policies draws, and its counts.
fn drawn(policies: &[Policy]) -> (Vec<Completion>, [u64; 4]) {
    let source = |(policy, weight)| Source { policy: policy as &dyn Step, weight };
    let sources = policies.iter().zip([1.0, 0.7, -0.4]).map(source).collect();
    let mut engine = Engine::product(sources, 0, Sampling::default()).expect("one vocabulary");
    let ask = |row: u64| SampleAsk {
        prefix: (0..3 + row as u32 % 4).map(|at| 2 + at * 5).collect(),
        prompt_len: 3,
        budget: 12,
        stream: Stream::new(0, Purpose::Sample, 0, row),
    };
    let given = engine.sample((0..9).map(ask).collect(), &mut Chance::Streams).expect("room");
    let ledger = *engine.ledger();
    (given, [ledger.decode_tokens, ledger.prefill_tokens, ledger.cached_tokens, ledger.forward_passes])
}

#[test]
fn guidance_by_adapters_draws_the_same_texts_at_the_same_count() {
    for family in families() {
        let (shared, alone) = policies(&family, Precision::F32);
        assert!(shared[0].joins(&shared[1]) && shared[1].joins(&shared[2]), "{}", family.0);
        let texts = drawn(&shared);
        assert_eq!(texts, drawn(&alone), "{}", family.0);
        let unguided = [0, 0, 0].map(|_| Policy::new("base", shared[0].decoder()));
        assert_ne!(texts.0, drawn(&unguided).0, "{}: the adapters change nothing", family.0);
    }
}

#[test]
fn only_models_of_the_same_weights_join() {
    for family in families() {
        let (shared, alone) = policies(&family, Precision::F32);
        assert!(!shared[0].joins(&alone[0]) && !alone[0].joins(&alone[1]), "they are packed apart");
        let (other, _) = random(&family.0, 5.0);
        assert!(!shared[0].joins(&Policy::new("other", &other)));
        // What is not packed may not differ either: any norm, any position that is learned.
        let backbone = shared[0].decoder();
        let mut names = Vec::new();
        backbone.clone().visit(&mut |name, slot| {
            if slot.shape().len() == 1 && !name.ends_with("bias") || name.ends_with("wpe.weight") {
                names.push(name.to_owned());
            }
        });
        assert!(names.len() >= 5, "{names:?}");
        for changed in names {
            let mut other = backbone.clone();
            other.visit(&mut |name, mut slot| {
                if name == changed {
                    let count = slot.shape().iter().product();
                    let values = vec![0.3; count];
                    let values = burn::tensor::TensorData::new(values, [count]);
                    slot.set_flat(burn::tensor::Tensor::<1>::from_data(values, &Device::flex()));
                }
            });
            assert!(backbone.shares_weights(backbone) && !backbone.shares_weights(&other), "{changed}");
        }
    }
}
