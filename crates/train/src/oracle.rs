//! `train oracle RECIPE`: what a method's own optimum spends and wins, before anything is trained.
//!
//! Where no two rewards are equal, a method that sees rewards through ranks has an optimum that is a density of the reward's
//! quantile, the same for every prompt and model ([`objective::oracle`]). It bounds what a run can show.

use std::fmt::Write;

use generate::{Purpose, Stream};
use objective::design::{Design, Procedure, QuantileLaw, beta_for_budget, fixed_point};
use objective::error::InputError;
use objective::losses::QuantileTilt;
use objective::oracle::{Estimated, Promise, averaged, estimated, fresh, game};
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
    /// The same, learned from pools that are drawn once, each sample ranked among so many others of its
    /// prompt.
    Offline { tilt: Tilt, beta: f64, others: usize, says: String },
    /// Best-of-`n` by the Jeffreys divergence of weight `b`, with so many samples that are fresh at every
    /// step.
    Fresh { n: f64, b: f64, samples: usize, says: String },
    /// The same with β solved on the cached samples, so that these nats are spent.
    Budgeted { tilt: Tilt, beta: f64, samples: usize, kl: f64, says: String },
    /// The equilibrium of the win-rate game.
    Game { beta: f64 },
    /// None that ranks decide about, and why.
    None(String),
}

/// Most cells of the grid that an exact optimum is taken on.
const MOST_CELLS: usize = 1 << 18;

/// What the recipe's method promises, judged with `n` answers at test time.
pub fn describe(recipe: &Recipe, n: f64) -> Result<String, Error> {
    let name = recipe.method.name();
    let ideal = ideal(&recipe.method).map_err(Error::other)?;
    let Found { exact, off, says, rows } = match found(ideal, recipe.run.seed, n).map_err(Error::other)? {
        Ok(found) => found,
        Err(why) => return Ok(format!("{name}: {why}\n")),
    };
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
    for (name, got) in &rows {
        row(name, &got.promise, &distance(got.regret));
    }
    let mut failed = Vec::new();
    if exact.kl > 0.0 && exact.kl <= MOST_KL {
        for (name, design) in others(exact.kl, n) {
            match design {
                Ok(Design { kl, win_rate, best_of, worst_of, .. }) => {
                    row(&name, &Promise { kl, win_rate, best_of, worst_of }, "");
                }
                Err(error) => failed.push(format!("  {name}: {error}\n")),
            }
        }
    }
    text.extend(failed);
    text.push_str("  where no two rewards are equal and the policy can be any law; ties leave less to win\n");
    let accuracy =
        if off < 5e-5 { "exact to the last digit".to_owned() } else { format!("within about {off:.1e}") };
    let _ = writeln!(text, "  the exact optimum is {accuracy}, the others within 0.001");
    Ok(text)
}

/// How far an estimated optimum is from the exact one. Where that all but excludes the lowest answers, as for
/// worst-of-32, the distance
/// is that to a density of `exp(-1e8)`.
fn distance(nats: f64) -> String {
    if nats > 1000.0 {
        "   more than 1000 nats from the exact one, which all but excludes the lowest answers".to_owned()
    } else {
        format!("   {nats:.5} nats from the exact one")
    }
}

/// A KL coefficient: those of worst-of-N are as small as 1e-28.
fn coefficient(beta: f64) -> String {
    if beta < 1e-4 { format!("{beta:.4e}") } else { format!("{beta:.6}") }
}

/// What is known of a method's optimum.
struct Found {
    exact: Promise,
    /// About how far the exact optimum's numbers may be off.
    off: f64,
    says: String,
    rows: Vec<(String, Estimated)>,
}

