//! Directories as they are found in the wild, with a manifest of what is in them.
//!
//! Contents follow from a seed and the path, so a tree can be made again, and each file differs from all others.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use sha2::{Digest, Sha256};

/// The longest key that S3 takes, in bytes.
pub const MAX_KEY: usize = 1024;

/// A file of a [`Manifest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// In bytes.
    pub size: u64,
    /// SHA-256, 64 lowercase hex digits.
    pub sha256: String,
}

/// What a tree holds; paths are relative, byte-exact, in byte order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// Regular files. A hard link is a file like any other.
    pub files: BTreeMap<Vec<u8>, Entry>,
    /// What is neither a regular file nor a directory, with its kind: `symlink`, `fifo`, `socket`.
    pub foreign: BTreeMap<Vec<u8>, &'static str>,
}

impl Manifest {
    /// Returns the files whose path can be a key: UTF-8 of at most [`MAX_KEY`] bytes.
    pub fn keys(&self) -> BTreeMap<String, Entry> {
        self.files
            .iter()
            .filter(|(path, _)| path.len() <= MAX_KEY)
            .filter_map(|(path, entry)| Some((String::from_utf8(path.clone()).ok()?, entry.clone())))
            .collect()
    }

    /// Returns the paths of the files that can be no key.
    pub fn unnameable(&self) -> Vec<Vec<u8>> {
        let fits = |path: &Vec<u8>| path.len() <= MAX_KEY && std::str::from_utf8(path).is_ok();
        self.files.keys().filter(|path| !fits(path)).cloned().collect()
    }

    /// Returns the sum of the files' sizes, in bytes.
    pub fn total_size(&self) -> u64 {
        self.files.values().map(|entry| entry.size).sum()
    }

    /// Reads a directory: what is there now, for a comparison with what was made. Links are not followed.
    ///
    /// # Errors
    /// When something in it cannot be read.
    pub fn read(root: &Path) -> Result<Self> {
        let mut manifest = Self::default();
        manifest.read_dir(root, root)?;
        Ok(manifest)
    }

    fn read_dir(&mut self, root: &Path, dir: &Path) -> Result<()> {
        use std::os::unix::fs::FileTypeExt;

        for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
            let entry = entry?;
            let (path, kind) = (entry.path(), entry.file_type()?);
            let relative = path.strip_prefix(root).unwrap_or(&path).as_os_str().as_bytes().to_owned();
            if kind.is_dir() {
                self.read_dir(root, &path)?;
            } else if kind.is_file() {
                let entry = hash(&path).with_context(|| format!("cannot read {}", path.display()))?;
                self.files.insert(relative, entry);
            } else {
                let kind = match kind {
                    kind if kind.is_symlink() => "symlink",
                    kind if kind.is_fifo() => "fifo",
                    kind if kind.is_socket() => "socket",
                    _ => "device",
                };
                self.foreign.insert(relative, kind);
            }
        }
        Ok(())
    }
}

fn hash(path: &Path) -> io::Result<Entry> {
    let (mut file, mut hasher, mut size) = (File::open(path)?, Sha256::new(), 0);
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(Entry { size, sha256: hex::encode(hasher.finalize()) });
        }
        hasher.update(&buffer[..count]);
        size += count as u64;
    }
}

