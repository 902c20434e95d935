//! Samples are given as they end, and new asks take their places.

use std::collections::BTreeMap;

use generate::schedule::{Answer, Ask, Machine, NoNext, Reply, Services, run};
use generate::tabular::Tabular;
use generate::{
    Chance, Completion, End, Engine, Error, Ledger, Prompt, Purpose, Sample, SampleAsk, Sampling, Stream,
    TextMethod, TokenId,
};
use objective::tabular::{TabularLm, TabularTable};

/// A law of four tokens that ends at its horizon alone.
fn table() -> Tabular {
    let mut conditionals: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for len in 0..5 {
        for code in 0..1_u32 << len {
            let prefix: String = (0..len).map(|at| if code >> at & 1 == 1 { '1' } else { '0' }).collect();
            conditionals.insert(prefix, vec![0.4, 0.6, 0.0]);
        }
    }
    let table = serde_json::json!({ "vocab": 3, "eos": 2, "horizon": 5, "conditionals": conditionals });
    let table: TabularTable = serde_json::from_value(table).expect("a table");
    Tabular::new(TabularLm::try_from(table).expect("a law"))
}

/// Draws a sample after the other, of 1 token and of 4 in turn; even prompts begin with the short one.
struct Turns;

struct Turn {
    prompt: Prompt,
    stream: Stream,
    drawn: Vec<Vec<TokenId>>,
}

impl TextMethod for Turns {
    fn start(&self, prompt: &Prompt, stream: Stream) -> Box<dyn Machine<NoNext>> {
        Box::new(Turn { prompt: prompt.clone(), stream, drawn: Vec::new() })
    }
}

impl Machine<NoNext> for Turn {
    fn advance(&mut self, reply: Reply, _: &mut Chance<'_>) -> Result<Ask<NoNext>, Error> {
        if let Reply::Samples(given) = reply {
            self.drawn.extend(given.into_iter().map(|completion| completion.ids));
        }
        let number = self.drawn.len();
        if number == 6 {
            let (ids, trace) = (self.drawn.concat(), serde_json::Value::Null);
            return Ok(Ask::Done(Answer { ids, end: End::Budget, kl: None, trace }));
        }
        let long = (number + self.prompt.index) % 2 == 1;
        Ok(Ask::Sample(vec![SampleAsk {
            prefix: self.prompt.ids.clone(),
            prompt_len: self.prompt.ids.len(),
            budget: if long { 4 } else { 1 },
            stream: self.stream.child(number as u64),
        }]))
    }

    fn running(&self) -> Option<Vec<TokenId>> {
        self.drawn.last().cloned()
    }
}

/// An engine that answers all asks before it takes new ones.
struct Rounds<'a>(Engine<'a>);

impl Sample for Rounds<'_> {
    fn sample(&mut self, asks: Vec<SampleAsk>, chance: &mut Chance<'_>) -> Result<Vec<Completion>, Error> {
        self.0.sample(asks, chance)
    }
    fn ledger(&self) -> &Ledger {
        self.0.ledger()
    }
}

fn answers(sampler: &mut dyn Sample) -> (Vec<Answer>, Ledger) {
    let prompts: Vec<Prompt> = (0..4).map(|index| Prompt::from_ids(index, vec![2])).collect();
    let streams: Vec<Stream> = (0..4).map(|row| Stream::new(3, Purpose::Method, 0, row)).collect();
    let mut services = Services::new(sampler);
    let given = run(&Turns, &prompts, &streams, &mut services, &mut Chance::Streams, &mut |_| true);
    let given = given.expect("the toy fits").expect("nothing stops it");
    let ledger = *sampler.ledger();
    (given, ledger)
}

#[test]
fn nobody_waits_for_the_others_and_the_texts_are_the_same() {
    let table = table();
    let engine = || Engine::new(&table, Sampling::default()).expect("settings");
    let (flowing, fast) = answers(&mut engine());
    let (waiting, slow) = answers(&mut Rounds(engine()));
    assert_eq!(flowing, waiting);
    assert_eq!(fast.decode_tokens, slow.decode_tokens);
    // Three short and three long samples: 15 tokens one after the other, against six rounds of a long one.
    assert_eq!((fast.forward_passes, slow.forward_passes), (15, 24));
}
