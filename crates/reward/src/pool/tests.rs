//! Pools: what is kept, what is refused.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use generate::{End, Sampling};

use super::*;
use crate::calibration::Calibration;
use crate::fake;
use crate::verifier::{Brevity, Verifier};

fn prompts() -> Vec<Prompt> {
    (0..3).map(|index| Prompt::from_ids(index, vec![1, 40 + index as TokenId])).collect()
}

fn key(samples: usize) -> PoolKey {
    PoolKey {
        policy: "5".repeat(64),
        tokenizer: "byte".into(),
        sampling: Sampling { temperature: 0.7, ..Sampling::default() },
        budget: 8,
        seed: 11,
        prompts: prompts_hash(&prompts()).expect("a hash"),
        samples,
    }
}

/// Samples of different lengths and with numbers that have no short decimals.
fn completion(prompt: usize, sample: usize) -> Completion {
    let length = 1 + (prompt + 2 * sample) % 5;
    Completion {
        ids: (0..length).map(|at| (65 + prompt + sample + at) as TokenId).collect(),
        end: if length == 5 { End::Budget } else { End::Eos },
        log_probs: (0..length).map(|at| -0.1 - at as f32 / 3.0).collect(),
        raw_log_probs: (0..length).map(|at| -0.2 - at as f32 / 7.0).collect(),
        kl: (prompt != 1).then_some(1.0 / (sample + 3) as f64),
        log_z: Vec::new(),
    }
}

fn pool(samples: usize) -> Pool {
    let drawn: Vec<Vec<_>> =
        (0..3).map(|prompt| (0..samples).map(|sample| completion(prompt, sample)).collect()).collect();
    let cost = Ledger { decode_tokens: 99, seconds: 0.3, ..Ledger::default() };
    Pool::new(key(samples), &prompts(), &drawn, cost).expect("a pool")
}

fn id(name: &str, identity: &str) -> RewardId {
    RewardId { name: name.into(), identity: identity.into() }
}

fn brevity() -> Verifier<Brevity> {
    Verifier::new(Brevity::tokens(), Arc::new(fake::decode))
}

fn message<T>(outcome: Result<T, PoolError>) -> String {
    outcome.err().expect("an error").to_string()
}

#[test]
fn a_pool_comes_back_as_it_was() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path().join("pools/base");
    assert!(Pool::open(&dir, &key(4)).expect("no folder is no error").is_none());
    let mut pool = pool(4);
    let gold = id("gold", "a1");
    assert!(pool.score(&gold, &mut brevity(), &prompts()).expect("scores"));
    let thirds = (0..3).map(|p| (0..4).map(|s| f64::from(p * 4 + s) / 3.0).collect()).collect();
    pool.add_rewards(id("proxy", "b2"), thirds, Ledger { reward_tokens: 7, ..Ledger::default() })
        .expect("scores");
    pool.extract_answers("last-letter", &fake::decode, &|text| {
        text.chars().next_back().filter(|c| *c != 'F').map(String::from)
    });
    let path = pool.save(&dir).expect("written");
    let back = Pool::open(&dir, &key(4)).expect("readable").expect("there");
    assert_eq!(back, pool);
    assert_eq!(Pool::open_path(&path, &key(4)).expect("readable"), pool);
    assert_eq!(back.samples(1)[2], PoolSample::from(&completion(1, 2)));
    assert_eq!((back.len(), back.samples_per_prompt(), back.cost().decode_tokens), (3, 4, 99));
    assert_eq!(back.rewards(&gold).expect("scored")[0], [-1.0, -3.0, -5.0, -2.0]);
    assert_eq!(back.column(&gold).map(|column| column.cost.reward_calls), Some(12));
    assert_eq!(back.answers("other"), None);
    let answers = back.answers("last-letter").expect("extracted");
    assert_eq!(answers[0][..2], [Some("A".to_owned()), Some("D".to_owned())]);
    // The same pool gives the same bytes, and nothing else is left in the folder.
    let bytes = fs_err::read(&path).expect("readable");
    assert_eq!(fs_err::read(back.save(&dir).expect("written")).expect("readable"), bytes);
    assert_eq!(fs_err::read_dir(&dir).expect("a folder").count(), 1);
}

