//! How far the targets of chains are from the base, from the base's own samples.

use generate::Sampling;
use inference::chain::{Law, Scored as State};

use super::rows::Scored;
use crate::stats::tilted;

/// Name of the diagnostic.
pub(super) const KL: &str = "kl/target";

/// Whether completions of the pool's law tell of a target of a chain that draws by `sampling`: where both
/// draw alike, or the
/// target does not depend on how the chain draws, and neither law leaves any text out.
fn tells(law: Law, pool: &Sampling, sampling: &Sampling) -> bool {
    let whole = |s: &Sampling| Sampling { temperature: 1.0, stop: Vec::new(), ..s.clone() }.is_raw();
    let free = matches!(law, Law::Gibbs { .. } | Law::Power { .. });
    pool == sampling || (free && pool.stop == sampling.stop && whole(pool) && whole(sampling))
}

/// The mean over the prompts of the divergence of each one's target to the base's raw law, in nats, estimated
/// on the base's
/// pool with its bias of first order taken out. `None` where the pool does not tell.
pub(super) fn divergence(base: &Scored<'_>, targets: &[Law], sampling: &Sampling) -> Option<f64> {
    let pool = base.pool;
    if targets.len() != pool.len() || pool.is_empty() || pool.samples_per_prompt() < 2 {
        return None;
    }
    let mut total = 0.0;
    for (place, law) in targets.iter().enumerate() {
        if !tells(*law, &pool.key().sampling, sampling) {
            return None;
        }
        let rewards = match (&base.proxy, law) {
            (Some(proxy), _) => Some(proxy[place]),
            (None, Law::Tilted { .. } | Law::Gibbs { .. }) => return None,
            (None, _) => None,
        };
        let states: Vec<State> = pool
            .samples(place)
            .iter()
            .enumerate()
            .map(|(i, sample)| State {
                len: sample.ids.len().max(1),
                steps: 1,
                reward: rewards.map_or(0.0, |rewards| rewards[i]),
                log_drawn: sample.log_prob,
                log_raw: sample.raw_log_prob,
            })
            .collect();
        let logs: Vec<f64> = states.iter().map(|state| law.log_ratio(&states[0], state)).collect();
        // ln(target / raw law) but for the normaliser.
        let ratios: Vec<f64> =
            logs.iter().zip(&states).map(|(log, state)| log + state.log_drawn - state.log_raw).collect();
        let found = tilted(&logs, &ratios);
        total += found.mean - found.log_z;
    }
    Some((total / targets.len() as f64).max(0.0))
}
