//! HTTP to an authority, by the client that the control plane has for all it asks.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};

use crate::control::outgoing::{self, Certificates};

/// See the module's text. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Client(reqwest::Client);

impl Client {
    /// `authority`: who has signed the certificate of the other end; empty: whom the host trusts.
    pub(super) fn new(authority: &str) -> Result<Self, String> {
        let trust = Certificates { authority: authority.to_owned(), ..Certificates::default() };
        let client = trust.client()?.timeout(REQUEST_MAX).https_only(true).build();
        client.map(Self).map_err(|error| outgoing::explain(&error))
    }
}

impl HttpClient for Client {
    fn request(
        &self,
        request: http::Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let client = self.0.clone();
        Box::pin(async move {
            let other = |error: reqwest::Error| Error::Other(Box::new(error));
            let (parts, body) = request.into_parts();
            let asked = client
                .request(parts.method, parts.uri.to_string())
                .headers(parts.headers)
                .body(reqwest::Body::wrap(body))
                .send();
            let mut answer = asked.await.map_err(other)?;
            let mut bytes = Vec::new();
            while let Some(piece) = answer.chunk().await.map_err(other)? {
                if piece.len() > ANSWER_MAX - bytes.len() {
                    return Err(Error::Str("an answer has more than 1 MiB"));
                }
                bytes.extend_from_slice(&piece);
            }
            let mut response = http::Response::new(());
            *response.status_mut() = answer.status();
            *response.headers_mut() = std::mem::take(answer.headers_mut());
            let (parts, ()) = response.into_parts();
            Ok(BytesResponse { parts, body: Box::new(Bytes::from(bytes)) })
        })
    }
}

/// For one question and its answer.
const REQUEST_MAX: Duration = Duration::from_secs(30);

/// Bytes of an answer.
const ANSWER_MAX: usize = 1 << 20;
