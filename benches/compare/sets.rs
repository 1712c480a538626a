//! The data sets: made once, the same each time, and used again.
//!
//! No file's bytes occur in another, so that nothing that compresses or deduplicates gains by it.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{Advice, fadvise, syncfs};
use serde::{Deserialize, Serialize};

use crate::floor::walk;

/// Bump this when a set's contents change: what was made before is made anew.
const VERSION: u32 = 1;

/// A set of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Set {
    /// 20,000 files of 4 KiB.
    S,
    /// 100,000 files of 10 KiB.
    S2,
    /// 1,000 files of 1 MiB.
    M,
    /// One file of 4 GiB.
    L,
    /// Sizes as in a photo library and a git forge.
    Mixed,
    /// 200,000 files of 64 bytes: for runs that copy nothing.
    U,
    /// A few small ones and one in parts: for a run that only shows that all works.
    Quick,
}

/// A set on disk.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) directory: PathBuf,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

#[derive(Debug, PartialEq, Deserialize, Serialize)]
struct Manifest {
    version: u32,
    files: u64,
    bytes: u64,
}

impl Set {
    /// All that a full run uses.
    pub(crate) const ALL: [Self; 6] = [Self::S, Self::S2, Self::M, Self::L, Self::Mixed, Self::U];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::S => "S",
            Self::S2 => "S2",
            Self::M => "M",
            Self::L => "L",
            Self::Mixed => "mixed",
            Self::U => "U",
            Self::Quick => "quick",
        }
    }

    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::S => "20,000 files of 4 KiB",
            Self::S2 => "100,000 files of 10 KiB",
            Self::M => "1,000 files of 1 MiB",
            Self::L => "one file of 4 GiB",
            Self::Mixed => {
                "400 photos (log-normal, median 2.2 MiB), 400 thumbnails (log-normal, median 18 KiB), 6,000 objects \
                 of a git forge (Pareto, from 120 B on, index 1.1), 4 packs of 40 to 160 MiB"
            }
            Self::U => "200,000 files of 64 B",
            Self::Quick => "64 files of 4 KiB, an empty one, one of 17 MiB",
        }
    }

    /// Returns the set of this name.
    ///
    /// # Errors
    /// The names there are.
    pub(crate) fn parse(name: &str) -> Result<Self, String> {
        let same = |set: &Self| set.name().eq_ignore_ascii_case(name);
        Self::ALL.into_iter().find(same).ok_or_else(|| "the sets are S, S2, M, L, mixed and U".to_owned())
    }

    /// Returns names and sizes.
    fn files(self) -> Box<dyn Iterator<Item = (String, u64)>> {
        let equal = |count: u64, size: u64, per_directory: u64| {
            (0..count).map(move |number| (format!("{:04}/{number:07}", number / per_directory), size))
        };
        match self {
            Self::S => Box::new(equal(20_000, 4 << 10, 2_000)),
            Self::S2 => Box::new(equal(100_000, 10 << 10, 5_000)),
            Self::M => Box::new(equal(1_000, 1 << 20, 100)),
            Self::L => Box::new(equal(1, 4 << 30, 1)),
            Self::U => Box::new(equal(200_000, 64, 1_000)),
            Self::Quick => Box::new(
                equal(64, 4 << 10, 32).chain([("empty".to_owned(), 0), ("large".to_owned(), 17 << 20)]),
            ),
            Self::Mixed => Box::new(mixed()),
        }
    }

    /// Makes the set beneath `root`, or finds it there.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn make(self, root: &Path) -> Result<Made> {
        let directory = root.join(self.name());
        let note = root.join(format!("{}.json", self.name()));
        let context = || format!("cannot make the set {} in {}", self.name(), root.display());
        let known = fs::read(&note).ok().and_then(|text| serde_json::from_slice::<Manifest>(&text).ok());
        if let (Some(known), Ok(found)) = (known, count(&directory))
            && known == (Manifest { version: VERSION, files: found.0, bytes: found.1 })
        {
            return Ok(Made { directory, files: found.0, bytes: found.1 });
        }
        // Half of it, or that of another version.
        if directory.exists() {
            fs::remove_dir_all(&directory).with_context(context)?;
        }
        let mut parent = PathBuf::new();
        let mut manifest = Manifest { version: VERSION, files: 0, bytes: 0 };
        for (number, (name, size)) in (0_u64..).zip(self.files()) {
            let path = directory.join(&name);
            if path.parent() != Some(&parent) {
                parent = path.parent().unwrap_or(root).to_owned();
                fs::create_dir_all(&parent).with_context(context)?;
            }
            let noise = Noise::new((self as u64) << 32 | number);
            write(&path, size, noise).with_context(context)?;
            manifest.files += 1;
            manifest.bytes += size;
        }
        // Clean pages can be dropped from the cache.
        syncfs(File::open(&directory)?).with_context(context)?;
        fs::write(&note, serde_json::to_vec(&manifest)?).with_context(context)?;
        Ok(Made { directory, files: manifest.files, bytes: manifest.bytes })
    }
}

impl Made {
    /// Takes a tree that is there already.
    ///
    /// # Errors
    /// When it cannot be read, or is empty.
    pub(crate) fn of_tree(directory: &Path) -> Result<Self> {
        let (files, bytes) = count(directory)?;
        ensure!(files > 0, "{} has no files", directory.display());
        Ok(Self { directory: directory.to_owned(), files, bytes })
    }