#[test]
fn scores_are_not_computed_twice_and_are_found_by_identity() {
    let mut pool = pool(4);
    let mut reward = brevity();
    assert!(pool.score(&id("gold", "a1"), &mut reward, &prompts()).expect("scores"));
    assert!(!pool.score(&id("renamed", "a1"), &mut reward, &prompts()).expect("scores"));
    assert_eq!(reward.ledger().reward_calls, 12);
    assert_eq!(
        message(pool.rewards(&id("gold", "z9"))),
        "pool: not scored by gold (z9); it has gold (a1)\n  hint: score the pool with this reward first"
    );
    assert!(pool.score(&id("gold", "z9"), &mut reward, &prompts()).expect("scores"));
    assert_eq!(pool.columns().count(), 2);
}

#[test]
fn a_larger_pool_serves_its_first_samples_and_loses_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    let gold = id("gold", "a1");
    let whole = pool(4);
    whole.save(dir).expect("written");
    pool(9).save(dir).expect("written");
    let mut part = Pool::open(dir, &key(2)).expect("readable").expect("there");
    assert_eq!((part.key().samples, part.samples_per_prompt()), (4, 2), "of several the smallest");
    for place in 0..3 {
        assert_eq!(part.samples(place), pool(2).samples(place));
    }
    assert!(part.score(&gold, &mut brevity(), &prompts()).expect("scores"));
    part.extract_answers("all", &fake::decode, &|text| Some(text.to_owned()));
    part.save(dir).expect("written");

    let part = Pool::open(dir, &key(2)).expect("readable").expect("there");
    assert_eq!(part.rewards(&gold).expect("scored")[2], [-3.0, -5.0]);
    assert_eq!(part.answers("all").expect("extracted")[0], [Some("A".to_owned()), Some("BCD".to_owned())]);
    let mut all = Pool::open(dir, &key(4)).expect("readable").expect("there");
    assert_eq!(all.samples(2), whole.samples(2));
    assert!(all.rewards(&gold).is_err(), "two samples of four are scored");
    assert_eq!((all.answers("all"), all.columns().count()), (None, 0));
    // Scored as a whole, it serves the part, and a part's scores do not take its place.
    assert!(all.score(&gold, &mut brevity(), &prompts()).expect("scores"));
    let mut part = all.clone().with_first(2).expect("enough samples");
    part.add_rewards(gold.clone(), vec![vec![0.0; 2]; 3], Ledger::default()).expect("scores");
    assert_eq!(part.with_first(4).expect("enough samples"), all);
    assert!(Pool::open(dir, &key(10)).expect("readable").is_none());
}

#[test]
fn every_difference_is_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = pool(4).save(dir.path()).expect("written");
    let at = path.display();
    let hint = "\n  hint: sample a new pool for this run, or give the run the pool's settings";
    let run = PoolKey { sampling: Sampling::default(), ..key(4) };
    assert!(Pool::open(dir.path(), &run).expect("readable").is_none());
    assert_eq!(
        message(Pool::open_path(&path, &run)),
        format!("{at}: the pool is not the run's\n  temperature: pool 0.7, run 1.0{hint}")
    );
    let run = PoolKey {
        policy: "6".repeat(64),
        tokenizer: "bpe".into(),
        sampling: Sampling {
            temperature: 0.7,
            top_k: 5,
            top_p: 0.9,
            min_p: 0.1,
            stop: vec!["\n".into()],
            ..Sampling::default()
        },
        budget: 9,
        seed: 12,
        prompts: "none".into(),
        samples: 5,
    };
    let prompts = &key(4).prompts[..12];
    assert_eq!(
        message(Pool::open_path(&path, &run)),
        format!(
            "{at}: the pool is not the run's\n  policy: pool 555555555555…, run 666666666666…\n  tokenizer: pool byte, \
             run bpe\n  prompts: pool {prompts}…, run none\n  top_p: pool 1.0, run 0.9\n  min_p: pool 0.0, run 0.1\n  \
             top_k: pool 0, run 5\n  stop: pool [], run [\"\\n\"]\n  budget: pool 8, run 9\n  seed: pool 11, run \
             12\n  samples: pool 4, run 5{hint}"
        )
    );
}

