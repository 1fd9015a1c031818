//! The server API over gRPC: the methods, keys and errors of `super::super::api`, with messages in
//! Protobuf. Reflection, where it is on, tells whoever asks what `api.proto` says, and needs no
//! key. The invariants are those of HTTP: without a valid key nothing of a message is read, nothing
//! of a batch is done before all of it was understood, and messages share the room of bodies. Of a
//! question to reflection little is read.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::Response;
use axum::routing::post;
use bytes::Bytes;
use prost::Message;
use tonic::{Code, Status};
use tower::service_fn;

use super::Whole;
use crate::control::access::{Admission, Gate};
use crate::control::api::{Api, ApiConfig};
use crate::control::backend::Backend;
use crate::control::body::{self, BodyLimits, Charge};
use crate::control::counts::Counts;
use crate::control::room::{self, Seat};
use crate::gateway::api::batch;
use crate::gateway::api::protobuf::{self, METHODS, Undecodable};
use crate::gateway::wire::Error;

/// How the server API is offered over gRPC.
#[derive(Clone, Debug)]
pub struct GrpcConfig {
    /// Who may call.
    pub access: Gate,
    /// Tell errors as statuses of gRPC for everyone, not only where `x-centrifugo-error-mode:
    /// transport` asks for it.
    pub transport_errors: bool,
    /// Offer reflection.
    pub reflection: bool,
    /// Bytes of a message.
    pub message_max: usize,
}

/// The services.
pub fn router<B: Backend>(backend: Arc<B>, config: GrpcConfig, counts: Arc<Counts>) -> Router {
    let GrpcConfig { access, transport_errors, reflection, message_max } = config;
    let body = BodyLimits { bytes: message_max + PREFIX, small: SMALL, ..BodyLimits::default() };
    let config = ApiConfig { access, transport_errors, body, ..ApiConfig::default() };
    let api = Arc::new(Api::new(backend, config, counts));
    let mut router = Router::new()
        .route(&format!("/{SERVICE}/{{method}}"), post(call::<B>))
        .with_state(api)
        .fallback(async || Status::unimplemented("no such service").into_http::<Body>());
    if reflection {
        let builder = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(DESCRIPTION)
        };
        // Of our own description, which tests read.
        if let (Ok(new), Ok(old)) = (builder().build_v1(), builder().build_v1alpha()) {
            let new = new.max_decoding_message_size(QUESTION_MAX);
            let old = old.max_decoding_message_size(QUESTION_MAX);
            router = router
                .route_service("/grpc.reflection.v1.ServerReflection/{method}", new)
                .route_service("/grpc.reflection.v1alpha.ServerReflection/{method}", old);
        }
    }
    router
}

async fn call<B: Backend>(
    State(api): State<Arc<Api<B>>>,
    Path(method): Path<String>,
    request: Request,
) -> Response {
    match admitted(&api, &method, request).await {
        Ok(response) => response,
        Err(status) => status.into_http::<Body>(),
    }
}

/// Reads the message of whoever may call, does what it says, and writes the outcome.
async fn admitted<B: Backend>(
    api: &Arc<Api<B>>,
    method: &str,
    mut request: Request,
) -> Result<Response, Status> {
    match api.admits(&request) {
        Admission::Refused => return Err(api.denied(StatusCode::UNAUTHORIZED)),
        Admission::ByKey if !room::recognise(request.extensions()) => {
            return Err(api.denied(StatusCode::SERVICE_UNAVAILABLE));
        }
        Admission::ByKey | Admission::Anybody => {}
    }
    // Other calls of the connection are worked on while this one is read.
    request.extensions_mut().remove::<Seat>();
    let content = request.headers().get(header::CONTENT_TYPE);
    if !content.is_some_and(|content| content.as_bytes().starts_with(b"application/grpc")) {
        return Err(Status::invalid_argument("no message of gRPC"));
    }
    let known = METHODS.iter().find(|(name, ..)| *name == method);
    if known.is_none() && method != BATCH {
        return Err(Status::unimplemented("no such method"));
    }
    let by_status = api.tells_by_status(&request);
    let (parts, body) = request.into_parts();
    let mut charge = Charge::new(api.bodies());
    let limits = api.limits();
    let body = body::read(Request::from_parts(parts.clone(), body), limits, &mut charge).await;
    let body = body.map_err(|status| api.denied(status))?;
    let request = Request::from_parts(parts, Body::from(body));
    let (api, known) = (api.clone(), known.map(|(_, method, _)| *method));
    // Held until the answer is made.
    let charge = Arc::new(std::sync::Mutex::new(charge));
    let service = service_fn(move |request: tonic::Request<Bytes>| {
        let (api, charge) = (api.clone(), charge.clone());
        async move {
            let message = request.into_inner();
            let reply = match known {
                Some(method) => one(&api, method, message, by_status).await?,
                None => {
                    let batch = protobuf::Batch::decode(message, batch::REQUESTS_MAX);
                    let batch = batch.map_err(|_| malformed())?;
                    let size = batch.commands.len() * batch::REQUEST_SIZE;
                    let grown = charge.lock().map_or(Ok(()), |mut charge| charge.add(size));
                    grown.map_err(|status| api.denied(status))?;
                    let done = api.all(batch.commands, batch.parallel).await;
                    protobuf::replies(&done)
                }
            };
            Ok::<_, Status>(tonic::Response::new(Bytes::from(reply)))
        }
    });
    let mut grpc = tonic::server::Grpc::new(Whole).max_decoding_message_size(limits.bytes);
    Ok(grpc.unary(service, request).await.map(Body::new))
}

