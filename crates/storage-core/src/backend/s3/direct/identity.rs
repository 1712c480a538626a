//! The credentials in use, asked for again before they expire.

use std::time::{Duration, SystemTime};

use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_smithy_runtime_api::client::identity::Identity;
use tokio::sync::RwLock;

use crate::backend::s3::error::{Failure, innermost};

/// Credentials are renewed so long before they expire: a request that is under way must still be accepted, and
/// instance roles hand out new ones five minutes before.
const MARGIN: Duration = Duration::from_secs(60);

/// What has no expiry is asked for again after this time, as the SDK does: a profile may have been edited.
const LIFETIME: Duration = Duration::from_secs(15 * 60);

/// The credential chain, asked rarely.
#[derive(Debug)]
pub(super) struct IdentityCache {
    provider: SharedCredentialsProvider,
    current: RwLock<Option<(Identity, SystemTime)>>,
}

impl IdentityCache {
    pub(super) fn new(provider: SharedCredentialsProvider) -> Self {
        Self { provider, current: RwLock::new(None) }
    }

    /// Returns credentials that are valid now.
    pub(super) async fn get(&self) -> Result<Identity, Failure> {
        let now = SystemTime::now();
        let valid = |current: &Option<(Identity, SystemTime)>| {
            current.as_ref().filter(|(_, until)| now < *until).map(|(identity, _)| identity.clone())
        };
        if let Some(identity) = valid(&*self.current.read().await) {
            return Ok(identity);
        }
        // One asks, the others wait for it.
        let mut current = self.current.write().await;
        if let Some(identity) = valid(&current) {
            return Ok(identity);
        }
        let credentials = self
            .provider
            .provide_credentials()
            .await
            .map_err(|error| Failure::not_built(format!("no credentials: {}", innermost(&error))))?;
        let until = credentials.expiry().map_or(now + LIFETIME, |expiry| expiry - MARGIN);
        let identity = Identity::from(credentials);
        *current = Some((identity.clone(), until));
        Ok(identity)
    }
}
