//! SHA-256 of a stream, and of each of the parts it is cut into, in one pass.
//!
//! A file that is sent in parts is hashed twice: the server wants the hash of each part, the owner that of the file.
//! One SHA-256 keeps a core's SHA unit waiting for its own last result most of the time. Two that advance side by
//! side over the same block fill the gaps, and share the expansion of the message: measured on a Sapphire Rapids
//! core, both cost little more than one, where one after the other costs twice.
//!
//! Without the SHA instructions of x86-64 both are computed one after the other, by the crate `sha2`.

mod block;

use block::{Block, IV, compress, compress_both};

/// Bytes per block of SHA-256.
const BLOCK: usize = 64;

/// Computes the SHA-256 of a stream and of its parts.
///
/// Parts that are a multiple of 64 bytes long, but for the last, are the quick ones.
///
/// ```
/// let mut twin = twin_sha256::Twin::new();
/// twin.update(b"abc");
/// let part = twin.finish_part();
/// twin.update(b"def");
/// assert_eq!(part[..3], [0xba, 0x78, 0x16]);
/// assert_ne!(twin.finish_part(), twin.clone().finish());
/// ```
#[derive(Clone, Debug, Default)]
pub struct Twin {
    whole: State,
    part: State,
}

impl Twin {
    /// Starts with no bytes, in the first part.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next bytes to the stream and to the present part.
    pub fn update(&mut self, mut data: &[u8]) {
        if self.whole.held != self.part.held {
            // A part of an odd length lies behind: the blocks are no longer the same ones.
            self.whole.update(data);
            self.part.update(data);
            return;
        }
        if self.whole.held > 0 {
            let fill = data.len().min(BLOCK - self.whole.held);
            self.whole.update(&data[..fill]);
            self.part.update(&data[..fill]);
            data = &data[fill..];
        }
        let (blocks, rest) = data.as_chunks::<BLOCK>();
        compress_both(&mut self.whole.words, &mut self.part.words, blocks);
        self.whole.length += (blocks.len() * BLOCK) as u64;
        self.part.length += (blocks.len() * BLOCK) as u64;
        self.whole.update(rest);
        self.part.update(rest);
    }

    /// Ends the present part, begins the next, and returns the SHA-256 of the one that ended.
    pub fn finish_part(&mut self) -> [u8; 32] {
        std::mem::take(&mut self.part).finish()
    }

    /// Returns the SHA-256 of all bytes.
    pub fn finish(self) -> [u8; 32] {
        self.whole.finish()
    }
}

/// One SHA-256 under way (FIPS 180-4).
#[derive(Clone, Debug)]
struct State {
    words: [u32; 8],
    /// Bytes of a block that is not full.
    tail: Block,
    held: usize,
    length: u64,
}

impl Default for State {
    fn default() -> Self {
        Self { words: IV, tail: [0; BLOCK], held: 0, length: 0 }
    }
}

impl State {
    fn update(&mut self, mut data: &[u8]) {
        self.length += data.len() as u64;
        if self.held > 0 {
            let fill = data.len().min(BLOCK - self.held);
            self.tail[self.held..self.held + fill].copy_from_slice(&data[..fill]);
            self.held += fill;
            data = &data[fill..];
            if self.held < BLOCK {
                return;
            }
            compress(&mut self.words, &[self.tail]);
            self.held = 0;
        }
        let (blocks, rest) = data.as_chunks::<BLOCK>();
        compress(&mut self.words, blocks);
        self.tail[..rest.len()].copy_from_slice(rest);
        self.held = rest.len();
    }

    /// Pads with a one bit, zeros and the length in bits (FIPS 180-4 section 5.1.1).
    fn finish(mut self) -> [u8; 32] {
        let bits = self.length.wrapping_mul(8).to_be_bytes();
        let room = BLOCK - bits.len();
        self.tail[self.held] = 0x80;
        self.tail[self.held + 1..].fill(0);
        if self.held >= room {
            compress(&mut self.words, &[self.tail]);
            self.tail.fill(0);
        }
        self.tail[room..].copy_from_slice(&bits);
        compress(&mut self.words, &[self.tail]);
        let mut digest = [0; 32];
        for (bytes, word) in digest.chunks_exact_mut(4).zip(self.words) {
            bytes.copy_from_slice(&word.to_be_bytes());
        }
        digest
    }
}
