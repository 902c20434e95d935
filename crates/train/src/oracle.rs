//! `train oracle RECIPE`: what a method's own optimum spends and wins, before anything is trained.
//!
//! Where no two rewards are equal, a method that sees rewards through ranks has an optimum that is a density of the reward's
//! quantile, the same for every prompt and model ([`objective::oracle`]). It bounds what a run can show.

use std::fmt::Write;

use generate::{Purpose, Stream};
use objective::design::{Design, Procedure, QuantileLaw, beta_for_budget, fixed_point};
use objective::error::InputError;
use objective::losses::QuantileTilt;
use objective::oracle::{Promise, estimated, game};
use objective::rank::CachedRewards;
use objective::tilt::Tilt;

use crate::error::Error;
use crate::methods::sppo::{Normaliser, Preference};
use crate::methods::wind::PreferenceName;
use crate::recipe::{Method, Recipe};

/// Draws of cached samples that what estimation costs is averaged over.
const PROMPTS: usize = 200;
/// Most nats that laws of other tilts are computed for.
const MOST_KL: f64 = 5.0;

/// The optimum of a method.
enum Ideal {
    /// `π_ref exp(Φ(u)/β) / Z`, `u` estimated from so many cached samples, where it is estimated.
    Tilted { tilt: Tilt, beta: f64, samples: Option<usize>, says: String },
    /// The same with β solved on the cached samples, so that these nats are spent.
    Budgeted { tilt: Tilt, beta: f64, samples: usize, kl: f64, says: String },
    /// The equilibrium of the win-rate game.
    Game { beta: f64 },
    /// None that ranks decide about, and why.
    None(String),
}

/// What the recipe's method promises, judged with `n` answers at test time.
pub fn describe(recipe: &Recipe, n: f64) -> Result<String, Error> {
    let name = recipe.method.name();
    let (law, says, estimate) = match ideal(&recipe.method).map_err(Error::other)? {
        Ideal::None(why) => return Ok(format!("{name}: {why}\n")),
        Ideal::Game { beta } => {
            let says = format!("the best answer to itself in the win-rate game, beta = {beta}");
            (game(beta).map_err(Error::other)?, says, None)
        }
        Ideal::Tilted { tilt, beta, samples, says } => {
            let law = QuantileLaw::of(&tilt, beta).map_err(Error::other)?;
            (law, says, samples.map(|samples| (tilt, beta, samples)))
        }
        Ideal::Budgeted { tilt, beta, samples, kl, says } => {
            let law = QuantileLaw::of(&tilt, beta).map_err(Error::other)?;
            // As training does, on pools of the size that it has.
            let mut stream = Stream::new(recipe.run.seed, Purpose::Sample, 1, 0);
            let mut pool = || CachedRewards::new((0..samples).map(|_| stream.uniform()).collect());
            let pools = (0..PROMPTS).map(|_| pool()).collect::<Result<Vec<_>, _>>().map_err(Error::other)?;
            let beta = beta_for_budget(&tilt, &pools, kl).map_err(Error::other)?.beta;
            let says =
                format!("{says} without ties; on pools of {samples} samples β = {beta:.6} spends {kl} nats");
            (law, says, Some((tilt, beta, samples)))
        }
    };
    let exact = Promise::of(&law, n);
    let mut text = format!("{name}: {says}\n");
    let header =
        ["KL, nats", "win rate", &format!("best-of-{n}"), &format!("worst-of-{n}")].map(str::to_owned);
    let _ = writeln!(text, "  {:24}{:>10}{:>11}{:>12}{:>13}", "", header[0], header[1], header[2], header[3]);
    let mut row = |name: &str, promise: &Promise, after: &str| {
        let line = format!(
            "  {name:24}{:>10.4}{:>11.4}{:>12.4}{:>13.4}{after}",
            promise.kl, promise.win_rate, promise.best_of, promise.worst_of
        );
        let _ = writeln!(text, "{line}");
    };
    row("exact optimum", &exact, "");
    if let Some((tilt, beta, samples)) = estimate {
        let mut stream = Stream::new(recipe.run.seed, Purpose::Sample, 0, 0);
        let got =
            estimated(&tilt, beta, samples, n, PROMPTS, &mut || stream.uniform()).map_err(Error::other)?;
        let after = format!("   {:.4} nats from the exact one", got.regret);
        row(&format!("of {samples} cached samples"), &got.promise, &after);
    }
    if exact.kl > 0.0 && exact.kl <= MOST_KL {
        for (name, design) in others(exact.kl, n).map_err(Error::other)? {
            let Design { kl, win_rate, best_of, worst_of, .. } = design;
            row(&name, &Promise { kl, win_rate, best_of, worst_of }, "");
        }
    }
    text.push_str("  where no two rewards are equal and the policy can be any law; ties leave less to win\n");
    Ok(text)
}

