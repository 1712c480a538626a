//! The SDK's client, one per node of the cluster, and the way from one node to the next.

use std::error::Error as StdError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aws_config::{BehaviorVersion, Region};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    Credentials, RequestChecksumCalculation, ResponseChecksumValidation, StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use futures::future::Either;

use super::config::S3Config;
use super::encryption::Encryption;
use super::error::{Failure, Request};
use super::signing::unlogged;
use crate::error::{Effect, Error, Result};

/// Time to connect: one lost SYN and its repetition after 1 s, and one after 3 s, are still noticed.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_millis(3_100);

/// A stream that moves no byte for so long has stalled.
pub(super) const STALL_GRACE: Duration = Duration::from_secs(20);

const DEFAULT_REGION: &str = "us-east-1";

/// One client per endpoint; the one that answered last is asked first.
#[derive(Debug)]
pub(super) struct Clients {
    clients: Vec<Client>,
    last_good: AtomicUsize,
    credentials: Option<SharedCredentialsProvider>,
    storage: String,
    /// Requests carry a key, which the SDK writes to the log at its finest level.
    carry_key: bool,
}

impl Clients {
    pub(super) async fn build(config: &S3Config) -> Self {
        let mut loader = aws_config::defaults(BehaviorVersion::latest());
        if let Some(region) = &config.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(profile) = &config.profile {
            loader = loader.profile_name(profile);
        }
        if let Some(credentials) = &config.credentials {
            loader = loader.credentials_provider(Credentials::new(
                &credentials.access_key,
                &credentials.secret,
                None,
                None,
                "static",
            ));
            if config.region.is_none() && !config.endpoints.is_empty() {
                // Nothing is left to ask the instance's metadata service for.
                loader = loader.region(Region::new(DEFAULT_REGION));
            }
        }
        let shared = loader.load().await;
        let region = shared.region().cloned().unwrap_or_else(|| Region::new(DEFAULT_REGION));
        let builder = aws_sdk_s3::config::Builder::from(&shared)
            .region(region)
            .force_path_style(config.uses_path_style())
            // The retry layer repeats whole calls; two that repeat each other multiply.
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).build())
            .stalled_stream_protection(
                StalledStreamProtectionConfig::enabled().grace_period(STALL_GRACE).build(),
            )
            // Other servers break on the trailers that the SDK adds by default; the SHA-256 is given instead.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        let clients = if config.endpoints.is_empty() {
            vec![Client::from_conf(builder.build())]
        } else {
            let client =
                |endpoint: &String| Client::from_conf(builder.clone().endpoint_url(endpoint).build());
            config.endpoints.iter().map(client).collect()
        };
        Self {
            clients,
            last_good: AtomicUsize::new(0),
            credentials: shared.credentials_provider(),
            storage: config.name.clone(),
            carry_key: matches!(config.encryption, Encryption::Customer(_)),
        }
    }

    /// Returns the client that answered last.
    pub(super) fn current(&self) -> &Client {
        &self.clients[self.last_good.load(Ordering::Relaxed) % self.clients.len()]
    }

    /// Returns the client of an endpoint.
    pub(super) fn client(&self, endpoint: usize) -> &Client {
        &self.clients[endpoint % self.clients.len()]
    }

    /// Returns the number of endpoints.
    pub(super) fn count(&self) -> usize {
        self.clients.len()
    }

    /// Returns the chain that the clients take their credentials from.
    pub(super) fn credentials(&self) -> Option<SharedCredentialsProvider> {
        self.credentials.clone()
    }

    /// Sends a request, to the next node where one cannot be reached.
    pub(super) async fn call<T, E, F, Fut>(&self, request: Request<'_>, send: F) -> Result<T>
    where
        E: ProvideErrorMetadata + StdError + 'static,
        F: FnMut(Client) -> Fut,
        Fut: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    {
        self.try_call(request, send).await.map_err(|(failure, effect)| self.error(failure, request, effect))
    }

    /// Like [`call`](Self::call), for callers that look at the failure.
    pub(super) async fn try_call<T, E, F, Fut>(
        &self,
        request: Request<'_>,
        mut send: F,
    ) -> Result<T, (Failure, Effect)>
    where
        E: ProvideErrorMetadata + StdError + 'static,
        F: FnMut(Client) -> Fut,
        Fut: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    {
        let send = |endpoint: usize| {
            // The SDK's futures are large, and everybody's who waits for one would be.
            let answer = self.discreet(Box::pin(send(self.clients[endpoint].clone())));
            async { answer.await.map_err(|error| Failure::of(&error)) }
        };
        self.each(request, send).await
    }

    /// Keeps a request out of the log that carries a key.
    pub(super) fn discreet<F: Future + Unpin>(&self, request: F) -> impl Future<Output = F::Output> + use<F> {
        if self.carry_key { Either::Left(unlogged(request)) } else { Either::Right(request) }
    }

    /// Sends to the endpoint that answered last, and to the next where one cannot be reached.
    pub(super) async fn each<T, F, Fut>(
        &self,
        request: Request<'_>,
        mut send: F,
    ) -> Result<T, (Failure, Effect)>
    where
        F: FnMut(usize) -> Fut,
        Fut: Future<Output = Result<T, Failure>>,
    {
        let count = self.clients.len();
        let first = self.last_good.load(Ordering::Relaxed);
        let mut effect = Effect::None;
        let mut tried = 0;
        loop {
            let index = (first + tried) % count;
            tried += 1;
            match send(index).await {
                Ok(answer) => {
                    self.last_good.store(index, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(failure) => {
                    if failure.effect(request) == Effect::Unknown {
                        effect = Effect::Unknown;
                    }
                    if tried == count || !failure.moves_on(request) {
                        return Err((failure, effect));
                    }
                    tracing::debug!(storage = %self.storage, endpoint = index, %failure, "trying the next endpoint");
                }
            }
        }
    }

    pub(super) fn error(&self, failure: Failure, request: Request<'_>, effect: Effect) -> Error {
        failure.into_error(request, effect).with_storage(&self.storage)
    }
}
