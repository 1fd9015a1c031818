//! One partition of an outbox: who holds its lock deals with its rows in the order of their ids,
//! and deletes them.
//!
//! Owns what is remembered of a row that failed. The invariants: a row that fails for another
//! reason than itself stays the first; one that is to blame is put off, and stays in the table; no
//! transaction outlives the round that began it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row as Line};

use super::link::{Gone, Pool, answered};
use crate::control::backend::Backend;
use crate::control::consumers::OUTBOX_BYTES;
use crate::control::consumers::doing::{Doer, Fate, Patience, Rest, pause};
use crate::control::consumers::message::{self, PassedOver};
use crate::gateway::api::ApiRequest;

/// What is asked of a table.
pub(super) struct Queries {
    /// Whether a partition (`$1`) has rows, but for some (`$2`).
    any: String,
    /// The lock of a name, until the end of the transaction.
    lock: &'static str,
    /// How payloads become bytes.
    of_bytes: &'static str,
    /// The first rows.
    read_bytes: String,
    read_text: String,
    /// Rows are dealt with.
    delete: String,
    /// As SQL has it.
    table: String,
}

impl Queries {
    pub(super) fn new(table: &str) -> Self {
        // Where memory would not hold it all, fewer rows are read; a payload that is too long is
        // known by its size.
        let read = |body: &str| {
            format!(
                "SELECT id, method, size, body FROM (\
                   SELECT id, method, size, CASE WHEN size <= $4 THEN body END AS body, \
                     sum(CASE WHEN size <= $4 THEN size END) OVER (ORDER BY id) AS total FROM (\
                     SELECT id, method, body, octet_length(body)::int8 AS size FROM (\
                       SELECT o.id::int8 AS id, left(o.method::text, 64) AS method, {body} AS body \
                       FROM {table} AS o WHERE o.partition = $1 AND o.id <> ALL($3) \
                       ORDER BY o.id LIMIT $2\
                     ) AS raw\
                   ) AS sized\
                 ) AS summed WHERE total IS NULL OR total <= $4 ORDER BY id"
            )
        };
        Self {
            any: format!(
                "SELECT 1::int8 FROM {table} AS o \
                 WHERE o.partition = $1 AND o.id <> ALL($2) LIMIT 1"
            ),
            lock: "SELECT pg_try_advisory_xact_lock(hashtext($1))",
            of_bytes: "SELECT coalesce(nullif(t.typbasetype, 0), t.oid) = 'bytea'::regtype \
                       FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid \
                       WHERE a.attrelid = $1::text::regclass AND a.attname = 'payload'",
            read_bytes: read("o.payload"),
            read_text: read("convert_to(o.payload::text, 'UTF8')"),
            delete: format!("DELETE FROM {table} WHERE id = ANY($1)"),
            table: table.to_owned(),
        }
    }
}

/// See the module's text.
pub(super) struct Partition {
    number: u32,
    /// Read at once, at most.
    rows: u32,
    /// How often is looked for new ones.
    every: Duration,
    queries: Arc<Queries>,
    /// The row that fails, what is left to be done of it, and for how long already.
    first: Option<(i64, Option<Box<ApiRequest>>, Patience)>,
    /// Rows that are to blame for their failures, and when each is tried again.
    put_off: BTreeMap<i64, Instant>,
    /// Whether payloads are bytes, once it is known.
    bytes: Option<bool>,
}

/// A row.
struct Row {
    id: i64,
    request: Result<Box<ApiRequest>, PassedOver>,
}

/// What comes after a round.
enum Next {
    /// Another one: there may be more.
    Round,
    /// News, or some time.
    News,
    /// So much time.
    Pause(Duration),
}

impl Partition {
    pub(super) fn new(number: u32, rows: u32, every: Duration, queries: Arc<Queries>) -> Self {
        let put_off = BTreeMap::new();
        Self { number, rows, every, queries, first: None, put_off, bytes: None }
    }

