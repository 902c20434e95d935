use std::ops::Range;

/// Which tokens have a part in any of `spans`. `offsets` and `spans` are in the same unit and order.
///
/// Some tokenizers leave white space out of a token's place, or drop it before encoding. Such a gap counts to the token
/// after it, so that a white-space token within a span is not lost.
///
/// ```
/// // "ab cd": tokens "ab", " ", "cd", the space without a place of its own; the span is " cd".
/// assert_eq!(data::render::mask(&[0..2, 3..3, 3..5], &[2..5]), [false, true, true]);
/// ```
pub fn mask(offsets: &[Range<usize>], spans: &[Range<usize>]) -> Vec<bool> {
    let mut covered = 0;
    offsets
        .iter()
        .map(|offset| {
            let start = offset.start.min(covered);
            let end = offset.end.max(start);
            covered = covered.max(offset.end);
            spans.iter().any(|span| start < span.end && span.start < end)
        })
        .collect()
}