async fn one<B: Backend>(
    api: &Api<B>,
    method: &str,
    message: Bytes,
    by_status: bool,
) -> Result<Vec<u8>, Status> {
    let outcome = match protobuf::decode(method, message) {
        Ok(request) => api.call(request).await,
        Err(Undecodable::Refused(error)) => Err(error),
        Err(Undecodable::Malformed) => return Err(malformed()),
    };
    match &outcome {
        Err(error) if by_status => Err(status_of(error)),
        outcome => Ok(protobuf::response(outcome)),
    }
}

fn malformed() -> Status {
    Status::internal("no message of this method, or too large a one")
}

/// The status of an error, where errors are told so, with the error itself among its details.
fn status_of(error: &Error) -> Status {
    let code = match error.code {
        102 | 104 => Code::NotFound,
        107 | 108 => Code::InvalidArgument,
        112 => Code::OutOfRange,
        113 => Code::AlreadyExists,
        _ => Code::Internal,
    };
    let detail = Detail {
        type_url: format!("type.googleapis.com/{PACKAGE}.Error"),
        value: protobuf::failure(error).encode_to_vec().into(),
    };
    let message = error.message.to_string();
    let details = Details { code: code as i32, message: message.clone(), details: vec![detail] };
    Status::with_details(code, message, details.encode_to_vec().into())
}

impl<B: Backend> Api<B> {
    /// The status of a call that is refused before it is one, counted.
    fn denied(&self, status: StatusCode) -> Status {
        self.count_refused(status);
        match status {
            StatusCode::UNAUTHORIZED => Status::unauthenticated("unauthenticated"),
            StatusCode::PAYLOAD_TOO_LARGE => Status::resource_exhausted("too large a message"),
            StatusCode::REQUEST_TIMEOUT => Status::deadline_exceeded("the message was too slow"),
            StatusCode::SERVICE_UNAVAILABLE => Status::unavailable("there is no room"),
            _ => Status::cancelled("the message is not whole"),
        }
    }
}

/// `google.rpc.Status`, as metadata carries it.
#[derive(Clone, PartialEq, Message)]
struct Details {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Detail>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct Detail {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

const PACKAGE: &str = "centrifugal.centrifugo.api";
const SERVICE: &str = "centrifugal.centrifugo.api.CentrifugoApi";
const BATCH: &str = "Batch";

/// What `api.proto` is compiled to.
const DESCRIPTION: &[u8] = include_bytes!("../../gateway/api/api.fds");

/// Bytes before a message.
const PREFIX: usize = 5;

/// A message up to this size always passes. Less than over HTTP, since calls are many.
const SMALL: usize = 4 << 10;

/// Bytes of a question to reflection: a host, and the name of a file or symbol.
const QUESTION_MAX: usize = 4 << 10;

#[cfg(test)]
mod tests {
    use prost_reflect::prost_types::FileDescriptorSet;

    use super::*;

    /// `GOLDEN=write` writes it anew.
    #[test]
    fn the_description_is_that_of_the_file() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/gateway/api");
        let mut compiler = protox::Compiler::new([folder]).expect("a folder");
        compiler.include_source_info(false).open_file("api.proto").expect("it compiles");
        let set = compiler.file_descriptor_set();
        if std::env::var("GOLDEN").is_ok_and(|it| it == "write") {
            let file = format!("{folder}/api.fds");
            return std::fs::write(file, set.encode_to_vec()).expect("it can be written");
        }
        let known = FileDescriptorSet::decode(DESCRIPTION).expect("a description");
        assert!(known == set, "src/gateway/api/api.fds is another: GOLDEN=write writes it anew");
        let build = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(DESCRIPTION)
        };
        assert!(build().build_v1().is_ok() && build().build_v1alpha().is_ok());
    }

    #[test]
    fn errors_are_statuses_with_themselves_among_the_details() {
        let status = status_of(&Error::new(102, "unknown channel", false));
        assert_eq!((status.code(), status.message()), (Code::NotFound, "unknown channel"));
        let details = Details::decode(status.details()).expect("a status");
        assert_eq!((details.code, details.details.len()), (5, 1));
        assert!(details.details[0].type_url.ends_with("/centrifugal.centrifugo.api.Error"));
        let error = protobuf::Failure::decode(&details.details[0].value[..]).expect("an error");
        assert_eq!((error.code, error.message.as_str()), (102, "unknown channel"));
        for (code, expected) in [
            (107, Code::InvalidArgument),
            (108, Code::InvalidArgument),
            (112, Code::OutOfRange),
            (113, Code::AlreadyExists),
            (100, Code::Internal),
            (104, Code::NotFound),
        ] {
            assert_eq!(status_of(&Error::new(code, "m", false)).code(), expected);
        }
    }
}
