//! Questions to the application's backend: where each goes, and what its statuses mean. `proxies`
//! are those with a name of their own; `default` are those in `client.proxy`, `channel.proxy` and
//! `rpc.proxy`, one for each kind of question.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::schema::{section, tables};
use crate::gateway::plan::ToDisconnect;
use crate::options::{Secret, Size};

section! {
    /// `client.proxy`: questions about connections to the application's backend.
    pub struct ClientProxies {
        /// Asked who a connection without a token is.
        connect: EnabledProxy = EnabledProxy::default(),
        /// Asked whether an expiring connection may stay.
        refresh: EnabledProxy = EnabledProxy::default(),
    }
}

section! {
    /// `channel.proxy`: where questions about channels go; namespaces switch them on.
    pub struct ChannelProxies {
        /// Asked about subscribing, in namespaces with `subscribe_proxy_enabled`.
        subscribe: Proxy = Proxy::default(),
        /// Asked about publishing, in namespaces with `publish_proxy_enabled`.
        publish: Proxy = Proxy::default(),
        /// Asked whether an expiring subscription may stay, in namespaces with
        /// `sub_refresh_proxy_enabled`.
        sub_refresh: Proxy = Proxy::default(),
        /// Asked about subscribing, and heard from then on, in namespaces with
        /// `subscribe_stream_proxy_enabled`. Over gRPC only.
        subscribe_stream: Proxy = Proxy::default(),
    }
}

section! {
    /// A proxy with a switch.
    pub struct EnabledProxy {
        /// Ask.
        enabled: bool = false,
        ..
        /// Where and how.
        proxy: Proxy,
    }
}

section! {
    /// One of `proxies`.
    pub struct NamedProxy {
        /// Letters, digits, `_`, `-` and `.`, at least two; unique, and not `default`.
        name: String = String::new(),
        ..
        /// Where and how.
        proxy: Proxy,
    }
}

tables!(NamedProxy by name);

section! {
    /// Where a question goes, and how long the answer may take.
    pub struct Proxy {
        /// URL of the backend: `http://` or `https://`; or of gRPC, `grpc://host:port`, also
        /// without the scheme.
        endpoint: String = String::new(),
        /// Time for the answer; then the client gets error 100.
        timeout: Duration = Duration::from_secs(1),
        /// Questions that the backend has at once; others wait for their turn. Ours.
        concurrency: u32 = 512,
        /// Bytes of questions that wait or are asked, and of answers; more fails with error 100.
        /// Ours.
        max_memory: Size = Size(32 << 20),
        /// Streams of subscriptions that are open at once; one more subscription fails with error
        /// 100. Of `subscribe_stream` proxies. Ours.
        max_streams: u32 = 4096,
        /// Request headers of the client that are passed on.
        http_headers: Vec<String> = Vec::new(),
        /// Headers inside the client's connect command that are passed on as if they were request
        /// headers.
        emulated_headers: Vec<String> = Vec::new(),
        /// Payloads travel as base64, for data that is no JSON.
        binary_encoding: bool = false,
        /// Send the connection's `meta` along.
        include_connection_meta: bool = false,
        /// Details of the HTTP request.
        http: ProxyHttp = ProxyHttp::default(),
        /// Details of the gRPC call.
        grpc: ProxyGrpc = ProxyGrpc::default(),
    }
}

section! {
    /// Details of a proxy's HTTP request.
    pub struct ProxyHttp {
        /// Headers added to each request. `${CENTRIFUGO_VAR_…}` and `${RINGHOLD_VAR_…}` in a value
        /// stand for such a variable of the environment.
        static_headers: BTreeMap<String, String> = BTreeMap::new(),
        /// What statuses other than 200 mean, instead of error 100; the first that fits holds.
        status_to_code_transforms: Vec<StatusTransform> = Vec::new(),
        /// Certificates, where the host's are not what counts.
        tls: ProxyTls = ProxyTls::default(),
    }
}

section! {
    /// Details of a proxy's gRPC call.
    pub struct ProxyGrpc {
        /// Metadata of each call. Variables are as in `static_headers`.
        static_metadata: BTreeMap<String, String> = BTreeMap::new(),
        /// The name of one more such pair, and its value.
        credentials_key: String = String::new(),
        /// Its value.
        credentials_value: Secret = Secret::default(),
        /// Is not heard: questions are not compressed.
        compression: bool = false,
        /// TLS towards the backend.
        tls: ProxyTls = ProxyTls::default(),
    }
}

section! {
    /// What one status of the backend means for the client.
    pub struct StatusTransform {
        /// The status.
        status_code: u16 = 0,
        /// The client gets this error.
        to_error: ToError = ToError::default(),
        /// Or its connection is closed with this.
        to_disconnect: ToDisconnect = ToDisconnect::default(),
    }
}

tables!(StatusTransform);

section! {
    /// An error for the client.
    pub struct ToError {
        /// Its code; 0: none.
        code: u32 = 0,
        /// In words, at most 123 bytes of ASCII.
        message: String = String::new(),
        /// The client may try again.
        temporary: bool = false,
    }
}

section! {
    /// TLS towards a backend. Without it the certificates of the host's authorities hold.
    pub struct ProxyTls {
        /// Use what follows.
        enabled: bool = false,
        /// Our certificate, for a backend that wants one: PEM, base64 of PEM, or a file with PEM.
        cert_pem: String = String::new(),
        /// Its key, likewise.
        key_pem: Secret = Secret::default(),
        /// The authority that the backend's certificate must come from, likewise.
        server_ca_pem: String = String::new(),
        /// Has no meaning for a client.
        client_ca_pem: String = String::new(),
        /// The name that the backend's certificate must have. Over HTTP only that of `endpoint`.
        server_name: String = String::new(),
        /// Believe every certificate. Over HTTP only.
        insecure_skip_verify: bool = false,
    }
}