/// Names that have broken copiers, as paths below the directory they are made in. All are different files on a
/// file system that keeps names as bytes.
pub fn odd_names() -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = [
        // Read as options.
        "-rf",
        "--delete",
        "-",
        // Taken for temporary or hidden files.
        ".tmp",
        "upload.tmp",
        ".hidden",
        "backup~",
        "...",
        // The same to an eye, different files.
        "caf\u{e9}.txt",
        "cafe\u{301}.txt",
        "Case.txt",
        "case.txt",
        // Changed by encoding or decoding once too often.
        "a+b",
        "a b",
        " leading space",
        "trailing space ",
        "100%",
        "%41",
        "%2F",
        "%",
        "a%20b",
        "q?x=1&y=2",
        "#fragment",
        "colon:semicolon;comma,equals=at@",
        // Eaten by shells, XML, JSON, CSV, globs and regular expressions.
        "quote'\"`",
        "$HOME",
        "<tag>&amp;",
        "back\\slash",
        "*",
        "[a-z]{1,2}",
        "(paren)|pipe^",
        "!bang",
        "~",
        // Control characters; XML 1.0 has no way to say some of them.
        "line\nbreak",
        "carriage\rreturn",
        "tab\there",
        "bell\u{7}",
        "unit\u{1f}separator",
        "del\u{7f}",
        // Beyond ASCII, beyond 16 bits, right to left, invisible, not a character.
        "日本語",
        "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 🦀",
        "\u{5e9}\u{5dc}\u{5d5}\u{5dd}",
        "\u{202e}txt.exe",
        "zero\u{200b}width",
        "\u{feff}bom",
        "\u{fffd}",
        "\u{fffe}noncharacter",
        "nbsp\u{a0}here",
        // Walked in the order a, a.b, a0 by those who sort names, and a.b, a/.., a0 by byte order of keys.
        "order/a/file",
        "order/a.b",
        "order/a-b",
        "order/a0",
        "order/a b",
        // Reserved elsewhere.
        "CON",
        "nul.txt",
        "trailing.dot.",
        "soap",
        // A directory with the odd name.
        " odd dir %2F/+file",
    ]
    .map(|name| name.as_bytes().to_owned())
    .into();
    names.push(vec![b'n'; 255]);
    names.push("é".repeat(127).into_bytes());
    names
}

/// Names that no key can be, as paths below the directory they are made in: not UTF-8, or over [`MAX_KEY`] bytes.
pub fn unnameable() -> Vec<Vec<u8>> {
    let long = [[b'd'; 250]; 4].join(&b'/');
    vec![
        b"latin1-caf\xe9".to_vec(),
        b"not-utf8-\xff\xfe".to_vec(),
        b"bad-dir-\x80/file".to_vec(),
        // Encoded surrogate and overlong slash.
        b"surrogate-\xed\xa0\x80".to_vec(),
        b"overlong-\xc0\xaf".to_vec(),
        [b"long/".as_slice(), &long, b"/", &[b'f'; 250]].concat(),
    ]
}

/// Builds a directory. The methods may be called in any order; each refuses to replace what is there, which also
/// shows file systems that take two names for one.
#[derive(Debug)]
pub struct Tree {
    root: PathBuf,
    seed: u64,
    manifest: Manifest,
}