/// What an optimum spends and wins; `Err` says why a method has none.
fn found(ideal: Ideal, seed: u64, n: f64) -> Result<Result<Found, String>, InputError> {
    let cached = |tilt: &Tilt, beta: f64, exact_beta: f64, samples: usize| {
        let mut stream = Stream::new(seed, Purpose::Sample, 0, 0);
        let got = estimated(tilt, beta, exact_beta, samples, n, PROMPTS, &mut || stream.uniform())?;
        Ok::<_, InputError>((format!("of {samples} cached samples"), got))
    };
    Ok(Ok(match ideal {
        Ideal::None(why) => return Ok(Err(why)),
        Ideal::Game { beta } => {
            let says = format!("the best answer to itself in the win-rate game, beta = {beta}");
            Found { exact: game(beta, n)?, off: 0.0, says, rows: Vec::new() }
        }
        Ideal::Tilted { tilt, beta, samples, says } => {
            let (exact, off) = exact(&tilt, beta, n)?;
            let rows = samples.map(|samples| cached(&tilt, beta, beta, samples)).transpose()?;
            Found { exact, off, says, rows: rows.into_iter().collect() }
        }
        Ideal::Offline { tilt, beta, others, says } => {
            let (exact, off) = exact(&tilt, beta, n)?;
            // Pools that are learned one by one, and what all of them have in common.
            let by_heart = cached(&tilt, beta, beta, others)?;
            let shared = ("averaged over pools".to_owned(), averaged(&tilt, beta, others, n)?);
            Found { exact, off, says, rows: vec![by_heart, shared] }
        }
        Ideal::Fresh { n: of, b, samples, says } => {
            let (exact, off) = exact(&Tilt::Log, 1.0 / (of - 1.0), n)?;
            let row = (format!("of {samples} fresh samples"), fresh(of, b, samples, n)?);
            Found { exact, off, says, rows: vec![row] }
        }
        Ideal::Budgeted { tilt, beta, samples, kl, says } => {
            let (exact, off) = exact(&tilt, beta, n)?;
            // As training does, on pools of the size that it has.
            let mut stream = Stream::new(seed, Purpose::Sample, 1, 0);
            let mut pool = || CachedRewards::new((0..samples).map(|_| stream.uniform()).collect());
            let pools = (0..PROMPTS).map(|_| pool()).collect::<Result<Vec<_>, _>>()?;
            let solved = beta_for_budget(&tilt, &pools, kl)?.beta;
            let beta_here = coefficient(solved);
            let says = format!(
                "{says} without ties; on pools of {samples} samples β = {beta_here} spends {kl} nats"
            );
            Found { exact, off, says, rows: vec![cached(&tilt, solved, beta, samples)?] }
        }
    }))
}

/// The optimum of a tilt on a grid that is made finer until its numbers stand, and about how far they are
/// off.
fn exact(tilt: &Tilt, beta: f64, n: f64) -> Result<(Promise, f64), InputError> {
    let on = |cells| Ok::<_, InputError>(Promise::of(&QuantileLaw::on_cells(tilt, beta, cells)?, n));
    let mut cells = 4000;
    let mut promise = on(cells)?;
    loop {
        cells *= 2;
        let finer = on(cells)?;
        let off = [
            finer.kl - promise.kl,
            finer.win_rate - promise.win_rate,
            finer.best_of - promise.best_of,
            finer.worst_of - promise.worst_of,
        ];
        let off = off.into_iter().map(f64::abs).fold(0.0, f64::max);
        promise = finer;
        // The error of a midpoint rule is a third of what halving its cells changes.
        if off < 5e-5 || cells >= MOST_CELLS {
            return Ok((promise, off));
        }
    }
}

