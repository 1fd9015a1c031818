//! Channels over the end of a process: from what the one before has left, or hands over, to what
//! this one leaves, or hands over.
//!
//! Made in steps, like the control plane: [`Keeper::begin`] before there are cores,
//! [`Keeper::started`] or [`Keeper::undo`] when it is known whether they run, [`Keeper::serve`]
//! once they do, [`Keeper::drain`] when the server begins to go away, [`Keeper::finish`] after the
//! last core has ended. Whatever fails here costs what is kept, with one line in the log, and
//! nothing else.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::closing::{Closing, see_off};
use super::counts::Counts;
use super::state::{FileVault, Left, Mark, StateFile};
use super::takeover::elder::{Door, Elder, Line, Socket};
use super::takeover::{self, Follower, Found};
use crate::Handle;
use crate::broker::Queue;
use crate::gateway::app::Gateway;
use crate::gateway::broker::Broker;
use crate::gateway::farewell::{Farewell, Keeping};
use crate::gateway::placement::Placement;
use crate::gateway::state::{LeftOut, Vault};

/// See the module's text.
pub struct Keeper {
    /// The file, if there is one.
    place: Option<StateFile>,
    /// Set while this process is the one that writes there.
    mark: Mutex<Option<Mark>>,
    left: Option<Arc<Left>>,
    /// The socket, if there is one.
    path: Option<PathBuf>,
    door: Door,
    /// Who is taken over from, until it is followed.
    found: Mutex<Option<Found>>,
    /// The cores' way to it.
    queue: Option<Arc<Queue>>,
    /// Channels are this process's own.
    owns: AtomicBool,
    keeping: Keeping,
    /// Connections are cut after this time.
    deadline: Duration,
    room: u64,
    name: String,
    outlets: Mutex<Option<Arc<Destinations>>>,
    counts: Arc<Counts>,
}

/// Where what is kept goes: to an heir, and into a file in case that it fails.
#[derive(Debug)]
struct Destinations {
    room: AtomicU64,
    file: Option<Arc<FileVault>>,
    line: Option<Arc<Line>>,
}

impl Vault for Destinations {
    fn claim(&self, bytes: usize) -> bool {
        let less = |room: u64| room.checked_sub(bytes as u64);
        self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    fn put(&self, records: &[u8]) {
        if let Some(line) = &self.line {
            line.put(records);
        }
        if let Some(file) = &self.file {
            file.put(records);
        }
    }

    fn left_out(&self, out: LeftOut) {
        let LeftOut { channels, publications } = out;
        if let Some(file) = &self.file {
            file.left_out(out);
        } else if channels + publications > 0 {
            let most = "shutdown.state_max_size";
            tracing::warn!(channels, publications, most, "not all that a core has is kept");
        }
    }
}

/// What is kept over a restart, and where.
#[derive(Debug)]
pub struct KeepSettings {
    /// The file, if there is one.
    pub file: Option<StateFile>,
    /// The socket, if there is one.
    pub door: Option<PathBuf>,
    /// Connections are cut after this time.
    pub deadline: Duration,
    /// Bytes of the file at most.
    pub room: u64,
    /// By which a server knows its own.
    pub name: String,
}

impl Keeper {
    /// Looks for what there is, and marks the place where this process will leave something.
    /// `found`: who is taken over from.
    pub fn begin(
        settings: KeepSettings,
        cores: usize,
        found: Option<Found>,
        counts: Arc<Counts>,
    ) -> Self {
        let KeepSettings { file: place, door: path, deadline, room, name } = settings;
        let keeps = place.is_some() || path.is_some();
        let mut keeper = Self {
            place,
            mark: Mutex::new(None),
            left: None,
            path,
            door: Door::default(),
            queue: found.is_some().then(|| takeover::queue(cores)),
            owns: AtomicBool::new(found.is_none()),
            found: Mutex::new(found),
            keeping: Keeping {
                chest: None,
                restored: counts.state_restored.clone(),
                farewell: keeps.then(|| Farewell::new(cores)),
            },
            deadline,
            room,
            name,
            outlets: Mutex::new(None),
            counts,
        };
        if keeper.queue.is_none() {
            let left = keeper.look();
            // What was found must not be found once more, so without a mark it is not read.
            if keeper.put_mark() {
                keeper.left = left.map(Arc::new);
                keeper.keeping.chest = keeper.left.clone().map(|left| left as _);
            }
        }
        keeper
    }

    fn look(&self) -> Option<Left> {
        let place = self.place.as_ref()?;
        let path = place.path().display();
        match place.open() {
            Ok(Some(found)) => {
                self.counts.state_bytes.set(found.bytes());
                return Some(found);
            }
            Ok(None) => tracing::debug!(%path, "no channels are kept here"),
            Err(unusable) => {
                let reason = unusable.name();
                self.counts.state_ignored(reason);
                tracing::warn!(%path, reason, error = %unusable, "kept channels are not read");
            }
        }
        None
    }

