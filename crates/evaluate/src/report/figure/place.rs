//! Where labels go, so that they hide nothing.

/// A rectangle in pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rect {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) right: f64,
    pub(super) bottom: f64,
}

impl Rect {
    /// A rectangle around a centre.
    pub(super) fn around((x, y): (f64, f64), half_width: f64, half_height: f64) -> Self {
        Self { left: x - half_width, top: y - half_height, right: x + half_width, bottom: y + half_height }
    }

    /// The area that the two share.
    fn shared(&self, other: &Self) -> f64 {
        let width = self.right.min(other.right) - self.left.max(other.left);
        let height = self.bottom.min(other.bottom) - self.top.max(other.top);
        if width > 0.0 && height > 0.0 { width * height } else { 0.0 }
    }

    /// Whether it lies within the other.
    fn within(&self, other: &Self) -> bool {
        self.left >= other.left
            && self.right <= other.right
            && self.top >= other.top
            && self.bottom <= other.bottom
    }

    /// The length of a segment inside, by clipping (Liang and Barsky 1984).
    fn length_inside(&self, (x0, y0): (f64, f64), (x1, y1): (f64, f64)) -> f64 {
        let (dx, dy) = (x1 - x0, y1 - y0);
        let (mut enter, mut leave) = (0.0_f64, 1.0_f64);
        for (p, q) in
            [(-dx, x0 - self.left), (dx, self.right - x0), (-dy, y0 - self.top), (dy, self.bottom - y0)]
        {
            if p == 0.0 {
                if q < 0.0 {
                    return 0.0;
                }
            } else if p < 0.0 {
                enter = enter.max(q / p);
            } else {
                leave = leave.min(q / p);
            }
        }
        (leave - enter).max(0.0) * dx.hypot(dy)
    }
}

/// What labels must not hide.
#[derive(Clone, Debug)]
pub(super) struct Obstacles {
    /// Labels stay inside.
    pub(super) panel: Rect,
    /// Markers, and the labels placed so far.
    pub(super) boxes: Vec<Rect>,
    /// Error bars and lines, which may be crossed if need be.
    pub(super) segments: Vec<((f64, f64), (f64, f64))>,
}

impl Obstacles {
    /// The centre of a label of this size near a point, and the place taken; `None` where it would hide a marker or a label.
    pub(super) fn place(&mut self, (x, y): (f64, f64), width: f64, height: f64) -> Option<(f64, f64)> {
        let (dx, dy) = (width / 2.0 + 8.0, height / 2.0 + 7.0);
        let (near_x, near_y) = (width / 2.0 + 5.0, height / 2.0 + 3.0);
        // In the order of preference: above right first, as on maps.
        let places = [
            (near_x, -near_y),
            (-near_x, -near_y),
            (near_x, near_y),
            (-near_x, near_y),
            (0.0, -dy),
            (0.0, dy),
            (dx, 0.0),
            (-dx, 0.0),
            (1.8 * near_x, -1.8 * near_y),
            (-1.8 * near_x, -1.8 * near_y),
            (1.8 * near_x, 1.8 * near_y),
            (-1.8 * near_x, 1.8 * near_y),
        ];
        let mut best: Option<((f64, f64), Rect, f64)> = None;
        for (preference, (dx, dy)) in places.into_iter().enumerate() {
            let centre = (x + dx, y + dy);
            let taken = Rect::around(centre, width / 2.0, height / 2.0);
            if !taken.within(&self.panel) || self.boxes.iter().any(|other| taken.shared(other) > 0.0) {
                continue;
            }
            let crossed: f64 = self.segments.iter().map(|(from, to)| taken.length_inside(*from, *to)).sum();
            let cost = crossed + 0.8 * preference as f64;
            if best.is_none_or(|(_, _, least)| cost < least) {
                best = Some((centre, taken, cost));
            }
        }
        let (centre, taken, _) = best?;
        self.boxes.push(taken);
        Some(centre)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty() -> Obstacles {
        Obstacles {
            panel: Rect { left: 0.0, top: 0.0, right: 200.0, bottom: 100.0 },
            boxes: Vec::new(),
            segments: Vec::new(),
        }
    }

    #[test]
    fn labels_hide_neither_markers_nor_each_other() {
        let mut obstacles = empty();
        let points: Vec<(f64, f64)> =
            (0..12).map(|i| (40.0 + 9.0 * f64::from(i), 50.0 + 4.0 * f64::from(i % 3))).collect();
        obstacles.boxes = points.iter().map(|point| Rect::around(*point, 6.0, 6.0)).collect();
        let placed = points.iter().filter(|point| obstacles.place(**point, 14.0, 11.0).is_some()).count();
        assert!(placed >= 8, "{placed}");
        for (i, a) in obstacles.boxes.iter().enumerate().skip(points.len()) {
            assert!(a.within(&obstacles.panel));
            assert!(obstacles.boxes[..i].iter().all(|b| a.shared(b) == 0.0));
        }
    }

    #[test]
    fn a_label_avoids_a_line_where_it_can() {
        let mut obstacles = empty();
        obstacles.segments = vec![((100.0, 50.0), (160.0, 10.0))];
        let (x, _) = obstacles.place((100.0, 50.0), 14.0, 11.0).unwrap();
        assert!(x < 100.0, "the line goes up to the right, the label to the left");
    }

    #[test]
    fn clipping_measures_what_is_inside() {
        let rect = Rect { left: 0.0, top: 0.0, right: 10.0, bottom: 10.0 };
        assert_eq!(rect.length_inside((-5.0, 5.0), (20.0, 5.0)), 10.0);
        assert_eq!(rect.length_inside((-5.0, 15.0), (20.0, 15.0)), 0.0);
        assert_eq!(rect.length_inside((2.0, 2.0), (2.0, 6.0)), 4.0);
    }
}
