//! What is put around a storage. No layer knows a backend.

pub mod limit;
pub mod metered;
pub mod retry;
pub mod timeout;
