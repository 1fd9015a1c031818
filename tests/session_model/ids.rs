//! The `id:` of one-way event streams: what it says must be what its client has got, and whoever
//! brings one back goes on there. Written from the documents, not from the gateway's code.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use sha1::{Digest, Sha1};

use super::conn::{Connect, Places, Way};
use super::run::Run;

/// The entry's name of a channel.
fn name_of(channel: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha1::digest(channel.as_bytes()))[..8].to_owned()
}

/// The name, the epoch and the offset of an entry.
fn parse(entry: &str) -> (&str, &str, u64) {
    let (name, rest) = entry.split_at(8);
    let (epoch, offset) = rest.rsplit_once('.').expect("an epoch and an offset");
    (name, epoch, offset.parse().expect("an offset"))
}

impl Run {
    /// An event came with this id, or with none, after which its client is where it says.
    pub fn brought(&mut self, place: usize, id: Option<String>, value: &Value) {
        let conn = &self.conns[place];
        let places: Vec<_> = conn.subs.iter().filter(|(_, sub)| sub.mode.recoverable).collect();
        let publication = || {
            let channel = value["channel"].as_str().unwrap_or("");
            let (_, sub) = places.iter().find(|(name, _)| *name == channel)?;
            let moves = value["pub"]["offset"].as_u64().unwrap_or(0) > 0;
            // Nobody knows whether the first was behind the beginning, where the id was, too.
            let open = sub.behind && sub.seen.len() == 1;
            (moves && !open).then_some(true).or_else(|| (!moves).then_some(false))
        };
        let must = match () {
            () if conn.way != Way::UniSse || conn.is_closed() => Some(false),
            () if value.get("connect").is_some() => Some(!places.is_empty()),
            () if value.get("pub").is_none() => Some(false),
            () if places.iter().any(|(name, _)| value["channel"] == **name) => publication(),
            () => Some(false),
        };
        assert!(must.is_none_or(|must| must == id.is_some()), "{id:?} of {value}: {conn}");
        let Some(id) = id else { return };
        let mut entries: Vec<_> = id.split(',').map(parse).collect();
        let mut known = Places::new();
        for (channel, sub) in places {
            let name = name_of(channel);
            let at = entries.iter().position(|entry| entry.0 == name);
            let at = at.unwrap_or_else(|| panic!("{id} says nothing of {channel}"));
            let (_, epoch, offset) = entries.swap_remove(at);
            let right = sub.next.is_none_or(|next| next == offset + 1);
            assert!(epoch == sub.epoch && right, "{id}: {channel} is at {offset}, not {sub:?}");
            known.insert(channel.clone(), (offset, epoch.to_owned()));
        }
        assert!(entries.is_empty(), "{id}: of channels that {place} is not in: {entries:?}");
        self.ids.push((id, known));
        self.met("id compared");
    }

    /// An id that a client brings back, if any: one that was told, by way of one that has none or
    /// not as it was.
    pub fn draw_id(&mut self, way: Way, connect: &mut Connect) -> Option<String> {
        if way == Way::UniSse && self.rng.one_in(2) {
            let recoverable =
                |name: &&String| self.plan.space(name).is_some_and(|space| space.force_recovery);
            let channels: Vec<_> = self.channels.iter().filter(recoverable).cloned().collect();
            if !channels.is_empty() {
                connect.granted.insert(self.pick(&channels));
            }
        }
        if self.ids.is_empty() || way != Way::UniSse && !self.rng.one_in(9) {
            return None;
        }
        let newest = self.ids.len() - self.ids.len().min(12);
        let ids = self.ids[newest..].to_vec();
        let (mut id, mut places) = self.pick(&ids);
        let entry = self.pick(&id.split(',').map(str::to_owned).collect::<Vec<_>>());
        let (name, epoch, offset) = parse(&entry);
        let channel = places.keys().find(|it| name_of(it) == name).expect("it is known").clone();
        let mut change = |to: String, at: Option<(u64, String)>| {
            id = id.replace(&entry, &to);
            match at {
                Some(at) => places.insert(channel.clone(), at),
                None => places.remove(&channel),
            };
        };
        match self.rng.below(12) {
            0 => {
                let offset = offset + 3;
                change(format!("{name}{epoch}.{offset}"), Some((offset, epoch.to_owned())));
            }
            1 => change(format!("{name}elsewhen.{offset}"), Some((offset, "elsewhen".to_owned()))),
            2 => change(format!("{name}{epoch}.-1"), None),
            3 => change(format!("{name}{epoch}"), None),
            4 => change(String::new(), None),
            _ => {}
        }
        if way == Way::UniSse {
            // It mostly comes back to where it was.
            for channel in places.keys() {
                if self.rng.one_in(2) {
                    connect.granted.insert(channel.clone());
                }
            }
            connect.resumed = places;
            self.met("brought back");
        } else {
            self.met("brought back in vain");
        }
        Some(id)
    }
}