    fn put_mark(&self) -> bool {
        let Some(place) = &self.place else { return false };
        match place.mark() {
            Ok(mark) => {
                *lock(&self.mark) = Some(mark);
                true
            }
            Err(error) => {
                let path = place.path().display();
                tracing::error!(%path, %error, "channels are not kept in a file");
                false
            }
        }
    }

    /// For the cores.
    pub fn keeping(&self) -> Keeping {
        self.keeping.clone()
    }

    /// The cores' way to the process that is taken over from, if there is one.
    pub fn queue(&self) -> Option<Arc<dyn Broker>> {
        self.queue.clone().map(|queue| queue as _)
    }

    /// The cores run, and have taken what there was.
    pub fn started(&self) {
        if let Some(mark) = &*lock(&self.mark) {
            mark.settle();
        }
        if let Some(left) = &self.left {
            left.close();
            let [channels, publications, keys] = self.keeping.restored.get();
            tracing::info!(channels, publications, keys, "channels go on where they were");
        }
    }

    /// The server does not start.
    pub fn undo(&self) {
        if let Some(mark) = &*lock(&self.mark) {
            mark.undo();
        }
    }

    /// Follows who is taken over from, and then waits to be taken over from. Within the control
    /// thread's runtime.
    pub fn serve(self: &Arc<Self>, placement: Placement, handle: Handle<Gateway>) {
        let keeper = self.clone();
        // Whoever follows is not to be followed yet.
        let early = lock(&self.found).is_none().then(|| self.bind());
        tokio::task::spawn_local(async move {
            keeper.follow(placement, &handle).await;
            if let Some(socket) = early.unwrap_or_else(|| keeper.bind()) {
                keeper.wait(socket, placement, handle).await;
            }
        });
    }

    async fn follow(&self, placement: Placement, handle: &Handle<Gateway>) {
        let (Some(found), Some(queue)) = (lock(&self.found).take(), self.queue.clone()) else {
            return;
        };
        tracing::info!("the process before is followed: it orders the channels until it ends");
        let (handle, counts) = (handle.clone(), self.counts.clone());
        let follower = Follower { queue, placement, handle, counts };
        follower
            .follow(found, || {
                if self.put_mark()
                    && let Some(mark) = &*lock(&self.mark)
                {
                    mark.settle();
                }
                self.owns.store(true, Ordering::Release);
            })
            .await;
    }

    /// Where heirs knock, if they may.
    fn bind(&self) -> Option<Socket> {
        let path = self.path.as_ref()?;
        let told = |error: &std::io::Error| {
            let path = path.display();
            tracing::error!(%path, %error, "nobody can take over from this process");
        };
        Socket::bind(path).inspect_err(told).ok()
    }

    async fn wait(&self, socket: Socket, placement: Placement, handle: Handle<Gateway>) {
        let (name, counts) = (self.name.clone(), self.counts.clone());
        let elder = Elder { name, placement, handle, door: self.door.clone(), counts };
        elder.serve(socket).await;
    }

    /// The server goes away. Within the control thread's runtime.
    pub fn drain(self: &Arc<Self>, closing: &Closing) {
        let Some(farewell) = &self.keeping.farewell else { return };
        // Channels that are another process's are its to keep.
        if !self.owns.load(Ordering::Acquire) {
            return;
        }
        farewell.begin(self.deadline);
        let (farewell, closing, keeper) = (farewell.clone(), closing.clone(), self.clone());
        tokio::spawn(async move {
            see_off(&farewell, &closing, &keeper.counts).await;
            farewell.release(keeper.open_outlets());
        });
    }

    fn open_outlets(&self) -> Arc<Destinations> {
        let vault = lock(&self.mark).as_ref().map(|mark| mark.vault());
        let file = vault.and_then(|vault| {
            vault
                .inspect_err(|error| tracing::error!(%error, "channels are not kept in a file"))
                .ok()
        });
        let room = AtomicU64::new(self.room);
        let outlets = Arc::new(Destinations { room, file, line: self.door.line() });
        *lock(&self.outlets) = Some(outlets.clone());
        outlets
    }

    /// The last core has ended.
    pub fn finish(&self) {
        let outlets = lock(&self.outlets).take();
        let Some(Destinations { file, line, .. }) = outlets.as_deref() else { return };
        if line.as_ref().is_some_and(|line| line.finish()) {
            tracing::info!("another process has taken over: channels go on there");
            file.iter().for_each(|file| file.remove());
            return;
        }
        if let (Some(mark), Some(file)) = (&*lock(&self.mark), file) {
            let farewell = self.keeping.farewell.as_ref();
            mark.finish(file, farewell.is_some_and(|farewell| farewell.is_whole()));
        }
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
