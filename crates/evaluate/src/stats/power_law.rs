//! Power laws through points.

/// `y = a x^(−b)`, fitted as a straight line to `ln y` against `ln x`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PowerLaw {
    /// The value at `x = 1`.
    pub a: f64,
    /// How fast it falls.
    pub b: f64,
    /// Share of the variance of `ln y` that the line explains, in `[0, 1]`; 1 where there is none.
    pub r_squared: f64,
}

impl PowerLaw {
    /// The least-squares line. Points with a coordinate that is not finite and above zero have no logarithm and are left
    /// out; `None` where fewer than two different `x` remain.
    ///
    /// ```
    /// # use evaluate::stats::PowerLaw;
    /// let law = PowerLaw::fit(&[(1.0, 8.0), (4.0, 4.0), (16.0, 2.0)]).unwrap();
    /// assert!((law.a - 8.0).abs() < 1e-12 && (law.b - 0.5).abs() < 1e-12);
    /// ```
    pub fn fit(points: &[(f64, f64)]) -> Option<Self> {
        let usable = |x: &f64| x.is_finite() && *x > 0.0;
        let logs: Vec<(f64, f64)> =
            points.iter().filter(|(x, y)| usable(x) && usable(y)).map(|(x, y)| (x.ln(), y.ln())).collect();
        let count = logs.len() as f64;
        let mean = |of: fn(&(f64, f64)) -> f64| logs.iter().map(of).sum::<f64>() / count;
        let (x, y) = (mean(|p| p.0), mean(|p| p.1));
        let square = |of: &dyn Fn(&(f64, f64)) -> f64| logs.iter().map(of).sum::<f64>();
        let (xx, xy) = (square(&|p| (p.0 - x).powi(2)), square(&|p| (p.0 - x) * (p.1 - y)));
        let yy = square(&|p| (p.1 - y).powi(2));
        if logs.len() < 2 || xx <= 0.0 {
            return None;
        }
        let slope = xy / xx;
        let r_squared = if yy > 0.0 { (slope * xy / yy).clamp(0.0, 1.0) } else { 1.0 };
        Some(Self { a: (y - slope * x).exp(), b: -slope, r_squared })
    }

    /// Its value at `x`.
    pub fn at(&self, x: f64) -> f64 {
        self.a * x.powf(-self.b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_line_of_least_squares() {
        let points = [(1.0, 3.1), (2.0, 1.9), (4.0, 1.6), (8.0, 0.7)];
        let law = PowerLaw::fit(&points).unwrap();
        let error = |a: f64, b: f64| -> f64 {
            points.iter().map(|(x, y): &(f64, f64)| (y.ln() - a.ln() + b * x.ln()).powi(2)).sum()
        };
        let least = error(law.a, law.b);
        for (a, b) in [(1.001, 1.0), (0.999, 1.0), (1.0, 1.001), (1.0, 0.999)] {
            assert!(error(law.a * a, law.b * b) > least);
        }
        assert!(law.r_squared > 0.9 && law.r_squared < 1.0);
        assert!((law.at(1.0) - law.a).abs() < 1e-12);
    }

    #[test]
    fn points_without_a_logarithm_are_left_out() {
        let with = PowerLaw::fit(&[(1.0, 2.0), (2.0, 1.0), (4.0, 0.0), (0.0, 1.0), (8.0, f64::NAN)]);
        assert_eq!(with, PowerLaw::fit(&[(1.0, 2.0), (2.0, 1.0)]));
        assert_eq!(PowerLaw::fit(&[(1.0, 2.0)]), None);
        assert_eq!(PowerLaw::fit(&[(2.0, 2.0), (2.0, 3.0)]), None);
        assert_eq!(PowerLaw::fit(&[]), None);
    }
}