    /// Returns one directory of it, for what would take too long over all: the whole where it has but one.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn sample(&self) -> Result<Self> {
        let part = self.directory.join("0000");
        let two = self.directory.join("0001").is_dir();
        if part.is_dir() && two { Self::of_tree(&part) } else { Ok(self.clone()) }
    }

    /// Has the kernel forget the files, so that the next to read them reads the disk. Nothing happens on a tmpfs.
    ///
    /// # Errors
    /// When a file cannot be opened.
    pub(crate) fn evict(&self) -> Result<()> {
        walk::files(&self.directory, |name, _| {
            let file = File::open(self.directory.join(name))?;
            fadvise(&file, 0, None, Advice::DontNeed)?;
            Ok(())
        })
    }
}

fn count(directory: &Path) -> Result<(u64, u64)> {
    let (mut files, mut bytes) = (0, 0);
    walk::files(directory, |_, size| {
        files += 1;
        bytes += size;
        Ok(())
    })?;
    Ok((files, bytes))
}

fn write(path: &Path, size: u64, mut noise: Noise) -> Result<()> {
    let mut file = File::create(path)?;
    let mut buffer = vec![0; usize::try_from(size.min(1 << 20))?];
    let mut left = size;
    while left > 0 {
        let step = usize::try_from(left.min(buffer.len() as u64))?;
        noise.fill(&mut buffer[..step]);
        file.write_all(&buffer[..step])?;
        left -= step as u64;
    }
    Ok(())
}

/// Sizes as they are found: most objects small, most bytes in few.
fn mixed() -> impl Iterator<Item = (String, u64)> {
    let mut noise = Noise::new(0x006d_6978_6564);
    let photos: Vec<_> = (0..400)
        .flat_map(|number| {
            let photo = log_normal(&mut noise, 2.2 * 1_048_576.0, 0.6, 24 << 20);
            let thumbnail = log_normal(&mut noise, 18.0 * 1024.0, 0.5, 256 << 10);
            let album = number / 50;
            [
                (format!("photos/album {album:02}/IMG_{number:04}.jpg"), photo),
                (format!("photos/album {album:02}/.thumbnails/IMG_{number:04}.jpg"), thumbnail),
            ]
        })
        .collect();
    let objects: Vec<_> = (0..6_000_u64)
        .map(|_| {
            let id = format!("{:016x}{:016x}{:08x}", noise.next(), noise.next(), noise.next() >> 32);
            let size = 120.0 * (1.0 - noise.fraction()).powf(-1.0 / 1.1);
            (format!("forge/objects/{}/{}", &id[..2], &id[2..]), bytes(size, 64 << 20))
        })
        .collect();
    let packs: Vec<_> =
        (0..4).map(|number| (format!("forge/pack/pack-{number}.pack"), (40 + 40 * number) << 20)).collect();
    photos.into_iter().chain(objects).chain(packs)
}

fn log_normal(noise: &mut Noise, median: f64, sigma: f64, most: u64) -> u64 {
    // Box and Muller.
    let radius = (-2.0 * (1.0 - noise.fraction()).ln()).sqrt();
    let normal = radius * (std::f64::consts::TAU * noise.fraction()).cos();
    bytes(median * (sigma * normal).exp(), most)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and cut at the most")]
fn bytes(size: f64, most: u64) -> u64 {
    (size as u64).min(most)
}

/// Bytes that nothing compresses: SplitMix64, whose streams do not meet.
#[derive(Clone, Debug)]
pub(crate) struct Noise(u64);

impl Noise {
    pub(crate) fn new(seed: u64) -> Self {
        let mut noise = Self(seed);
        Self(noise.next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    #[expect(clippy::cast_precision_loss, reason = "53 bits are a double's")]
    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(crate) fn fill(&mut self, buffer: &mut [u8]) {
        for words in buffer.chunks_mut(8) {
            let word = self.next().to_le_bytes();
            words.copy_from_slice(&word[..words.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_sets_are_what_they_are_called() {
        let sums = |set: Set| set.files().fold((0, 0), |(files, bytes), (_, size)| (files + 1, bytes + size));
        assert_eq!(sums(Set::S), (20_000, 20_000 << 12));
        assert_eq!(sums(Set::S2), (100_000, 100_000 * 10_240));
        assert_eq!(sums(Set::M), (1_000, 1_000 << 20));
        assert_eq!(sums(Set::L), (1, 4 << 30));
        assert_eq!(sums(Set::U).0, 200_000);
        let (files, bytes) = sums(Set::Mixed);
        assert_eq!(files, 6_804);
        assert!((1 << 30..3 << 30).contains(&bytes), "{bytes}");
        let names: HashSet<String> = Set::Mixed.files().map(|(name, _)| name).collect();
        assert_eq!(names.len(), 6_804);
    }

    #[test]
    fn a_set_is_made_once_and_anew_when_something_is_missing() {
        let root = tempfile::tempdir().unwrap();
        let made = Set::Quick.make(root.path()).unwrap();
        assert_eq!((made.files, made.bytes), (66, (64 << 12) + (17 << 20)));
        let file = made.directory.join("0000/0000001");
        let (first, time) = (fs::read(&file).unwrap(), fs::metadata(&file).unwrap().modified().unwrap());
        assert_ne!(first, fs::read(made.directory.join("0000/0000002")).unwrap());
        Set::Quick.make(root.path()).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().modified().unwrap(), time);
        fs::remove_file(made.directory.join("large")).unwrap();
        let again = Set::Quick.make(root.path()).unwrap();
        assert_eq!((again.files, again.bytes), (made.files, made.bytes));
        assert_eq!(fs::read(&file).unwrap(), first);
        assert_eq!(again.sample().unwrap().files, 32);
    }
}
