//! Sorting more than memory holds: sorted runs in temporary files, merged when they are read.
//!
//! At most `BUFFER` bytes wait for a run to be written. A level holds at most `FAN_IN` runs, which then become one
//! of the next level, and each run that is being read has `READ` bytes in memory. So what a spool holds is some 10 MiB
//! whatever it was given; the open files grow with its logarithm. They have no name, and nothing stays of them whatever
//! becomes of the process.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, BufWriter, Seek as _, Write as _};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes that wait for a run to be written.
const BUFFER: usize = 8 << 20;

/// Runs that are merged at once.
const FAN_IN: usize = 32;

/// Bytes of a run that are read ahead.
const READ: usize = 64 << 10;

/// Takes items in any order.
pub struct Spool {
    /// Key and line of each that is in no run yet.
    waiting: Vec<(u64, Box<[u8]>)>,
    bytes: usize,
    buffer: usize,
    fan_in: usize,
    /// Runs by level.
    levels: Vec<Vec<File>>,
    /// The most bytes that ever waited.
    #[cfg(test)]
    peak: usize,
}

impl fmt::Debug for Spool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spool").field("waiting", &self.waiting.len()).finish_non_exhaustive()
    }
}

impl Default for Spool {
    fn default() -> Self {
        Self::with_limits(BUFFER, FAN_IN)
    }
}

impl Spool {
    fn with_limits(buffer: usize, fan_in: usize) -> Self {
        Self {
            waiting: Vec::new(),
            bytes: 0,
            buffer,
            fan_in,
            levels: Vec::new(),
            #[cfg(test)]
            peak: 0,
        }
    }

    /// Adds an item. Among equal keys, items come in the order in which they were added.
    ///
    /// # Errors
    /// A temporary file cannot be written.
    pub fn add<T: Serialize>(&mut self, key: u64, item: &T) -> io::Result<()> {
        // JSON, so that a line is an item whatever names hold.
        let mut line = format!("{key:016x}").into_bytes();
        serde_json::to_writer(&mut line, item)?;
        line.push(b'\n');
        let bytes = line.len() + size_of::<(u64, Box<[u8]>)>();
        if !self.waiting.is_empty() && self.bytes + bytes > self.buffer {
            self.write_run()?;
        }
        self.bytes += bytes;
        #[cfg(test)]
        {
            self.peak = self.peak.max(self.bytes);
        }
        self.waiting.push((key, line.into_boxed_slice()));
        Ok(())
    }

    fn write_run(&mut self) -> io::Result<()> {
        self.waiting.sort_by_key(|(key, _)| *key);
        let mut run = BufWriter::with_capacity(READ, tempfile::tempfile()?);
        for (_, line) in self.waiting.drain(..) {
            run.write_all(&line)?;
        }
        self.bytes = 0;
        let mut run = run.into_inner().map_err(io::IntoInnerError::into_error)?;
        // Whoever fills a level merges it into a run of the next.
        let mut level = 0;
        loop {
            if self.levels.len() == level {
                self.levels.push(Vec::new());
            }
            let Some(runs) = self.levels.get_mut(level) else { return Ok(()) };
            runs.push(run);
            if runs.len() < self.fan_in {
                return Ok(());
            }
            run = merged(std::mem::take(runs))?;
            level += 1;
        }
    }

    /// Ends the adding.
    ///
    /// # Errors
    /// A temporary file cannot be read or written.
    pub fn sorted(mut self) -> io::Result<Sorted> {
        if !self.waiting.is_empty() {
            self.write_run()?;
        }
        // What was added first comes first: the oldest runs are those of the highest level.
        let mut runs = Vec::new();
        while let Some(level) = self.levels.pop() {
            runs.extend(level);
        }
        while runs.len() > self.fan_in {
            let rest = runs.split_off(self.fan_in);
            runs = std::iter::once(merged(runs)?).chain(rest).collect();
        }
        Sorted::new(runs)
    }
}

fn merged(runs: Vec<File>) -> io::Result<File> {
    let mut out = BufWriter::with_capacity(READ, tempfile::tempfile()?);
    let mut sorted = Sorted::new(runs)?;
    while let Some(line) = sorted.next_line()? {
        out.write_all(&line)?;
    }
    out.into_inner().map_err(io::IntoInnerError::into_error)
}

