//! What became of the rows of a table: those that are kept, and how many are not, and why.

/// Rows, and how many were left out.
#[derive(Debug, Clone, PartialEq)]
pub struct Loading<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// Rows left out because both answers are the same.
    pub identical: usize,
    /// Rows left out because they are too long.
    pub too_long: usize,
    /// The most tokens that a row may have.
    pub limit: usize,
    /// Pairs left out because no objective that was asked for prefers either answer.
    pub unlabelled: usize,
    /// Rows in which `NaN` or an infinity was read as `null`.
    pub not_finite: usize,
}

impl<T> Loading<T> {
    /// Rows of which none was left out.
    pub fn whole(rows: Vec<T>) -> Self {
        Self { rows, identical: 0, too_long: 0, limit: usize::MAX, unlabelled: 0, not_finite: 0 }
    }

    /// How many rows there were, those that were left out among them.
    pub fn read(&self) -> usize {
        self.rows.len() + self.identical + self.too_long + self.unlabelled
    }

    /// Other rows with the same counts.
    pub fn with_rows<U>(self, rows: Vec<U>) -> Loading<U> {
        let Self { identical, too_long, limit, unlabelled, not_finite, .. } = self;
        Loading { rows, identical, too_long, limit, unlabelled, not_finite }
    }

    /// What was left out and why, as `left out: 2 too long (more than 512 tokens)`; `None` where all rows are
    /// as they were.
    pub fn left_out(&self) -> Option<String> {
        let counts = [
            (self.too_long, format!("too long (more than {} tokens)", self.limit)),
            (self.identical, "with equal answers".to_owned()),
            (self.unlabelled, "without a label".to_owned()),
        ];
        let counts: Vec<String> = counts
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, why)| format!("{count} {why}"))
            .collect();
        let left = (!counts.is_empty()).then(|| format!("left out: {}", counts.join(", ")));
        let changed = (self.not_finite > 0)
            .then(|| format!("NaN or Infinity read as null in {} rows", self.not_finite));
        let parts: Vec<String> = left.into_iter().chain(changed).collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_said_with_its_reason() {
        let mut loading = Loading::whole(vec![1, 2]);
        assert_eq!((loading.left_out(), loading.read()), (None, 2));
        loading = Loading { too_long: 1, limit: 8, identical: 2, ..loading };
        let text = "left out: 1 too long (more than 8 tokens), 2 with equal answers";
        assert_eq!((loading.left_out().as_deref(), loading.read()), (Some(text), 5));
        let loading = Loading { not_finite: 3, ..Loading::whole(vec![0]) };
        assert_eq!(loading.left_out().as_deref(), Some("NaN or Infinity read as null in 3 rows"));
    }
}