#[test]
fn addresses_depend_on_every_field_but_the_number_of_samples() {
    let address = |key: &PoolKey| key.address().expect("a hash");
    let base = key(4);
    assert_eq!(address(&base), address(&key(64)));
    let others = [
        PoolKey { policy: String::new(), ..base.clone() },
        PoolKey { tokenizer: String::new(), ..base.clone() },
        PoolKey { sampling: Sampling { top_k: 1, ..base.sampling.clone() }, ..base.clone() },
        PoolKey { budget: 9, ..base.clone() },
        PoolKey { seed: 0, ..base.clone() },
        PoolKey { prompts: prompts_hash(&prompts()[..2]).expect("a hash"), ..base.clone() },
    ];
    for other in others {
        assert_ne!(address(&base), address(&other), "{other:?}");
    }
    let mut moved = prompts();
    moved[0].index = 7;
    assert_ne!(prompts_hash(&moved).expect("a hash"), base.prompts, "streams are addressed by the place");
}

/// The error of a pool file whose text is changed.
fn changed(change: impl Fn(&str) -> String) -> (String, String) {
    let dir = tempfile::tempdir().expect("a folder");
    let mut pool = pool(2);
    pool.add_rewards(id("gold", "a1"), vec![vec![1.0, 0.5]; 3], Ledger::default()).expect("scores");
    let path = pool.save(dir.path()).expect("written");
    let text = fs_err::read_to_string(&path).expect("readable");
    fs_err::write(&path, change(&text)).expect("written");
    (message(Pool::open(dir.path(), &key(2))), path.display().to_string())
}

#[test]
fn a_truncated_file_is_noticed_wherever_it_ends() {
    let lines = |text: &str, keep: usize| text.split_inclusive('\n').take(keep).collect::<String>();
    for (keep, cut, found) in [(1, 0, 0), (3, 0, 2), (4, 1, 2), (4, 30, 2), (2, 3, 0)] {
        let (error, path) = changed(|text| {
            let kept = lines(text, keep);
            kept[..kept.len() - cut].to_owned()
        });
        assert_eq!(
            error,
            format!(
                "{path}: truncated pool: {found} of 3 prompts\n  hint: delete the file; it will be sampled again"
            )
        );
    }
    let (error, path) = changed(|_| String::new());
    assert!(error.starts_with(&format!("{path}:1: damaged pool: EOF")), "{error}");
}

#[test]
fn a_damaged_line_is_named() {
    let hint = "\n  hint: delete the file; it will be sampled again";
    let replaced = |from: &'static str, to: &'static str| {
        changed(move |text| {
            let (head, rows) = text.split_once('\n').expect("a header");
            assert!(rows.contains(from), "{from}");
            format!("{head}\n{}", rows.replacen(from, to, 1))
        })
    };
    let (error, path) = replaced("\"index\":1", "\"index\":\u{0}");
    assert_eq!(error, format!("{path}:3: damaged pool: expected value at line 1 column 10{hint}"));
    let (error, path) = replaced("\"index\":1", "\"index\":5");
    assert_eq!(error, format!("{path}:1: damaged pool: the prompts are not those of the key{hint}"));
    let (error, path) = replaced("\"a1\":[1.0,0.5]", "\"a1\":[1.0]");
    assert_eq!(error, format!("{path}:2: damaged pool: 1 scores by gold, expected 2{hint}"));
    let (error, path) = replaced("\"a1\":[1.0,0.5]", "");
    assert_eq!(error, format!("{path}:2: damaged pool: 0 rewards, expected 1{hint}"));
    let (error, path) = changed(|text| format!("{text}\n"));
    assert_eq!(error, format!("{path}:6: damaged pool: text after the last of 3 prompts{hint}"));
    let (error, path) = changed(|text| text.replacen("\"schema\":2", "\"schema\":3,\"new\":0", 1));
    assert_eq!(
        error,
        format!(
            "{path}: the pool has schema 3, and this version reads schema 2\n  hint: sample it again, or use the \
             version that wrote it"
        )
    );
}

