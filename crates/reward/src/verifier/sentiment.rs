//! Sentiment by VADER.

use std::fmt;

use generate::Error;
use vader_parity::SentimentIntensityAnalyzer;

use super::{Check, Subject};

/// VADER's compound score in `[−1, 1]`: from most negative to most positive, 0 without sentiment (Hutto and Gilbert,
/// ICWSM 2014; the numbers of vaderSentiment 3.3.2, rounded to four decimals). English only.
pub struct Sentiment {
    analyzer: SentimentIntensityAnalyzer,
}

impl Default for Sentiment {
    /// Reads the lexicon, which is part of the program.
    fn default() -> Self {
        Self { analyzer: SentimentIntensityAnalyzer::new() }
    }
}

impl fmt::Debug for Sentiment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sentiment").finish_non_exhaustive()
    }
}

impl Check for Sentiment {
    fn name(&self) -> &'static str {
        "sentiment"
    }

    fn score(&self, subject: &Subject<'_>) -> Result<f64, Error> {
        Ok(self.analyzer.polarity_scores(&subject.text()).compound)
    }

    fn range(&self) -> (f64, f64) {
        (-1.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::score;
    use super::*;

    /// The example table of vaderSentiment's README.
    #[test]
    fn the_published_examples() {
        let sentiment = Sentiment::default();
        for (text, want) in [
            ("VADER is smart, handsome, and funny.", 0.8316),
            ("VADER is smart, handsome, and funny!", 0.8439),
            ("VADER is very smart, handsome, and funny.", 0.8545),
            ("VADER is VERY SMART, handsome, and FUNNY.", 0.9227),
            ("VADER is VERY SMART, handsome, and FUNNY!!!", 0.9342),
            ("VADER is VERY SMART, uber handsome, and FRIGGIN FUNNY!!!", 0.9469),
            ("VADER is not smart, handsome, nor funny.", -0.7424),
            ("The book was good.", 0.4404),
            ("At least it isn't a horrible book.", 0.431),
            ("The book was only kind of good.", 0.3832),
            ("The plot was good, but the characters are uncompelling and the dialog is not great.", -0.7042),
            ("Today SUX!", -0.5461),
            ("Make sure you :) or :D today!", 0.8633),
            ("Not bad at all", 0.431),
            ("", 0.0),
            ("Книга на столе 📖.", 0.0),
        ] {
            assert_eq!(score(&sentiment, text), want, "{text}");
        }
    }
}