/// What the same nats win otherwise.
fn others(kl: f64, n: f64) -> Result<Vec<(String, Design)>, InputError> {
    let log = Design::of_budget(Tilt::Log, kl, n)?;
    Ok(vec![
        ("same KL: identity".into(), Design::of_budget(Tilt::Identity, kl, n)?),
        (format!("same KL: best-of-{:.2}", 1.0 + 1.0 / log.beta), log),
        (format!("same KL: for best-of-{n}"), fixed_point(Procedure::BestOfN, n, kl)?),
        (format!("same KL: for worst-of-{n}"), fixed_point(Procedure::WorstOfN, n, kl)?),
    ])
}

fn best_of(n: f64, samples: Option<usize>) -> Ideal {
    if n <= 1.0 {
        return Ideal::None("best-of-1 is the reference itself".into());
    }
    let says = format!("best-of-{n} of the reference, the tilt log u with beta = 1/(N−1)");
    Ideal::Tilted { tilt: Tilt::Log, beta: 1.0 / (n - 1.0), samples, says }
}

fn ideal(method: &Method) -> Result<Ideal, InputError> {
    let raw = |what: &str| {
        Ideal::None(format!(
            "{what} is paid in the reward itself, so its optimum depends on the reward's values, and not on ranks alone"
        ))
    };
    Ok(match method {
        Method::Vbon(vbon) => best_of(vbon.n, vbon.quantile.is_none().then_some(vbon.pool_samples)),
        Method::Bond(bond) if bond.update_every.is_some() => {
            Ideal::None(format!("the anchor moves: after k updates the optimum is best-of-{}^k", bond.n))
        }
        Method::Bond(bond) => best_of(bond.n, Some(bond.samples)),
        Method::BonSft(bon) => best_of(bon.n as f64, None),
        Method::Bonbon(bonbon) => match best_of(bonbon.n as f64, None) {
            Ideal::Tilted { tilt, beta, samples, says } => {
                let says = format!("{says}; what it aims at, its own optimum is nearby");
                Ideal::Tilted { tilt, beta, samples, says }
            }
            other => other,
        },
        Method::Ctrl(ctrl) => {
            let design = ctrl.design()?;
            let says = format!("π_ref exp(Φ(u)/β)/Z, {}, β = {:.6}", formula(&design.tilt), design.beta);
            let (tilt, beta, samples) = (design.tilt, design.beta, ctrl.pool_samples);
            match ctrl.kl {
                // A head's law is no estimate from samples of the prompt.
                _ if ctrl.quantile.is_some() => Ideal::Tilted { tilt, beta, samples: None, says },
                Some(kl) => Ideal::Budgeted { tilt, beta, samples, kl, says },
                None => Ideal::Tilted { tilt, beta, samples: Some(samples), says },
            }
        }
        Method::Qrpo(qrpo) => {
            // A normalised exponential is the plain one with another coefficient.
            let (tilt, beta) = match qrpo.function() {
                QuantileTilt::Identity => (Tilt::Identity, qrpo.beta),
                QuantileTilt::Log => (Tilt::Log, qrpo.beta),
                QuantileTilt::Power(exponent) => (Tilt::Power { exponent }, qrpo.beta),
                QuantileTilt::Exp(t) => (Tilt::Exponential { t }, qrpo.beta * t.exp_m1().abs()),
            };
            let says = format!("π_ref exp(Φ(u)/β)/Z, {}, β = {beta}", formula(&tilt));
            Ideal::Tilted { tilt, beta, samples: Some(qrpo.pool_samples - 1), says }
        }
        Method::Ipo(ipo) => {
            let says = format!("π_ref exp(u/τ)/Z, τ = {}, for pairs drawn from the reference", ipo.tau);
            Ideal::Tilted { tilt: Tilt::Identity, beta: ipo.tau, samples: None, says }
        }
        Method::Sppo(sppo) if sppo.preference == Preference::Ranks && sppo.normaliser == Normaliser::Pool => {
            let (beta, samples) = (1.0 / sppo.eta, Some(sppo.pool_samples - 1));
            Ideal::Tilted {
                tilt: Tilt::Identity,
                beta,
                samples,
                says: format!("one exact round, β = 1/η = {beta}"),
            }
        }
        Method::Wind(wind) if wind.preference == (PreferenceName::Rank {}) && wind.beta > 0.0 => {
            Ideal::Game { beta: wind.beta }
        }
        Method::Wind(wind) if wind.beta > 0.0 => raw("a logistic preference"),
        Method::Wind(_) => {
            Ideal::None("with beta = 0 the game has no equilibrium at a finite distance".into())
        }
        Method::Parl(_) => Ideal::None(
            "it follows a reward that it learns from labels: its optimum depends on values, and not on ranks alone"
                .into(),
        ),
        Method::JBond(_) => Ideal::None(
            "the anchor follows the policy: the distance grows with steps, and no law is the last".into(),
        ),
        Method::Rl(_) => raw("it"),
        Method::BonAware(_) => raw("the best of N"),
        Method::Sppo(_) => raw("a logistic preference, or a round with η/2 for its normaliser,"),
        _ => Ideal::None("it has no target that a tilt of the reward's quantile describes".into()),
    })
}

