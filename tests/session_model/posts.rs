//! What clients say, and how: those that are no plain WebSocket say something with their request,
//! and posts carry the commands of streams, in any order, late, and to streams that are gone.

use serde_json::{Value, json};

use super::conn::{Cmd, Way, What};
use super::run::Run;
use super::truth::Fate;

impl Run {
    pub fn draw_way(&mut self) -> Way {
        if self.rng.one_in(6) {
            self.met("opened: Protobuf");
            return Way::Binary;
        }
        // Where a post is lost, nobody knows what was said.
        if self.plan.lossy || !self.rng.one_in(3) {
            return Way::Socket;
        }
        let (way, what) = match self.rng.below(8) {
            0..3 => (Way::Sse, "opened: events"),
            3..5 => (Way::Lines, "opened: lines"),
            5 => (Way::UniSocket, "opened: one-way WebSocket"),
            6 => (Way::UniSse, "opened: one-way events"),
            _ => (Way::UniLines, "opened: one-way lines"),
        };
        self.met(what);
        way
    }

    /// A client that says with its request who it is, and perhaps more.
    pub fn open_saying(&mut self, place: usize, way: Way) {
        let what = What::Connect(Box::new(self.draw_connect()));
        let (id, mut command) = self.enter(place, what);
        let mut lines = Vec::new();
        if way.is_uni() {
            lines.push(command["connect"].to_string());
        } else {
            command["id"] = json!(id);
            lines.push(command.to_string());
            if self.rng.one_in(3) {
                lines.extend(self.draw_lines(place, 2).1);
            }
        }
        let body = lines.join("\n");
        self.note(|| format!("{place} says {body}"));
        let client = &self.conns[place].client;
        if way == Way::UniSocket {
            return client.text(&body);
        }
        let (path, length) = (way.path(), body.len());
        let head = format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n");
        client.bytes(format!("{head}{body}").as_bytes());
    }

    /// So many commands at most, which are under way from now on.
    pub fn draw_lines(&mut self, place: usize, count: u32) -> (Vec<u64>, Vec<String>) {
        let (mut ids, mut lines) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let Some(what) = self.draw_command(place) else { break };
            let (id, mut command) = self.enter(place, what);
            if let Value::Object(it) = &mut command {
                it.insert("id".to_owned(), json!(id));
            }
            self.note(|| format!("{place} says {command}"));
            ids.push(id);
            lines.push(command.to_string());
        }
        (ids, lines)
    }

    /// Posts what a client of a stream says, by way of any core.
    pub fn post(&mut self, place: usize, ids: &[u64], text: &str) {
        let conn = &self.conns[place];
        if conn.is_closed() && conn.ended_at < self.rested {
            // Nobody is there to do it.
            let publishes = |cmd: &&Cmd| ids.contains(&cmd.id);
            for cmd in conn.cmds.iter().filter(publishes) {
                if let What::Publish(n) = cmd.what {
                    self.pubs[n].fate = Fate::Not;
                }
            }
            self.met("posted to the gone");
        }
        let conn = &self.conns[place];
        let body = json!({"session": conn.session, "node": conn.node, "data": text}).to_string();
        let core = self.core();
        let client = self.site.knock(core);
        let head = format!(
            "POST /emulation HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        client.bytes(format!("{head}{body}").as_bytes());
        self.note(|| format!("{place} posts {ids:?} on core {core}"));
        self.posts.push(client);
        self.met("posted");
    }

    /// Posts that were on their way arrive, in any order; whether some do now.
    pub fn deliver(&mut self) -> bool {
        let before = self.mail.len();
        while !self.mail.is_empty() && self.rng.one_in(3) {
            let index = self.rng.below(self.mail.len() as u32) as usize;
            let (place, ids, text) = self.mail.swap_remove(index);
            self.post(place, &ids, &text);
            self.met("posted late");
        }
        self.mail.len() < before
    }

    /// What posts are answered.
    pub fn hear_posts(&mut self) {
        for client in std::mem::take(&mut self.posts) {
            match client.answer() {
                Some(answer) => {
                    assert!(answer.status == 204 || self.drained, "{answer:?}");
                    client.leave();
                }
                None => self.posts.push(client),
            }
        }
    }

    /// What a client says by itself to what it is told: it is not lost.
    pub fn echo(&mut self, place: usize, text: &str) {
        match self.conns[place].way {
            way if way.is_plain() => self.conns[place].say(text),
            way if way.is_emulated() => self.post(place, &[], text),
            _ => {}
        }
    }
}
