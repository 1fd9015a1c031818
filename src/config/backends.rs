//! All proxies of a configuration, wherever they stand, and which of them are asked.

use super::Options;
use super::Proxy;
use crate::gateway::hooks::proxy_name;

impl Options {
    /// All proxies there are, used or not.
    pub(crate) fn backends(&self) -> impl Iterator<Item = &Proxy> + Clone {
        let client = &self.client.proxy;
        let channel = &self.channel.proxy;
        let own = [
            &client.connect.proxy,
            &client.refresh.proxy,
            &channel.subscribe,
            &channel.publish,
            &channel.sub_refresh,
            &channel.subscribe_stream,
            &self.rpc.proxy,
        ];
        own.into_iter().chain(self.proxies.iter().map(|named| &named.proxy))
    }

    /// Whether something that is switched on asks the proxy of this name.
    pub(crate) fn uses(&self, name: &str) -> bool {
        let namespaces = self.channel.plan.namespaces.iter().map(|namespace| &namespace.options);
        let mut rules = namespaces.chain([&self.channel.plan.without_namespace]);
        let rpc = self.rpc.plan.namespaces.iter().map(|namespace| &namespace.options);
        let mut rpc = rpc.chain([&self.rpc.plan.without_namespace]);
        rules.any(|it| {
            it.subscribe_proxy_enabled && it.subscribe_proxy_name == name
                || it.publish_proxy_enabled && it.publish_proxy_name == name
                || it.sub_refresh_proxy_enabled && it.sub_refresh_proxy_name == name
        }) || self.streams(name)
            || rpc.any(|it| it.proxy_enabled && it.proxy_name == name)
    }

    /// Whether a namespace has its subscriptions fed by the proxy of this name.
    pub(crate) fn streams(&self, name: &str) -> bool {
        let namespaces = self.channel.plan.namespaces.iter().map(|namespace| &namespace.options);
        let mut rules = namespaces.chain([&self.channel.plan.without_namespace]);
        rules.any(|it| {
            let asked = proxy_name(&it.subscribe_stream_proxy_name);
            it.subscribe_stream_proxy_enabled && asked == name
        })
    }

    /// The same, to be changed, with their paths.
    pub(crate) fn backends_mut(&mut self) -> Vec<(String, &mut Proxy)> {
        let client = &mut self.client.proxy;
        let channel = &mut self.channel.proxy;
        let mut all = vec![
            ("client.proxy.connect".to_owned(), &mut client.connect.proxy),
            ("client.proxy.refresh".to_owned(), &mut client.refresh.proxy),
            ("channel.proxy.subscribe".to_owned(), &mut channel.subscribe),
            ("channel.proxy.publish".to_owned(), &mut channel.publish),
            ("channel.proxy.sub_refresh".to_owned(), &mut channel.sub_refresh),
            ("channel.proxy.subscribe_stream".to_owned(), &mut channel.subscribe_stream),
            ("rpc.proxy".to_owned(), &mut self.rpc.proxy),
        ];
        let named = self.proxies.iter_mut().enumerate();
        all.extend(named.map(|(n, named)| (format!("proxies[{n}]"), &mut named.proxy)));
        all
    }
}
