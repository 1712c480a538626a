use std::sync::Arc;

use async_trait::async_trait;
use tempfile::TempDir;

use super::{OpenMode, SqliteLedger};
use crate::ledger::conformance::{Place, ledger_conformance};
use crate::ledger::{Binding, Ledger};

fn binding() -> Binding {
    Binding { source: "/srv/files".into(), target: "s3://bucket/prefix".into() }
}

struct Directory(TempDir);

impl Directory {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }
}

#[async_trait]
impl Place for Directory {
    async fn open(&self) -> Arc<dyn Ledger> {
        let path = self.0.path().join("deep/er/ledger.db");
        Arc::new(SqliteLedger::open(path, &binding(), OpenMode::Create).await.unwrap())
    }
}

mod promises {
    use super::{Directory, ledger_conformance};

    ledger_conformance!(Directory::new());
}

mod disk;
mod opening;
mod process;
