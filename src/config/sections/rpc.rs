//! `rpc`: remote procedure calls of clients, and where each goes.

use super::proxies::Proxy;
use crate::config::schema::{keys, section, tables};
use crate::gateway::plan::{RpcNamespace, RpcOptions, RpcPing, RpcPlan};

section! {
    /// `rpc`: remote procedure calls of clients.
    pub struct Rpc {
        /// Where they go.
        proxy: Proxy = Proxy::default(),
        ..
        /// What the gateway is told.
        plan: RpcPlan,
    }
}

keys! {
    RpcPlan {
        without_namespace, namespaces, namespace_boundary, ping,
    }
}

keys! {
    RpcOptions {
        proxy_enabled, proxy_name,
    }
}

keys! {
    RpcNamespace {
        name, ..options,
    }
}

keys! {
    RpcPing {
        enabled, method,
    }
}

tables!(RpcNamespace by name);