    /// Deals with its rows until the server goes away.
    pub(super) async fn run<B: Backend>(
        mut self,
        pool: Arc<Pool>,
        wakes: Arc<[Notify]>,
        doer: Arc<Doer<B>>,
        consumer: Arc<str>,
    ) {
        let lock = format!("{LOCK}{consumer}{}", self.number);
        let place = format!("partition {}", self.number);
        let mut failures = 0;
        while !doer.draining() {
            let next = match pool.take().await {
                Ok(taken) => {
                    let next = self.round(&taken.client, &lock, &place, &doer).await;
                    // On one with an error something may be under way.
                    if next.is_ok() {
                        taken.give_back();
                    }
                    next
                }
                Err(gone) => Err(gone),
            };
            let next = match next {
                Ok(next) => {
                    failures = 0;
                    next
                }
                Err(gone) => {
                    doer.gone(&place, gone.name(), &gone);
                    // What was found out may hold no more.
                    self.bytes = None;
                    failures = u32::saturating_add(failures, 1);
                    Next::Pause(pause(failures))
                }
            };
            match next {
                Next::Round => {}
                Next::Pause(time) => tokio::time::sleep(time).await,
                Next::News => {
                    let news = wakes[self.number as usize].notified();
                    let _either = tokio::time::timeout(self.every, news).await;
                }
            }
        }
    }

    /// Deals with the first rows, if there are any and no other node does.
    async fn round<B: Backend>(
        &mut self,
        client: &Client,
        lock: &str,
        place: &str,
        doer: &Doer<B>,
    ) -> Result<Next, Gone> {
        let bytes = match self.bytes {
            Some(bytes) => bytes,
            None => self.learn(client).await?,
        };
        let now = Instant::now();
        // Those whose time has come are suspected still.
        let off: Vec<i64> =
            self.put_off.iter().filter(|(_, due)| **due > now).map(|(id, _)| *id).collect();
        let number = i64::from(self.number);
        let any = [int(&number), ints(&off)];
        if answered(client.query_typed(&self.queries.any, &any)).await?.is_empty() {
            return Ok(Next::News);
        }
        answered(client.batch_execute("BEGIN")).await?;
        let lock = [text(&lock)];
        let locked = answered(client.query_typed_one(self.queries.lock, &lock)).await?;
        if !locked.try_get::<_, bool>(0)? {
            // Another node has it, and finds what is there.
            answered(client.batch_execute("ROLLBACK")).await?;
            return Ok(Next::News);
        }
        let read = if bytes { &self.queries.read_bytes } else { &self.queries.read_text };
        // Two at least: the second shows whether the first is to blame.
        let limit = i64::from(self.rows.max(2));
        let parameters = [int(&number), int(&limit), ints(&off), int(&BYTES_MAX)];
        let lines = answered(client.query_typed(read, &parameters)).await?;
        let rows: Vec<Row> = lines.iter().map(row).collect::<Result<_, _>>()?;
        drop(lines);
        let full = !rows.is_empty();
        let mut done = Vec::new();
        let waits = self.deal(rows, &mut done, place, doer).await;
        if !done.is_empty() {
            answered(client.execute_typed(&self.queries.delete, &[ints(&done)])).await?;
        }
        answered(client.batch_execute("COMMIT")).await?;
        Ok(match waits {
            Some(time) => Next::Pause(time),
            None if full => Next::Round,
            None => Next::News,
        })
    }

    /// Finds out how payloads are kept, and that rows can be deleted: else each would be dealt with
    /// for ever.
    async fn learn(&mut self, client: &Client) -> Result<bool, Gone> {
        let none: Vec<i64> = Vec::new();
        answered(client.execute_typed(&self.queries.delete, &[ints(&none)])).await?;
        let table = self.queries.table.as_str();
        let table = [text(&table)];
        let bytes = answered(client.query_typed_opt(self.queries.of_bytes, &table)).await?;
        let bytes =
            bytes.ok_or_else(|| Gone::Said("the table has no column payload".to_owned()))?;
        let bytes = bytes.try_get(0)?;
        self.bytes = Some(bytes);
        Ok(bytes)
    }

