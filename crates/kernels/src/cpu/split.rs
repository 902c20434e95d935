//! Matrix products split into tasks.

use super::microkernel::ROWS;
use super::pack::PANEL;
use super::parallel::for_each;

/// Multiply-adds below which one thread does it all.
const SERIAL: usize = 256 * 1024;
/// Least rows of a task when rows are split.
const TASK_ROWS: usize = 8 * ROWS;
/// Least rows of a thread where the rows of a panel that is left over are split: fewer leave the multipliers waiting.
const LEAST_ROWS: usize = 4;
/// Elements of `x` that one thread goes over panel after panel: 1 MiB stays in the second cache.
const PART: usize = 256 * 1024;

/// How a product, or several of the same rows, are split into tasks.
pub(super) struct Split {
    rows: usize,
    part_rows: usize,
    panels: usize,
    threads: usize,
    /// Rows that are not to be parted.
    group: usize,
    small: bool,
}

impl Split {
    /// Of `rows` rows of `inner` elements and so many panels in all.
    pub(super) fn new(rows: usize, inner: usize, panels: usize) -> Self {
        // Rows are split where the panels alone would leave threads idle, and where `x` would not stay in the cache. Threads
        // take neighbouring tasks: a thread has its rows, and goes over the panels in their order in memory. One thread by
        // itself, as a half of a training step is, wants the same.
        let threads = rayon::current_num_threads();
        let wanted = (4 * threads).div_ceil(panels.max(1)).max((rows * inner).div_ceil(PART));
        let parts = wanted.min(rows.div_ceil(TASK_ROWS)).max(1);
        let part_rows = rows.div_ceil(parts).next_multiple_of(ROWS);
        Self { rows, part_rows, panels, threads, group: 1, small: rows * inner * panels * PANEL < SERIAL }
    }

    /// Parts no group of [`ROWS`] rows from now on.
    pub(super) fn keep_groups(&mut self) {
        self.group = ROWS;
    }

    /// Whether one thread does it all.
    pub(super) fn is_small(&self) -> bool {
        self.small
    }

    /// Calls `task` with every pair of a panel and some rows.
    pub(super) fn run(&self, task: impl Fn(usize, std::ops::Range<usize>) + Send + Sync) {
        if self.small {
            (0..self.panels).for_each(|panel| task(panel, 0..self.rows));
            return;
        }
        if let Some(tasks) = self.evenly() {
            for_each(tasks, |index| {
                let (panel, rows) = self.even_task(index);
                task(panel, rows);
            });
            return;
        }
        for_each(self.panels * self.rows.div_ceil(self.part_rows), |index| {
            let first = (index / self.panels) * self.part_rows;
            task(index % self.panels, first..self.rows.min(first + self.part_rows));
        });
    }

    /// The number of tasks where each thread gets as many whole panels as the others, and the rows of those that are left over are split among all:
    /// of nine panels and two threads one would do five otherwise, while the other waits. `None` where rows are split anyway, or too few, or
    /// nothing is left over.
    fn evenly(&self) -> Option<usize> {
        let apart = self.part_rows < self.rows || self.rows < LEAST_ROWS * self.threads;
        let over = self.panels % self.threads;
        (!apart && over > 0).then_some(self.threads * (self.panels / self.threads + over))
    }

    /// Panel and rows of a task of [`Split::evenly`]: a thread's tasks follow each other.
    fn even_task(&self, index: usize) -> (usize, std::ops::Range<usize>) {
        let (whole, over) = (self.panels / self.threads, self.panels % self.threads);
        let (thread, place) = (index / (whole + over), index % (whole + over));
        if place < whole {
            return (thread * whole + place, 0..self.rows);
        }
        let bound =
            |thread: usize| (thread * self.rows / self.threads).next_multiple_of(self.group).min(self.rows);
        (self.threads * whole + place - whole, bound(thread)..bound(thread + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_cover_every_row_of_every_panel_once_and_threads_have_as_much_to_do() {
        let shapes = [(32, 9, 2), (8, 15, 2), (13, 7, 3), (100, 3, 2), (40, 9, 8), (8, 1, 2)];
        for ((rows, panels, threads), group) in
            shapes.into_iter().flat_map(|shape| [(shape, 1), (shape, ROWS)])
        {
            let split = Split { rows, part_rows: rows, panels, threads, group, small: false };
            let tasks = split.evenly().expect("panels are left over");
            let mut seen = vec![0; rows * panels];
            let mut done = vec![0; threads];
            for index in 0..tasks {
                let (panel, part) = split.even_task(index);
                assert!(part.is_empty() || part.start % group == 0, "{part:?} parts a group");
                done[index * threads / tasks] += part.len();
                for row in part {
                    seen[row * panels + panel] += 1;
                }
            }
            assert!(seen.iter().all(|seen| *seen == 1), "{rows} rows, {panels} panels: {seen:?}");
            // Of each panel left over, parts differ by a row, and by what groups round.
            let (least, most) = (done.iter().min().copied(), done.iter().max().copied());
            let apart = panels % threads * (2 * group - 1);
            assert!(most <= least.map(|least| least + apart), "{rows} rows, {panels} panels: {done:?}");
        }
        let none = |rows, part_rows, panels| {
            Split { rows, part_rows, panels, threads: 2, group: 1, small: false }.evenly()
        };
        assert_eq!([none(32, 32, 8), none(7, 7, 9), none(200, 100, 9)], [None; 3]);
    }
}