#[test]
fn a_number_that_is_another_is_noticed_by_the_checksum() {
    let checksum = |problem: &str, (error, path): (String, String)| {
        assert!(error.starts_with(&format!("{path}:5: damaged pool: {problem}")), "{error}");
    };
    let other = "the file is not what was written: its checksum is another";
    checksum(other, changed(|text| text.replacen("\"a1\":[1.0,0.5]", "\"a1\":[1.0,0.7]", 1)));
    checksum(other, changed(|text| text.replacen("\"decode_tokens\":99", "\"decode_tokens\":98", 1)));
    let last = |text: &str| text.lines().next_back().map(str::len).unwrap_or_default();
    checksum("the checksum cannot be read", changed(|text| text[..text.len() - last(text) - 1].to_owned()));
    // A pool of the version before, which had none, is read as it is.
    let dir = tempfile::tempdir().expect("a folder");
    let path = pool(2).save(dir.path()).expect("written");
    let text = fs_err::read_to_string(&path).expect("readable");
    let before = text[..text.len() - last(&text) - 1].replacen("\"schema\":2", "\"schema\":1", 1);
    fs_err::write(&path, before).expect("written");
    assert!(Pool::open(dir.path(), &key(2)).expect("readable").is_some());
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let drawn = |samples: usize| (0..3).map(|p| (0..samples).map(|s| completion(p, s)).collect()).collect();
    let new = |prompts: &[Prompt], drawn: Vec<Vec<_>>| {
        message(Pool::new(key(2), prompts, &drawn, Ledger::default()))
    };
    let other = "pool: the prompts given are not those of the pool's key\n  hint: the key's `prompts` is the hash of the \
                 same prompts in the same order";
    assert_eq!(new(&prompts()[1..], drawn(2)), other);
    assert_eq!(new(&prompts(), drawn(1)), "pool: samples of prompt 0: got 1, expected 2");
    assert_eq!(new(&prompts(), vec![]), "pool: prompts with samples: got 0, expected 3");
    let mut infinite = drawn(2);
    infinite[1][1].raw_log_probs[0] = f32::NEG_INFINITY;
    assert_eq!(
        new(&prompts(), infinite),
        "pool: the raw log-probability of sample 1 of prompt 1 is -inf; it must be finite"
    );
    let mut pool = pool(2);
    let mut add = |values| message(pool.add_rewards(id("gold", "a1"), values, Ledger::default()));
    assert_eq!(add(vec![vec![0.0; 2]]), "pool: prompts scored by gold: got 1, expected 3");
    assert_eq!(add(vec![vec![0.0; 3]; 3]), "pool: scores by gold of prompt 0: got 3, expected 2");
    assert_eq!(
        add(vec![vec![0.0, f64::NAN]; 3]),
        "pool: the score by gold of sample 1 of prompt 0 is NaN; it must be finite"
    );
    assert_eq!(message(pool.score(&id("gold", "a1"), &mut brevity(), &prompts()[..2])), other);
    assert_eq!(pool.columns().count(), 0, "nothing was added");
    assert_eq!(message(pool.with_first(3)), "pool: samples asked of the pool: got 3, expected 2");
}