    /// Deals with rows until one has to wait. Those that were dealt with are `done`.
    async fn deal<B: Backend>(
        &mut self,
        rows: Vec<Row>,
        done: &mut Vec<i64>,
        place: &str,
        doer: &Doer<B>,
    ) -> Option<Duration> {
        // A row that is given up if the next one comes through.
        let mut suspect: Option<(i64, Duration)> = None;
        for Row { id, request } in rows {
            if doer.draining() {
                break;
            }
            let request = match &mut self.first {
                Some((first, rest, _)) if *first == id => rest.take().map_or(request, Ok),
                _ => request,
            };
            match doer.attempt(request).await {
                Fate::Done => {
                    doer.done();
                    done.push(id);
                    self.put_off.remove(&id);
                    if let Some((suspect, _)) = suspect.take() {
                        doer.put_off(place, &suspect.to_string());
                        self.put_off.insert(suspect, Instant::now() + PUT_OFF);
                        self.first = None;
                    }
                }
                Fate::PassedOver(why) => {
                    doer.passed_over(place, &id.to_string(), why.name());
                    done.push(id);
                    self.put_off.remove(&id);
                }
                // Those in front were not to blame.
                Fate::Again(_) if suspect.is_some() => break,
                Fate::Again(Rest { request, doubtful }) => {
                    let known = self.first.take().filter(|(first, ..)| *first == id);
                    let known = known.map(|(.., patience)| patience);
                    let mut patience =
                        known.unwrap_or_else(|| match self.put_off.contains_key(&id) {
                            true => Patience::spent(),
                            false => Patience::default(),
                        });
                    let text = id.to_string();
                    let suspected = patience.fails(doer, (place, &text), doubtful).await;
                    let time = patience.pause();
                    self.first = Some((id, Some(request), patience));
                    let room = self.put_off.len() < PUT_OFF_MAX || self.put_off.contains_key(&id);
                    if !suspected || !room {
                        return Some(time);
                    }
                    suspect = Some((id, time));
                }
            }
        }
        suspect.map(|(_, time)| time)
    }
}

type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

fn int(value: &i64) -> Parameter<'_> {
    (value, Type::INT8)
}

fn ints(values: &Vec<i64>) -> Parameter<'_> {
    (values, Type::INT8_ARRAY)
}

fn text<'a>(value: &'a &'a str) -> Parameter<'a> {
    (value, Type::TEXT)
}

fn row(line: &Line) -> Result<Row, Gone> {
    let (id, method, size): (_, Option<&str>, Option<i64>) =
        (line.try_get(0)?, line.try_get(1)?, line.try_get(2)?);
    let body: Option<&[u8]> = line.try_get(3)?;
    let request = match (body, size) {
        (Some(body), _) => message::request(method.unwrap_or_default(), body).map(Box::new),
        (None, Some(_)) => Err(PassedOver::TooLarge),
        (None, None) => Err(PassedOver::Empty),
    };
    Ok(Row { id, request })
}

/// Begins the name of a partition's lock: Centrifugo's.
const LOCK: &str = "centrifugo_partition_lock_";

/// Bytes of a payload, and of those that are read at once.
const BYTES_MAX: i64 = OUTBOX_BYTES as i64;

