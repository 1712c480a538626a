//! One SHA-256 per payload: the digest that is known goes into the signature; and signing leaves no trace in the log.

use aws_runtime::auth::PayloadSigningOverride;
use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint;

use tracing::instrument::{WithDispatch, WithSubscriber};
use tracing::subscriber::NoSubscriber;

use crate::checksum::Digest;

/// Keeps what a future does out of the log: presigning, the SDK writes session tokens there, at its finest level.
pub(super) fn unlogged<F: Future>(presigning: F) -> WithDispatch<F> {
    presigning.with_subscriber(NoSubscriber::default())
}

/// The same for what is done at once: the signer writes all headers there, a customer's key among them.
pub(super) fn silently<T>(signing: impl FnOnce() -> T) -> T {
    tracing::subscriber::with_default(NoSubscriber::default(), signing)
}

/// Gives the signer the payload's SHA-256, which it would compute a second time otherwise. The server compares
/// it with the bytes it receives, as it does with `x-amz-checksum-sha256`.
#[derive(Debug)]
pub(super) struct PayloadDigest(pub(super) Digest);

#[dyn_dispatch_hint]
impl Intercept for PayloadDigest {
    fn name(&self) -> &'static str {
        "PayloadDigest"
    }

    fn modify_before_signing(
        &self,
        _context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        config.interceptor_state().store_put(PayloadSigningOverride::Precomputed(self.0.to_string()));
        Ok(())
    }
}
