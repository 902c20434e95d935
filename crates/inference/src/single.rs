//! The machine of methods that draw one completion and give it.

use generate::schedule::{Answer, Ask, Machine, NoNext, Reply};
use generate::{Chance, Error, Prompt, Stream, TextMethod, TokenId};
use serde::{Deserialize, Serialize};

use crate::pooled::{pool_asks, unexpected};

/// What a single completion reports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SingleTrace {
    /// Log-probability under the law it was drawn from, in nats.
    pub log_prob: f64,
    /// Log-probability under the policy's raw law, in nats.
    pub raw_log_prob: f64,
}

/// Draws one completion.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Single {
    pub(crate) method: &'static str,
    pub(crate) budget: usize,
}

impl TextMethod for Single {
    fn start(&self, prompt: &Prompt, stream: Stream) -> Box<dyn Machine<NoNext>> {
        Box::new(Running { method: *self, prompt: prompt.clone(), stream })
    }
}

struct Running {
    method: Single,
    prompt: Prompt,
    stream: Stream,
}

impl Machine<NoNext> for Running {
    fn advance(&mut self, reply: Reply, _: &mut Chance<'_>) -> Result<Ask<NoNext>, Error> {
        match reply {
            Reply::Start => Ok(Ask::Sample(pool_asks(&self.prompt, self.stream, 1, self.method.budget))),
            Reply::Samples(mut given) if given.len() == 1 => {
                let completion = given.remove(0);
                let sum = |logs: &[f32]| logs.iter().map(|log| f64::from(*log)).sum();
                let trace = SingleTrace {
                    log_prob: sum(&completion.log_probs),
                    raw_log_prob: sum(&completion.raw_log_probs),
                };
                let trace = serde_json::to_value(trace).map_err(|error| Error::Backend(Box::new(error)))?;
                Ok(Ask::Done(Answer { ids: completion.ids, end: completion.end, kl: completion.kl, trace }))
            }
            other => Err(unexpected(self.method.method, "one completion", &other)),
        }
    }

    fn running(&self) -> Option<Vec<TokenId>> {
        None
    }
}