/// How long a row that is to blame for its failures is left alone, and how many there may be of a
/// partition; one more holds up those behind it.
const PUT_OFF: Duration = Duration::from_secs(60);
const PUT_OFF_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::control::consumers::fake::Fake;

    fn partition() -> Partition {
        Partition::new(0, 10, Duration::from_secs(1), Arc::new(Queries::new("outbox")))
    }

    /// A row that publishes to these channels.
    fn row(id: i64, channels: &[&str]) -> Row {
        let payload = serde_json::json!({"channels": channels, "data": 1}).to_string();
        let request = message::request("broadcast", payload.as_bytes());
        Row { id, request: request.map(Box::new) }
    }

    /// Deals with rows once. Those that are gone then, and whether it waits.
    async fn deal(
        partition: &mut Partition,
        doer: &Doer<Fake>,
        rows: Vec<Row>,
    ) -> (Vec<i64>, bool) {
        let mut done = Vec::new();
        let waits = partition.deal(rows, &mut done, "partition 0", doer).await;
        (done, waits.is_some())
    }

    #[tokio::test]
    async fn a_row_that_fails_holds_up_those_behind_it_and_is_done_once() {
        let (fake, doer) = Fake::with_doer();
        let mut partition = partition();
        let rows = || vec![row(1, &["a"]), row(2, &["b", "full", "c"]), row(3, &["d"])];
        assert_eq!(deal(&mut partition, &doer, rows()).await, (vec![1], true));
        assert_eq!(fake.take(), ["a", "b", "c"]);
        // Only what failed is tried again.
        for _ in 0..100 {
            let (done, waits) = deal(&mut partition, &doer, rows().split_off(1)).await;
            assert!(done.is_empty() && waits);
        }
        assert!(fake.take().is_empty());
        fake.mended.store(true, Ordering::Relaxed);
        assert_eq!(deal(&mut partition, &doer, rows().split_off(1)).await, (vec![2, 3], false));
        assert_eq!(fake.take(), ["full", "d"]);
        assert!(partition.put_off.is_empty());
    }

    #[tokio::test]
    async fn a_row_that_is_to_blame_is_put_off_once_another_comes_through() {
        let (fake, doer) = Fake::with_doer();
        let mut partition = partition();
        let rows = || vec![row(1, &["bad"]), row(2, &["a"]), row(3, &["b"])];
        let mut tries = 0;
        let done = loop {
            tries += 1;
            let (done, waits) = deal(&mut partition, &doer, rows()).await;
            if !waits {
                break done;
            }
            assert!(tries < 100, "it is not put off");
        };
        assert!(tries > 10, "{tries}");
        assert_eq!((done, fake.take()), (vec![2, 3], vec!["a".to_owned(), "b".to_owned()]));
        assert!(partition.put_off.keys().eq([&1]));
        // Its time has come, and it fails again.
        let rows = || vec![row(1, &["bad"]), row(4, &["c"])];
        assert_eq!(deal(&mut partition, &doer, rows()).await, (vec![4], false));
        fake.mended.store(true, Ordering::Relaxed);
        assert_eq!(deal(&mut partition, &doer, rows()).await, (vec![1, 4], false));
        assert_eq!(fake.take(), ["c", "bad", "c"]);
    }

    #[tokio::test]
    async fn no_row_is_to_blame_where_none_comes_through() {
        let (fake, doer) = Fake::with_doer();
        let mut partition = partition();
        for _ in 0..100 {
            let rows = vec![row(1, &["bad"]), row(2, &["bad"]), row(3, &["a"])];
            assert_eq!(deal(&mut partition, &doer, rows).await, (vec![], true));
            // Alone, neither.
            assert_eq!(deal(&mut partition, &doer, vec![row(1, &["bad"])]).await, (vec![], true));
        }
        fake.away.store(true, Ordering::Relaxed);
        for _ in 0..100 {
            let rows = vec![row(1, &["b"]), row(2, &["a"])];
            assert_eq!(deal(&mut partition, &doer, rows).await, (vec![], true));
        }
        assert!(fake.take().is_empty() && partition.put_off.is_empty());
    }

    #[tokio::test]
    async fn there_is_room_for_so_many_that_are_to_blame() {
        let (_, doer) = Fake::with_doer();
        let mut partition = partition();
        let later = Instant::now() + PUT_OFF;
        partition.put_off = (0..PUT_OFF_MAX as i64).map(|id| (id, later)).collect();
        for _ in 0..100 {
            let rows = vec![row(100, &["bad"]), row(101, &["a"])];
            assert_eq!(deal(&mut partition, &doer, rows).await, (vec![], true));
        }
    }
}