impl Tree {
    /// Begins in `root`, which is made if need be.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(root: impl Into<PathBuf>, seed: u64) -> Result<Self> {
        let root = root.into();
        fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
        Ok(Self { root, seed, manifest: Manifest::default() })
    }

    /// Returns the directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Adds a file of `size` random bytes. Directories on the way are made.
    ///
    /// # Errors
    /// When it cannot be made, or is there.
    pub fn file(mut self, path: impl AsRef<[u8]>, size: u64) -> Result<Self> {
        self.add(path.as_ref(), size)?;
        Ok(self)
    }

    /// Adds a file with the given bytes.
    ///
    /// # Errors
    /// As [`file`](Self::file).
    pub fn file_with(mut self, path: impl AsRef<[u8]>, bytes: &[u8]) -> Result<Self> {
        let mut file = self.create(path.as_ref())?;
        file.write_all(bytes)?;
        self.note(path.as_ref(), bytes.len() as u64, Sha256::digest(bytes).as_slice());
        Ok(self)
    }

    /// Adds `dir/size-N` for each size.
    ///
    /// # Errors
    /// As [`file`](Self::file).
    pub fn sizes(mut self, dir: &str, sizes: &[u64]) -> Result<Self> {
        for size in sizes {
            self.add(format!("{dir}/size-{size}").as_bytes(), *size)?;
        }
        Ok(self)
    }

    /// Adds `count` files of `size` bytes, a hundred to a directory: `dir/000/000000` and so on.
    ///
    /// # Errors
    /// As [`file`](Self::file).
    pub fn many(mut self, dir: &str, count: u32, size: u64) -> Result<Self> {
        for n in 0..count {
            self.add(format!("{dir}/{:03}/{n:06}", n / 100).as_bytes(), size)?;
        }
        Ok(self)
    }

    /// Adds the [`odd_names`] below `dir`, each a small file.
    ///
    /// # Errors
    /// As [`file`](Self::file).
    pub fn odd_names(mut self, dir: &str) -> Result<Self> {
        for name in odd_names() {
            self.add(&join(dir, &name), 10 + name.len() as u64)?;
        }
        Ok(self)
    }

    /// Adds the files that can be no key ([`unnameable`]) below `dir`.
    ///
    /// # Errors
    /// As [`file`](Self::file).
    pub fn unnameable(mut self, dir: &str) -> Result<Self> {
        for name in unnameable() {
            self.add(&join(dir, &name), 10)?;
        }
        Ok(self)
    }

    /// Adds symbolic links below `dir`: dangling, to itself, two in a circle, to a file, to a directory, to its
    /// own parent, and out of the tree.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn symlinks(mut self, dir: &str) -> Result<Self> {
        self.add(&join(dir, b"target/file"), 100)?;
        for (name, target) in [
            ("dangling", "nowhere"),
            ("loop", "loop"),
            ("circle-a", "circle-b"),
            ("circle-b", "circle-a"),
            ("to-file", "target/file"),
            ("to-dir", "target"),
            ("to-parent", "."),
            ("out", "/etc/hostname"),
        ] {
            let path = join(dir, name.as_bytes());
            symlink(target, self.at(&path)).with_context(|| format!("cannot link {name}"))?;
            self.manifest.foreign.insert(path, "symlink");
        }
        Ok(self)
    }

    /// Adds a fifo and a socket below `dir`: opening the one hangs, opening the other fails.
    ///
    /// # Errors
    /// When they cannot be made. A socket's path must be shorter than 108 bytes.
    pub fn special(mut self, dir: &str) -> Result<Self> {
        let (fifo, socket) = (join(dir, b"fifo"), join(dir, b"socket"));
        fs::create_dir_all(self.at(dir.as_bytes()))?;
        let mode = Mode::from_raw_mode(0o644);
        mknodat(CWD, self.at(&fifo), FileType::Fifo, mode, 0).context("cannot make a fifo")?;
        drop(UnixListener::bind(self.at(&socket)).context("cannot make a socket")?);
        self.manifest.foreign.insert(fifo, "fifo");
        self.manifest.foreign.insert(socket, "socket");
        Ok(self)
    }

    /// Adds a second name for a file of the tree.
    ///
    /// # Errors
    /// When there is no such file, or the name is taken.
    pub fn hard_link(mut self, original: impl AsRef<[u8]>, link: impl AsRef<[u8]>) -> Result<Self> {
        let (original, link) = (original.as_ref(), link.as_ref());
        let Some(entry) = self.manifest.files.get(original).cloned() else {
            bail!("{} is no file of the tree", original.escape_ascii());
        };
        self.make_parent(link)?;
        fs::hard_link(self.at(original), self.at(link)).context("cannot make a hard link")?;
        self.manifest.files.insert(link.to_owned(), entry);
        Ok(self)
    }

    /// Adds a file of `size` bytes that is a hole but for 4 KiB in its middle.
    ///
    /// # Errors
    /// As [`file`](Self::file).
    pub fn sparse(mut self, path: impl AsRef<[u8]>, size: u64) -> Result<Self> {
        let path = path.as_ref();
        let mut data = vec![0; 4096.min(usize::try_from(size).unwrap_or(4096))];
        self.random(path).fill_bytes(&mut data);
        let mut file = self.create(path)?;
        file.set_len(size)?;
        file.seek(SeekFrom::Start((size - data.len() as u64) / 2))?;
        file.write_all(&data)?;
        drop(file);
        let entry = hash(&self.at(path))?;
        self.manifest.files.insert(path.to_owned(), entry);
        Ok(self)
    }

    /// Adds a directory with nothing in it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn empty_dir(self, path: &str) -> Result<Self> {
        fs::create_dir_all(self.at(path.as_bytes()))?;
        Ok(self)
    }

    /// Adds one of each: odd and impossible names below `names`, links, special files, hard links, a sparse file, an
    /// empty directory, and sizes around those at which things change: nothing, one block, one part.
    ///
    /// # Errors
    /// When any of it cannot be made.
    pub fn everything(self) -> Result<Self> {
        self.odd_names("names")?
            .unnameable("unnameable")?
            .symlinks("links")?
            .special("special")?
            .sizes("sizes", &[0, 1, 4095, 4096, 4097, 65536, (5 << 20) - 1, 5 << 20, (5 << 20) + 1])?
            .hard_link("sizes/size-4097", "hard/link")?
            .sparse("sparse", 20 << 20)?
            .empty_dir("empty")
    }

    /// Returns what is in it.
    pub fn finish(self) -> Manifest {
        self.manifest
    }

    fn at(&self, path: &[u8]) -> PathBuf {
        self.root.join(OsStr::from_bytes(path))
    }

    fn random(&self, path: &[u8]) -> StdRng {
        let mut hasher = Sha256::new();
        hasher.update(self.seed.to_le_bytes());
        hasher.update(path);
        StdRng::from_seed(hasher.finalize().into())
    }

    fn make_parent(&self, path: &[u8]) -> Result<()> {
        if let Some(parent) = self.at(path).parent() {
            fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        }
        Ok(())
    }

    fn create(&self, path: &[u8]) -> Result<File> {
        self.make_parent(path)?;
        let made = OpenOptions::new().write(true).create_new(true).open(self.at(path));
        made.with_context(|| format!("cannot make {}", path.escape_ascii()))
    }

    fn add(&mut self, path: &[u8], size: u64) -> Result<()> {
        let (mut file, mut random, mut hasher) = (self.create(path)?, self.random(path), Sha256::new());
        let mut buffer = vec![0; usize::try_from(size.min(1 << 20)).unwrap_or(1 << 20)];
        let mut left = size;
        while left > 0 {
            let count = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            random.fill_bytes(&mut buffer[..count]);
            hasher.update(&buffer[..count]);
            file.write_all(&buffer[..count])?;
            left -= count as u64;
        }
        self.note(path, size, hasher.finalize().as_slice());
        Ok(())
    }

    fn note(&mut self, path: &[u8], size: u64, sha256: &[u8]) {
        self.manifest.files.insert(path.to_owned(), Entry { size, sha256: hex::encode(sha256) });
    }
}

