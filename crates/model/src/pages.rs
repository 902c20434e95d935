//! Which pages of the key-value cache belong to which row. Numbers only: the keys and values are in [`crate::cache`].
//!
//! A page holds 16 positions of one row. Rows that share a prefix share its pages, the last, partly filled one included;
//! a page that several rows hold is copied when one of them writes to it.

/// Positions of a page.
pub const PAGE: usize = 16;

/// A copy of a page that has to be made before the next write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageCopy {
    /// The page that is shared.
    pub from: u32,
    /// The row's own from now on.
    pub to: u32,
}

#[derive(Debug, Clone, Default)]
struct Row {
    open: bool,
    pages: Vec<u32>,
    len: usize,
}

/// The page table of a session.
#[derive(Debug, Default)]
pub struct Pages {
    rows: Vec<Row>,
    free_rows: Vec<u32>,
    holders: Vec<u32>,
    free: Vec<u32>,
}

impl Pages {
    /// A new, empty row.
    pub fn open(&mut self) -> u32 {
        let row = Row { open: true, ..Row::default() };
        if let Some(index) = self.free_rows.pop() {
            self.rows[index as usize] = row;
            return index;
        }
        self.rows.push(row);
        self.rows.len() as u32 - 1
    }

    /// A new row that shares the first `len` positions of `row`.
    pub fn fork(&mut self, row: u32, len: usize) -> u32 {
        let source = self.row(row);
        assert!(len <= source.len, "row {row} has {} tokens, {len} were asked for", source.len);
        let pages = source.pages[..len.div_ceil(PAGE)].to_vec();
        for page in &pages {
            self.holders[*page as usize] += 1;
        }
        let fork = self.open();
        self.rows[fork as usize] = Row { open: true, pages, len };
        fork
    }

    /// Forgets all but the first `len` positions.
    pub fn truncate(&mut self, row: u32, len: usize) {
        let held = self.row(row).len;
        assert!(len <= held, "row {row} has {held} tokens, {len} were asked for");
        let dropped = self.rows[row as usize].pages.split_off(len.div_ceil(PAGE));
        self.rows[row as usize].len = len;
        for page in dropped {
            self.release(page);
        }
    }

    /// Drops a row.
    pub fn close(&mut self, row: u32) {
        self.truncate(row, 0);
        self.rows[row as usize].open = false;
        self.free_rows.push(row);
    }

    /// Tokens of a row.
    pub fn len(&self, row: u32) -> usize {
        self.row(row).len
    }

    /// The pages of a row, in order.
    pub fn table(&self, row: u32) -> &[u32] {
        &self.row(row).pages
    }

    /// Pages ever made: the cache must have room for as many.
    pub fn capacity(&self) -> usize {
        self.holders.len()
    }

    /// Makes room for `count` more positions of `row` and returns their slots (`page · 16 + offset`); `copies` gets the
    /// page that must be copied first, if any.
    pub fn append(&mut self, row: u32, count: usize, copies: &mut Vec<PageCopy>) -> Vec<u32> {
        let start = self.row(row).len;
        if !start.is_multiple_of(PAGE) && count > 0 {
            let place = start / PAGE;
            let page = self.rows[row as usize].pages[place];
            if self.holders[page as usize] > 1 {
                let own = self.take();
                self.release(page);
                self.rows[row as usize].pages[place] = own;
                copies.push(PageCopy { from: page, to: own });
            }
        }
        let mut slots = Vec::with_capacity(count);
        for position in start..start + count {
            if position.is_multiple_of(PAGE) {
                let page = self.take();
                self.rows[row as usize].pages.push(page);
            }
            let page = self.rows[row as usize].pages[position / PAGE];
            slots.push(page * PAGE as u32 + (position % PAGE) as u32);
        }
        self.rows[row as usize].len = start + count;
        slots
    }

    fn row(&self, row: u32) -> &Row {
        let found = self.rows.get(row as usize).filter(|row| row.open);
        let Some(found) = found else { panic!("row {row} is not open") };
        found
    }

    fn take(&mut self) -> u32 {
        if let Some(page) = self.free.pop() {
            self.holders[page as usize] = 1;
            return page;
        }
        self.holders.push(1);
        self.holders.len() as u32 - 1
    }

    fn release(&mut self, page: u32) {
        let holders = &mut self.holders[page as usize];
        *holders -= 1;
        if *holders == 0 {
            self.free.push(page);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A naive twin: every row is its own list of values, and pages are simulated by writing values to slots.
    #[test]
    fn shared_pages_hold_what_separate_rows_would() {
        let mut pages = Pages::default();
        let mut memory: Vec<u64> = Vec::new();
        let mut twin: Vec<(u32, Vec<u64>)> = Vec::new();
        let mut state = 12_345_u64;
        let mut random = move |n: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % n as u64) as usize
        };
        for time in 0..4000_u64 {
            match random(5) {
                0 if twin.len() < 12 => twin.push((pages.open(), Vec::new())),
                1 if !twin.is_empty() && twin.len() < 12 => {
                    let (row, values) = twin[random(twin.len())].clone();
                    let len = random(values.len() + 1);
                    twin.push((pages.fork(row, len), values[..len].to_vec()));
                }
                2 if !twin.is_empty() => {
                    let place = random(twin.len());
                    let len = random(twin[place].1.len() + 1);
                    pages.truncate(twin[place].0, len);
                    twin[place].1.truncate(len);
                }
                3 if twin.len() > 6 => {
                    let (row, _) = twin.swap_remove(random(twin.len()));
                    pages.close(row);
                }
                _ if !twin.is_empty() => {
                    let place = random(twin.len());
                    let count = random(40);
                    let mut copies = Vec::new();
                    let slots = pages.append(twin[place].0, count, &mut copies);
                    memory.resize(pages.capacity() * PAGE, 0);
                    for PageCopy { from, to } in copies {
                        let (from, to) = (from as usize * PAGE, to as usize * PAGE);
                        memory.copy_within(from..from + PAGE, to);
                    }
                    for (offset, slot) in slots.into_iter().enumerate() {
                        let value = time * 100 + offset as u64;
                        memory[slot as usize] = value;
                        twin[place].1.push(value);
                    }
                }
                _ => {}
            }
            for (row, values) in &twin {
                assert_eq!(pages.len(*row), values.len());
                for (position, value) in values.iter().enumerate() {
                    let slot = pages.table(*row)[position / PAGE] as usize * PAGE + position % PAGE;
                    assert_eq!(memory[slot], *value, "time {time}, row {row}, position {position}");
                }
            }
        }
        for (row, _) in twin {
            pages.close(row);
        }
        assert_eq!(pages.free.len(), pages.capacity(), "closed rows leave no page behind");
    }
}
