//! Part buffers that are used again: a fresh 16 MiB buffer costs four thousand page faults.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Keeps up to a number of buffers for the next user. A clone shares them.
#[derive(Clone)]
pub(super) struct Pool(Arc<Shelf>);

struct Shelf {
    buffers: Mutex<Vec<Vec<u8>>>,
    keep: usize,
    largest: usize,
    slot: usize,
}

impl Pool {
    /// Makes an empty pool that keeps at most `keep` buffers, none of more than `largest` bytes. Whoever takes one
    /// has as many slots of `slot` bytes as he asks for, and gets no buffer that would be worth more.
    pub(super) fn new(keep: usize, largest: usize, slot: usize) -> Self {
        Self(Arc::new(Shelf { buffers: Mutex::new(Vec::new()), keep, largest, slot: slot.max(1) }))
    }

    /// Returns an empty buffer with room for `capacity` bytes.
    pub(super) fn take(&self, capacity: usize) -> Buffer {
        let mut shelf = self.0.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        // A large buffer serves a small file; the reverse would grow it by copying.
        let slots = |bytes: usize| bytes.div_ceil(self.0.slot).max(1);
        let fits =
            |buffer: &Vec<u8>| buffer.capacity() >= capacity && slots(buffer.capacity()) <= slots(capacity);
        let data = shelf.iter().position(fits).map(|index| shelf.swap_remove(index)).or_else(|| {
            // One makes room for the new one: what is kept and what is in use are the same memory.
            shelf.pop();
            None
        });
        drop(shelf);
        Buffer { data: data.unwrap_or_else(|| Vec::with_capacity(capacity)), home: Some(self.clone()) }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("keep", &self.0.keep).finish_non_exhaustive()
    }
}

/// A buffer that goes back to its pool when the last reader drops it.
pub(super) struct Buffer {
    data: Vec<u8>,
    home: Option<Pool>,
}

impl Buffer {
    /// Adds bytes.
    pub(super) fn extend(&mut self, bytes: &[u8]) {
        self.data.extend_from_slice(bytes);
    }

    /// Returns the number of bytes.
    pub(super) fn len(&self) -> usize {
        self.data.len()
    }

    /// Makes the buffer readable from many places; it goes back when all have dropped it.
    pub(super) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(Pool(shelf)) = self.home.take() else { return };
        let mut data = std::mem::take(&mut self.data);
        data.clear();
        let mut buffers = shelf.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        if (1..=shelf.largest).contains(&data.capacity()) && buffers.len() < shelf.keep {
            buffers.push(data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_empty_when_its_last_reader_is_gone() {
        let pool = Pool::new(1, 100, 100);
        let mut buffer = pool.take(100);
        buffer.extend(b"secret of another file");
        let place = buffer.as_ref().as_ptr();
        let bytes = buffer.freeze();
        let other = bytes.clone();
        drop(bytes);
        assert_ne!(pool.take(100).as_ref().as_ptr(), place);
        drop(other);
        let again = pool.take(50);
        assert_eq!(again.len(), 0);
        assert_eq!(again.as_ref(), b"");
    }

    #[test]
    fn no_more_buffers_are_kept_than_asked() {
        let pool = Pool::new(2, 10, 10);
        let taken: Vec<_> = (0..5).map(|_| pool.take(10)).collect();
        drop(taken);
        assert_eq!(pool.0.buffers.lock().unwrap().len(), 2);
    }

    #[test]
    fn a_small_file_does_not_get_the_buffer_of_a_large_part() {
        let pool = Pool::new(2, 100, 25);
        let (part, small) = (pool.take(100), pool.take(20));
        drop((part, small));
        assert_eq!(pool.take(25).data.capacity(), 25);
        let kept = || pool.0.buffers.lock().unwrap().iter().map(Vec::capacity).sum::<usize>();
        assert!(kept() <= 100 + 25, "{}", kept());
    }
}
