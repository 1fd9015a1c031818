//! What clients say, and how: those that are no plain WebSocket say something with their request,
//! and posts carry the commands of streams, in any order, late, and to streams that are gone.

use ringhold::testing::Client;
use serde_json::{Value, json};

use super::binary;
use super::conn::{Cmd, Way, What};
use super::run::Run;
use super::truth::Fate;

/// A post without an answer, and whose it is, with the numbers of its commands.
pub struct Post {
    client: Client,
    place: usize,
    ids: Vec<u64>,
    text: String,
}

/// A request of a client of that kind, with lines for its head.
fn request(way: Way, path: &str, more: &str, body: &[u8]) -> Vec<u8> {
    let kind = if way.is_binary() { "octet-stream" } else { "json" };
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: h\r\nContent-Type: application/{kind}\r\n{more}\
         Content-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

impl Run {
    pub fn draw_way(&mut self) -> Way {
        if self.rng.one_in(6) {
            self.met("opened: Protobuf");
            return Way::Binary;
        }
        if !self.rng.one_in(3) {
            return Way::Socket;
        }
        // Whoever has been somewhere mostly comes back.
        let back = !self.ids.is_empty() && self.rng.one_in(2);
        let (way, what) = match if back { 9 } else { self.rng.below(12) } {
            0..3 => (Way::Sse, "opened: events"),
            3..5 => (Way::Lines, "opened: lines"),
            5..8 => (Way::Messages, "opened: messages of Protobuf"),
            8 => (Way::UniSocket, "opened: one-way WebSocket"),
            9..11 => (Way::UniSse, "opened: one-way events"),
            _ => (Way::UniLines, "opened: one-way lines"),
        };
        self.met(what);
        way
    }

    /// A client that says with its request who it is, and perhaps more.
    pub fn open_saying(&mut self, place: usize, way: Way) {
        let mut connect = self.draw_connect();
        let id = if way.is_socket() { None } else { self.draw_id(way, &mut connect) };
        let what = What::Connect(Box::new(connect));
        let (number, mut command) = self.enter(place, what);
        let mut lines = Vec::new();
        if way.is_uni() {
            lines.push(command["connect"].to_string());
        } else {
            command["id"] = json!(number);
            lines.push(command.to_string());
            if self.rng.one_in(3) {
                lines.extend(self.draw_lines(place, 2).1);
            }
        }
        let text = lines.join("\n");
        self.note(|| format!("{place} says {text}"));
        if way == Way::UniSocket {
            return self.conns[place].client.text(&text);
        }
        let mut more = String::new();
        if let Some(id) = id {
            self.note(|| format!("{place} brings back {id}"));
            more = format!("Last-Event-ID: {id}\r\n");
        }
        let body = if way.is_binary() { binary::encode(&text) } else { text.into_bytes() };
        self.conns[place].client.bytes(&request(way, way.path(), &more, &body));
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
        let body = if conn.way.is_binary() {
            let of = |name: &Value| name.as_str().expect("a name").to_owned();
            binary::post(&of(&conn.session), &of(&conn.node), text)
        } else {
            let body = json!({"session": conn.session, "node": conn.node, "data": text});
            body.to_string().into_bytes()
        };
        let request = request(conn.way, "/emulation", "", &body);
        let core = self.core();
        let client = self.site.knock(core);
        client.bytes(&request);
        self.note(|| format!("{place} posts {ids:?} on core {core}"));
        self.posts.push(Post { client, place, ids: ids.to_vec(), text: text.to_owned() });
        self.met("posted");
    }

    /// Posts that were on their way arrive, in any order; whether some do now.
    pub fn deliver(&mut self) -> bool {
        let before = self.mail.len();
        while !self.mail.is_empty() && self.rng.one_in(3) {
            let index = self.rng.below(self.mail.len() as u32) as usize;
            let (place, ids, text) = self.mail.swap_remove(index);
            if self.rng.one_in(12) {
                self.note(|| format!("the post of {ids:?} by {place} is lost"));
                self.give_up(place, &ids);
                self.met("post lost");
                continue;
            }
            self.post(place, &ids, &text);
            self.met("posted late");
        }
        self.mail.len() < before
    }

    /// What posts are answered.
    pub fn hear_posts(&mut self) {
        for post in std::mem::take(&mut self.posts) {
            match post.client.answer() {
                Some(answer) => {
                    post.client.leave();
                    // There was no room for it on the core of its stream.
                    let refused = answer.status == 503 && self.plan.lossy;
                    assert!(answer.status == 204 || refused || self.drained, "{answer:?}");
                    if refused {
                        self.refused(post);
                    }
                }
                None => self.posts.push(post),
            }
        }
    }

    /// The server has refused a post: its client tries again, or gives up.
    fn refused(&mut self, post: Post) {
        let Post { place, ids, text, .. } = post;
        self.note(|| format!("the post of {ids:?} by {place} was refused"));
        self.met("post refused");
        let conn = &mut self.conns[place];
        let over = conn.is_closed();
        if ids.is_empty() {
            // The answer to a ping.
            conn.unheard = true;
            if !over {
                self.post(place, &ids, &text);
            }
            return;
        }
        if !over && self.rng.one_in(2) {
            return self.mail.push((place, ids, text));
        }
        self.give_up(place, &ids);
        self.met("post given up");
    }

    /// Nothing comes of these commands.
    fn give_up(&mut self, place: usize, ids: &[u64]) {
        let step = self.step;
        for cmd in self.conns[place].cmds.extract_if(.., |cmd| ids.contains(&cmd.id)) {
            if let What::Publish(n) = cmd.what {
                (self.pubs[n].fate, self.pubs[n].done) = (Fate::Not, Some(step));
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