/// Items in ascending order of their keys.
pub struct Sorted {
    runs: Vec<BufReader<File>>,
    /// The next line of each run, by its beginning, which is the key, and the age of the run.
    heads: BinaryHeap<Reverse<(Head, usize)>>,
}

/// A line, compared by its key alone.
struct Head(Vec<u8>);

/// Hexadecimal digits of a key in front of a line.
const KEY: usize = 16;

impl Head {
    fn key(&self) -> &[u8] {
        self.0.get(..KEY).unwrap_or_default()
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Head {}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(other.key())
    }
}

impl fmt::Debug for Sorted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sorted").field("runs", &self.runs.len()).finish_non_exhaustive()
    }
}

impl Sorted {
    fn new(runs: Vec<File>) -> io::Result<Self> {
        let mut sorted = Self { runs: Vec::new(), heads: BinaryHeap::new() };
        for (index, mut run) in runs.into_iter().enumerate() {
            run.rewind()?;
            sorted.runs.push(BufReader::with_capacity(READ, run));
            sorted.advance(index)?;
        }
        Ok(sorted)
    }

    fn advance(&mut self, index: usize) -> io::Result<()> {
        let Some(run) = self.runs.get_mut(index) else { return Ok(()) };
        let mut line = Vec::new();
        if run.read_until(b'\n', &mut line)? > 0 {
            self.heads.push(Reverse((Head(line), index)));
        }
        Ok(())
    }

    fn next_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some(Reverse((Head(line), index))) = self.heads.pop() else { return Ok(None) };
        self.advance(index)?;
        Ok(Some(line))
    }

    /// Returns the next items, at most so many; none once all were returned.
    ///
    /// # Errors
    /// A temporary file cannot be read.
    pub fn take<T: DeserializeOwned>(&mut self, at_most: usize) -> io::Result<Vec<T>> {
        let mut items = Vec::new();
        while items.len() < at_most
            && let Some(line) = self.next_line()?
        {
            items.push(serde_json::from_slice(line.get(KEY..).unwrap_or_default())?);
        }
        Ok(items)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(mut sorted: Sorted) -> Vec<(u64, String)> {
        let mut found = Vec::new();
        loop {
            let items: Vec<(u64, String)> = sorted.take(7).unwrap();
            if items.is_empty() {
                return found;
            }
            found.extend(items);
        }
    }

    proptest! {
        // Each case makes as many files as it has buffers.
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn everything_comes_back_once_and_in_order(
            items in proptest::collection::vec((prop_oneof![0..9u64, any::<u64>()], "\\PC{0,9}|[\n\r\"]{0,3}"), 0..400),
            buffer in 200usize..8192,
            fan_in in 2usize..6,
        ) {
            let mut spool = Spool::with_limits(buffer, fan_in);
            for (key, name) in &items {
                spool.add(*key, &(*key, name)).unwrap();
            }
            let mut expected = items;
            expected.sort_by_key(|(key, _)| *key);
            prop_assert_eq!(all(spool.sorted().unwrap()), expected);
        }
    }

    /// What is held does not grow with what is added: a hundred times the buffer goes through it.
    #[test]
    fn memory_is_the_buffer_and_a_run_of_every_level() {
        let (buffer, fan_in) = (64 << 10, 4);
        let mut spool = Spool::with_limits(buffer, fan_in);
        let mut given = 0;
        for number in 0..70_000u64 {
            let name = format!("a/name/of/a/file/that/is/not/short/{number:08}");
            given += name.len();
            spool.add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15), &(number, name)).unwrap();
            assert!(spool.levels.iter().all(|level| level.len() < fan_in));
        }
        assert!(given > 40 * buffer, "{given}");
        assert!(spool.peak <= buffer, "{} bytes waited", spool.peak);
        assert!(spool.levels.len() <= 5, "{} levels", spool.levels.len());
        let sorted = spool.sorted().unwrap();
        assert!(sorted.runs.len() <= fan_in, "{} runs are read at once", sorted.runs.len());
        assert_eq!(all(sorted).len(), 70_000);
    }
}