fn join(dir: &str, name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_owned() } else { [dir.as_bytes(), b"/", name].concat() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;
    use std::process::Command;

    #[test]
    fn the_manifest_is_what_is_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let made = Tree::new(dir.path(), 7).unwrap().everything().unwrap().finish();
        assert_eq!(Manifest::read(dir.path()).unwrap(), made);
        assert_eq!(made.unnameable().len(), unnameable().len());
        assert_eq!(made.keys().len() + unnameable().len(), made.files.len());
        assert_eq!(made.foreign.values().filter(|kind| **kind == "symlink").count(), 8);

        let sparse = fs::metadata(dir.path().join("sparse")).unwrap();
        assert!(sparse.blocks() * 512 < sparse.size() / 2, "the hole takes no space");
        assert_eq!(fs::metadata(dir.path().join("hard/link")).unwrap().nlink(), 2);
    }

    #[test]
    fn digests_are_those_of_another_program() {
        let dir = tempfile::tempdir().unwrap();
        let made = Tree::new(dir.path(), 1).unwrap().file("a", 3_000_000).unwrap().finish();
        let output = Command::new("sha256sum").arg(dir.path().join("a")).output().unwrap();
        assert_eq!(&output.stdout[..64], made.files[b"a".as_slice()].sha256.as_bytes());
    }

    #[test]
    fn a_seed_makes_the_same_tree_again_and_no_two_files_are_alike() {
        let build = |seed| {
            let dir = tempfile::tempdir().unwrap();
            Tree::new(dir.path(), seed).unwrap().many("m", 150, 32).unwrap().finish()
        };
        let made = build(3);
        assert_eq!(made, build(3));
        assert_ne!(made, build(4));
        let mut digests: Vec<_> = made.files.values().map(|entry| &entry.sha256).collect();
        digests.sort();
        digests.dedup();
        assert_eq!(digests.len(), 150);
        assert!(made.files.contains_key(b"m/001/000149".as_slice()));
    }

    #[test]
    fn what_is_there_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::new(dir.path(), 1).unwrap().file("a", 1).unwrap();
        assert!(tree.file("a", 2).is_err());
    }
}
