//! What is in the source.

/// Which files of the source a run is about; the default is all.
#[derive(Clone, Debug, Default)]
pub struct Filter(());
