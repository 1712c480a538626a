//! The storages themselves. None knows a layer, and none knows another.

#[cfg(feature = "local")]
pub mod local;
pub mod memory;
#[cfg(feature = "object-store")]
pub mod object_store;
#[cfg(feature = "s3")]
pub mod s3;