/// A disk with room for this many bytes.
struct Disk(usize);

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0 == 0 {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        let taken = bytes.len().min(self.0).min(7);
        self.0 -= taken;
        Ok(taken)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_is_told_with_the_bytes() {
    let mut written = 0;
    file::write_counted(&mut Disk(30), &[1; 30], &mut written).expect("it fits");
    assert_eq!(written, 30);
    written = 0;
    let source = file::write_counted(&mut Disk(20), &[1; 30], &mut written).unwrap_err();
    let error = PoolError::Write { path: Path::new("pools/a.jsonl").into(), written, bytes: 30, source };
    assert_eq!(
        error.to_string(),
        "pool pools/a.jsonl: 20 of 30 bytes written: no storage space\n  hint: nothing was changed; free at least 30 \
         bytes there, or keep pools in another folder"
    );
}

#[test]
fn a_failed_save_leaves_nothing_behind() {
    let dir = tempfile::tempdir().expect("a folder");
    let pool = pool(2);
    let path = pool.save(dir.path()).expect("written");
    fs_err::remove_file(&path).expect("removed");
    // A folder in its place cannot be replaced by a file.
    fs_err::create_dir(&path).expect("a folder");
    let error = message(pool.save(dir.path()));
    assert!(error.starts_with(&format!("pool {}: ", path.display())), "{error}");
    assert_eq!(fs_err::read_dir(dir.path()).expect("a folder").count(), 1);
}

#[test]
fn calibration_ranks_against_the_samples_shown() {
    let mut pool = pool(4);
    let gold = id("gold", "a1");
    assert!(Calibration::from_pool(&pool, &gold).is_err());
    pool.score(&gold, &mut brevity(), &prompts()).expect("scores");
    let calibration = Calibration::from_pool(&pool, &gold).expect("scored");
    let prompt = &prompts()[0];
    assert_eq!(calibration.cached(prompt).expect("known").sorted(), [-5.0, -3.0, -2.0, -1.0]);
    let rank = calibration.rank(prompt, -3.0).expect("a rank");
    assert_eq!((rank.below, rank.at_most, rank.total), (1, 2, 4));
    let first = Calibration::from_pool(&pool.with_first(2).expect("enough"), &gold).expect("scored");
    assert_eq!(first.cached(prompt).expect("known").sorted(), [-3.0, -1.0]);
    let unknown = Prompt::from_ids(8, vec![9]);
    assert_eq!(
        first.rank(&unknown, 0.0).unwrap_err().to_string(),
        "no cached rewards for prompt 8\n  hint: the pool is of other prompts; sample one of these prompts"
    );
    assert_eq!(
        first.rank(prompt, f64::NAN).unwrap_err().to_string(),
        "prompt 0: reward[0] is NaN; it must be finite"
    );
}

#[test]
fn parts_drawn_one_after_the_other_make_the_pool() {
    let whole = pool(3);
    let prompts = prompts();
    let part = |range: std::ops::Range<usize>, cost: Ledger| {
        let drawn: Vec<Vec<_>> =
            range.clone().map(|prompt| (0..3).map(|sample| completion(prompt, sample)).collect()).collect();
        let key = PoolKey { prompts: prompts_hash(&prompts[range.clone()]).expect("a hash"), ..key(3) };
        Pool::new(key, &prompts[range], &drawn, cost).expect("a part")
    };
    let cost = Ledger { decode_tokens: 99, seconds: 0.3, ..Ledger::default() };
    let parts = || vec![part(0..2, cost), part(2..3, Ledger::default())];
    assert_eq!(Pool::join(key(3), &prompts, parts()).expect("joined"), whole);
    let reversed = parts().into_iter().rev().collect();
    assert!(matches!(Pool::join(key(3), &prompts, reversed), Err(PoolError::OtherPrompts)));
    let short = parts().into_iter().take(1).collect();
    assert!(matches!(Pool::join(key(3), &prompts, short), Err(PoolError::OtherPrompts)));
    let other = PoolKey { seed: 12, ..key(3) };
    assert!(matches!(Pool::join(other, &prompts, parts()), Err(PoolError::OtherPrompts)));
}