fn formula(tilt: &Tilt) -> String {
    match tilt {
        Tilt::Identity => "Φ(u) = u".into(),
        Tilt::Log => "Φ(u) = log u".into(),
        Tilt::Power { exponent } => format!("Φ(u) = u^{exponent}"),
        Tilt::Exponential { t } => format!("Φ(u) = {}exp({t} u)", if *t < 0.0 { "−" } else { "" }),
        Tilt::Table(_) => "Φ the fixed point of its procedure".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(method: &str) -> String {
        let text = format!("[data]\nlimit = 8\n[optim]\nsteps = 1\n{method}");
        let source = recipe::Source::from_text("recipe.toml", text);
        let loaded = source.load::<Recipe>().expect("a recipe");
        describe(&loaded.value, 4.0).expect("a description")
    }

    fn number(text: &str, row: &str, column: usize) -> f64 {
        let line = text.lines().find(|line| line.trim_start().starts_with(row)).expect("the row");
        line[26..].split_whitespace().nth(column).expect("the column").parse().expect("a number")
    }

    const REWARD: &str = "[reward.answer]\n";

    #[test]
    fn best_of_n_has_its_closed_forms() {
        let text = of(&format!("{REWARD}[method.vbon]\nn = 8.0\npool_samples = 16\n"));
        let kl = 8.0_f64.ln() - 7.0 / 8.0;
        assert!((number(&text, "exact optimum", 0) - kl).abs() < 2e-3, "{text}");
        assert!((number(&text, "exact optimum", 1) - 8.0 / 9.0).abs() < 2e-3, "{text}");
        assert!(number(&text, "of 16 cached", 1) < number(&text, "exact optimum", 1), "{text}");
        let same = number(&text, "same KL: best-of-8.00", 1);
        assert!(number(&text, "same KL: identity", 1) > same, "{text}");
        assert!(number(&text, "same KL: for best-of-4", 2) > number(&text, "same KL: identity", 2), "{text}");
    }

    #[test]
    fn the_same_tilt_under_two_names_is_the_same_law() {
        let ctrl = of(&format!("{REWARD}[method.ctrl]\nbeta = 0.5\n"));
        let qrpo = of(&format!("{REWARD}[method.qrpo]\nbeta = 0.5\n"));
        let ipo = of("[method.ipo]\ntau = 0.5\n");
        for column in 0..4 {
            let want = number(&ctrl, "exact optimum", column);
            for other in [&qrpo, &ipo] {
                assert!((number(other, "exact optimum", column) - want).abs() < 1e-9, "{ctrl}{other}");
            }
        }
        let exponential = of(&format!("{REWARD}[method.qrpo]\nbeta = 0.2\ntilt = \"exp\"\nt = -3.0\n"));
        let beta = 0.2 * (1.0 - (-3.0_f64).exp());
        let plain =
            of(&format!("{REWARD}[method.ctrl]\nbeta = {beta}\ntilt = {{ exponential = {{ t = -3.0 }} }}\n"));
        assert!((number(&exponential, "exact", 3) - number(&plain, "exact", 3)).abs() < 2e-4);
    }

    #[test]
    fn methods_without_such_an_optimum_say_why() {
        assert!(of(&format!("{REWARD}[method.rl]\n")).contains("the reward itself"));
        assert!(of(&format!("{REWARD}[method.j-bond]\n")).contains("anchor follows"));
        assert!(of("[method.sft]\n").contains("no target"));
        assert!(of(&format!("{REWARD}[method.wind]\nsamples = 4\n")).contains("win-rate game"));
    }
}