/// What the same nats win otherwise.
fn others(kl: f64, n: f64) -> Vec<(String, Result<Design, InputError>)> {
    let log = Design::of_budget(Tilt::Log, kl, n);
    let log_name = match &log {
        Ok(log) => format!("same KL: best-of-{:.2}", 1.0 + 1.0 / log.beta),
        Err(_) => "same KL: best-of-n".to_owned(),
    };
    vec![
        ("same KL: identity".into(), Design::of_budget(Tilt::Identity, kl, n)),
        (log_name, log),
        (format!("same KL: for best-of-{n}"), fixed_point(Procedure::BestOfN, n, kl)),
        (format!("same KL: for worst-of-{n}"), fixed_point(Procedure::WorstOfN, n, kl)),
    ]
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
        Method::Bond(bond) => match best_of(bond.n, None) {
            Ideal::Tilted { says, .. } => Ideal::Fresh { n: bond.n, b: bond.b, samples: bond.samples, says },
            other => other,
        },
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
            let beta = coefficient(design.beta);
            let says = format!("π_ref exp(Φ(u)/β)/Z, {}, β = {beta}", formula(&design.tilt));
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
            Ideal::Offline { tilt, beta, others: qrpo.pool_samples - 1, says }
        }
        Method::Ipo(ipo) => {
            let says = format!("π_ref exp(u/τ)/Z, τ = {}, for pairs drawn from the reference", ipo.tau);
            Ideal::Tilted { tilt: Tilt::Identity, beta: ipo.tau, samples: None, says }
        }
        Method::Sppo(sppo) if sppo.preference == Preference::Ranks && sppo.normaliser == Normaliser::Pool => {
            let (beta, others) = (1.0 / sppo.eta, sppo.pool_samples - 1);
            let says = format!("one exact round, β = 1/η = {beta}");
            Ideal::Offline { tilt: Tilt::Identity, beta, others, says }
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
    fn the_game_and_fresh_samples_have_their_exact_values() {
        let close = |text: &str, row: &str, want: [f64; 3]| {
            for (column, want) in want.into_iter().enumerate().filter(|(_, want)| !want.is_nan()) {
                assert!(
                    (number(text, row, column) - want).abs() < 1.01e-4,
                    "{row}, {column}: {want}\n{text}"
                );
            }
        };
        let none = f64::NAN;
        for (beta, want) in [
            (0.2, [0.8838, 0.8068, 0.9243]),
            (0.15, [1.4349, 0.8513, none]),
            (0.1, [2.6974, 0.9000, 0.9915]),
            (0.05, [7.0043, 0.9500, 0.9994]),
        ] {
            let text = of(&format!("{REWARD}[method.wind]\nbeta = {beta}\nsamples = 4\n"));
            close(&text, "exact optimum", want);
            // What wins otherwise is of the same KL.
            if beta >= 0.1 {
                assert!((number(&text, "same KL: identity", 0) - want[0]).abs() < 2e-4, "{text}");
            }
        }
        let fresh = of(&format!("{REWARD}[method.bond]\nn = 2.0\nsamples = 8\nb = 1.0\n"));
        close(&fresh, "of 8 fresh samples", [none, 0.6582, none]);
        assert!(fresh.contains("0.00657 nats from") && !fresh.contains("cached"), "{fresh}");
        let half = of(&format!("{REWARD}[method.bond]\nn = 4.0\nsamples = 16\nb = 0.5\n"));
        close(&half, "of 16 fresh samples", [none, 0.7999, none]);
        assert!(half.contains("0.00001 nats from"), "{half}");
    }

    #[test]
    fn steep_tilts_are_exact_and_every_row_says_how_exact() {
        // Identity: W = 1/(1 - exp(-1/beta)) - beta and KL = W/beta - log Z.
        for beta in [0.003_f64, 0.001, 0.0003] {
            let text = of(&format!("{REWARD}[method.ctrl]\nbeta = {beta}\n"));
            let win_rate = 1.0 - beta;
            assert!((number(&text, "exact optimum", 1) - win_rate).abs() < 1.01e-4, "{text}");
            let kl = win_rate / beta - (1.0 / beta + beta.ln());
            assert!((number(&text, "exact optimum", 0) - kl).abs() < 1.01e-4, "{text}");
            assert!(text.contains("exact to the last digit"), "{text}");
        }
        let text = of(&format!("{REWARD}[method.vbon]\nn = 1000.0\npool_samples = 300\n"));
        let kl = 1000.0_f64.ln() - 0.999;
        assert!((number(&text, "exact optimum", 0) - kl).abs() < 1.01e-4, "{text}");
    }

    #[test]
    fn the_fixed_point_of_worst_of_n_spends_what_is_beside_it() {
        let text = format!("[data]\nlimit = 8\n[optim]\nsteps = 1\n{REWARD}[method.vbon]\nn = 20.0\n");
        let loaded = recipe::Source::from_text("recipe.toml", text).load::<Recipe>().expect("a recipe");
        let text = describe(&loaded.value, 32.0).expect("a description");
        let kl = number(&text, "exact optimum", 0);
        assert!((number(&text, "same KL: for worst-of-32", 0) - kl).abs() < 2e-4, "{text}");
        let ctrl = of(&format!(
            "{REWARD}[method.ctrl]\nkl = 2.0\nforecast_n = 32.0\ntilt = {{ fixed-point = {{ procedure = \"worst-of-n\", n = 32.0 }} }}\n"
        ));
        assert!((number(&ctrl, "exact optimum", 0) - 2.0).abs() < 2e-4, "{ctrl}");
        assert!((number(&ctrl, "exact optimum", 1) - 0.9336).abs() < 1.01e-4, "{ctrl}");
        assert!(ctrl.contains("more than 1000 nats") && !ctrl.contains("β = 0.000000"), "{ctrl}");
    }

    #[test]
    fn a_budget_is_measured_to_the_optimum_that_is_printed() {
        let text = of(&format!(
            "{REWARD}[method.ctrl]\nkl = 0.7\npool_samples = 32\ntilt = {{ exponential = {{ t = 5.0 }} }}\n"
        ));
        assert!((number(&text, "exact optimum", 0) - 0.7).abs() < 1.01e-4, "{text}");
        // On pools of that size, without a fifth missing.
        assert!((number(&text, "of 32 cached", 0) - 0.7).abs() < 0.03, "{text}");
    }

    #[test]
    fn offline_methods_have_what_is_learned_by_heart_and_what_pools_have_in_common() {
        let text = of(&format!("{REWARD}[method.qrpo]\nbeta = 0.2\n"));
        let win_rate = number(&text, "exact optimum", 1);
        assert!((number(&text, "averaged over pools", 1) - win_rate).abs() < 1.01e-4, "{text}");
        assert!(number(&text, "of 7 cached", 1) < win_rate - 5e-3, "{text}");
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
