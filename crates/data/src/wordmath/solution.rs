//! Worked solutions: the same equations, bare or in sentences.

use super::answer::MARKER;
use super::arithmetic::Equation;
use super::config::Style;

/// One step of a solution, ready in both styles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SolutionStep {
    pub(super) equations: Vec<Equation>,
    /// A sentence that holds the equations.
    pub(super) words: String,
}

/// The solution's text: its steps on one line, then the line of the answer.
pub(super) fn render(steps: &[SolutionStep], answer: i64, style: Style) -> String {
    let sentences: Vec<String> = match style {
        Style::Equations => {
            steps.iter().flat_map(|step| &step.equations).map(|equation| format!("{equation}.")).collect()
        }
        Style::Words => steps.iter().map(|step| step.words.clone()).collect(),
    };
    format!("{}\n{MARKER} {answer}", sentences.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_styles_end_in_the_line_of_the_answer() {
        let steps = [
            SolutionStep {
                equations: vec![Equation::plus(12, 7)],
                words: "Adding 7 gives 12 + 7 = 19 pens.".into(),
            },
            SolutionStep {
                equations: vec![Equation::times(3, 4), Equation::minus(19, 12)],
                words: "In all 3 * 4 = 12 are gone, which leaves 19 - 12 = 7 pens.".into(),
            },
        ];
        assert_eq!(render(&steps, 7, Style::Equations), "12 + 7 = 19. 3 * 4 = 12. 19 - 12 = 7.\n#### 7");
        assert_eq!(
            render(&steps, 7, Style::Words),
            "Adding 7 gives 12 + 7 = 19 pens. In all 3 * 4 = 12 are gone, which leaves 19 - 12 = 7 pens.\n#### 7"
        );
    }
}
