//! Remote procedure calls of clients, and where each goes.

use crate::gateway::hooks::{DEFAULT_PROXY, proxy_name};
use crate::options::options;

options! {
    /// Remote procedure calls of clients: of `rpc` all but the backend.
    pub struct RpcPlan {
        /// Whether methods whose name has no namespace are passed on.
        without_namespace: RpcOptions = RpcOptions::default(),
        /// The same by namespace.
        namespaces: Vec<RpcNamespace> = Vec::new(),
        /// The end of the namespace in a method's name. Empty: no namespaces.
        namespace_boundary: String = ":".to_owned(),
        /// A method that the server answers itself, with nothing.
        ping: RpcPing = RpcPing::default(),
    }
}

options! {
    /// `rpc.without_namespace`: whether calls are passed on.
    pub struct RpcOptions {
        /// Pass them on. Otherwise they get error 108.
        proxy_enabled: bool = false,
        /// To whom: one of `proxies`, or `default`, which is `rpc.proxy`.
        proxy_name: String = DEFAULT_PROXY.to_owned(),
    }
}

options! {
    /// One namespace of `rpc.namespaces`.
    pub struct RpcNamespace {
        /// Letters, digits, `_`, `-` and `.`, at least two; unique.
        name: String = String::new(),
        ..
        /// The rules of its methods.
        options: RpcOptions,
    }
}

options! {
    /// `rpc.ping`: a method by which clients measure the way to the server.
    pub struct RpcPing {
        /// Answer it.
        enabled: bool = false,
        /// Its name.
        method: String = "ping".to_owned(),
    }
}

/// The route of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    /// The server answers itself, with nothing.
    Ping,
    /// This proxy is asked.
    Proxy(&'a str),
    /// Error 104.
    NoMethod,
    /// Error 108.
    Off,
}

impl RpcPlan {
    /// Where a call goes.
    pub(crate) fn route(&self, method: &str) -> Route<'_> {
        if self.ping.enabled && method == self.ping.method {
            return Route::Ping;
        }
        let passes = self.without_namespace.proxy_enabled
            || self.namespaces.iter().any(|one| one.options.proxy_enabled);
        if !passes {
            return if self.ping.enabled { Route::NoMethod } else { Route::Off };
        }
        let namespace = match self.namespace_boundary.as_str() {
            "" => "",
            boundary => method.split_once(boundary).map_or("", |(namespace, _)| namespace),
        };
        let options = match namespace {
            "" => Some(&self.without_namespace),
            name => self.namespaces.iter().find(|one| one.name == name).map(|one| &one.options),
        };
        match options {
            None => Route::NoMethod,
            Some(options) if !options.proxy_enabled => Route::Off,
            Some(options) => Route::Proxy(proxy_name(&options.proxy_name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_has_its_way() {
        let mut rpc = RpcPlan::default();
        assert_eq!(rpc.route("any"), Route::Off);
        assert_eq!(rpc.route("ns:any"), Route::Off);
        rpc.ping.enabled = true;
        assert_eq!((rpc.route("ping"), rpc.route("any")), (Route::Ping, Route::NoMethod));
        let named = |name: &str, on| RpcNamespace {
            name: name.to_owned(),
            options: RpcOptions { proxy_enabled: on, proxy_name: "own".to_owned() },
        };
        rpc.namespaces = vec![named("on", true), named("off", false)];
        for (method, route) in [
            ("ping", Route::Ping),
            ("on:ping", Route::Proxy("own")),
            ("on:a:b", Route::Proxy("own")),
            ("off:a", Route::Off),
            ("other:a", Route::NoMethod),
            ("a", Route::Off),
            (":a", Route::Off),
            ("", Route::Off),
        ] {
            assert_eq!(rpc.route(method), route, "{method}");
        }
        rpc.without_namespace.proxy_enabled = true;
        assert_eq!(rpc.route("a"), Route::Proxy("default"));
        rpc.namespace_boundary.clear();
        assert_eq!(rpc.route("other:a"), Route::Proxy("default"));
        rpc.namespace_boundary = ".".to_owned();
        assert_eq!(rpc.route("on.a"), Route::Proxy("own"));
    }
}
