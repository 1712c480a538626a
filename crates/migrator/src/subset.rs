//! A part of all files, chosen by their names alone: after as many runs as there are parts, each was in one. Pure.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use storage_core::checksum::Digest;
use storage_core::id::FileId;

/// The `part`-th of `of` parts.
///
/// A file belongs to the part whose number, less one, is the remainder of the first eight bytes of the SHA-256 of its
/// id, big-endian, by `of`. So it stays in its part whatever else comes and goes, in every release and on every
/// machine, and parts are about equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subset {
    part: u32,
    of: u32,
}

impl Subset {
    /// Tells whether a file belongs to this part.
    pub fn takes(&self, id: &FileId) -> bool {
        let digest = Digest::of(id.as_str().as_bytes());
        let head = digest.as_bytes().iter().take(8).fold(0u64, |head, byte| head << 8 | u64::from(*byte));
        head % u64::from(self.of) == u64::from(self.part - 1)
    }
}

impl fmt::Display for Subset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.part, self.of)
    }
}

/// A text that is no subset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidSubset(String);

impl fmt::Display for InvalidSubset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no subset: write the part and the number of parts, as in 3/7", self.0)
    }
}

impl std::error::Error for InvalidSubset {}

impl FromStr for Subset {
    type Err = InvalidSubset;

    fn from_str(text: &str) -> Result<Self, InvalidSubset> {
        let invalid = || InvalidSubset(text.to_owned());
        let number =
            |text: &str| text.parse::<u32>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
        let (part, of) = text.split_once('/').ok_or_else(invalid)?;
        let (part, of) = (number(part).ok_or_else(invalid)?, number(of).ok_or_else(invalid)?);
        if part == 0 || part > of { Err(invalid()) } else { Ok(Self { part, of }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_in_one_part_and_parts_are_about_equal() {
        for of in [1, 2, 3, 7, 100] {
            let mut sizes = vec![0u32; of as usize];
            for number in 0..7_000 {
                let id = FileId::parse(format!("some/where/{number}")).unwrap();
                let takes = (1..=of).filter(|part| Subset { part: *part, of }.takes(&id));
                let parts: Vec<_> = takes.collect();
                assert_eq!(parts.len(), 1, "{id}");
                sizes[parts[0] as usize - 1] += 1;
            }
            let fair = 7_000 / of;
            assert!(sizes.iter().all(|size| *size > fair / 2 && *size < fair * 2), "{sizes:?}");
        }
    }

    /// A release that chose otherwise would leave files out of a round that began before it.
    #[test]
    fn the_choice_is_the_same_for_ever() {
        let id = FileId::parse("abc").unwrap();
        // SHA-256 of "abc" begins with ba7816bf8f01cfea.
        let part = u32::try_from(0xba78_16bf_8f01_cfea_u64 % 7 + 1).unwrap();
        assert!(Subset { part, of: 7 }.takes(&id));
    }

    #[test]
    fn only_a_part_of_the_whole_is_a_subset() {
        assert_eq!("3/7".parse::<Subset>().unwrap().to_string(), "3/7");
        for text in ["", "3", "0/7", "8/7", "+1/7", "1/0", "a/b", "1/7/2", " 1/7"] {
            assert!(text.parse::<Subset>().is_err(), "{text}");
        }
    }
}
