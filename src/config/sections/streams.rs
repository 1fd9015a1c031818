//! `sse`, `http_stream`, `emulation`, `uni_sse` and `uni_http_stream`: clients without WebSocket.

use crate::config::schema::{keys, tables};
use crate::gateway::plan::{
    ConnectResponse, ConnectResponses, Emulation, HttpStream, Sse, ToResponse, UniHttpStream,
    UniSse,
};

keys! {
    Sse {
        enabled, handler_prefix, max_request_body_size,
    }
}

keys! {
    HttpStream {
        enabled, handler_prefix, max_request_body_size,
    }
}

keys! {
    Emulation {
        handler_prefix, max_request_body_size, max_waiting,
    }
}

keys! {
    UniSse {
        enabled, handler_prefix, max_request_body_size, connect_code_to_http_response,
    }
}

keys! {
    UniHttpStream {
        enabled, handler_prefix, max_request_body_size, connect_code_to_http_response,
    }
}

keys! {
    ConnectResponses {
        enabled, transforms,
    }
}

keys! {
    ConnectResponse {
        code, to,
    }
}

keys! {
    ToResponse {
        status_code, body,
    }
}

tables!(ConnectResponse);
