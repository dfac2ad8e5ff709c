//! The threads that serve callers: one for each core, each with a runtime and a listener of its own.
//!
//! All listeners share one port (`SO_REUSEPORT`); the kernel spreads connections over them, and a
//! connection stays with its thread for good. So its tasks run in the order in which they became
//! ready, without a lock or a wake-up of another thread, and the answers of one turn gather
//! (`gather.rs`); on tokio's multi-thread runtime two calls in three leave as writes of their own.
//! The price: one connection is served by one core, and few connections may share a core by chance.
//!
//! What takes long is elsewhere: flights, changes and the store are tasks of the main runtime, which
//! calls wait for here.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net::UnixStream,
    },
    path::Path,
    sync::Arc,
    thread,
};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::{
    net::{TcpListener, UnixListener},
    runtime,
    sync::{mpsc, oneshot},
    task::spawn_blocking,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{connection::Door, listener::Acceptor, socket::Listener, surface::Surface};
use crate::config::ListenAddress;

/// Connections that the kernel accepts before we do, for each listener.
const BACKLOG: i32 = 1024;
/// Who may open a unix socket: the broker's user and group.
const SOCKET_MODE: u32 = 0o660;

/// Threads that serve.
#[derive(Debug)]
pub struct Cores {
    /// Says for each thread that it has ended, and closes when all have.
    ended: mpsc::Receiver<()>,
    threads: Vec<thread::JoinHandle<()>>,
}

/// Listeners of one address.
#[derive(Debug)]
pub struct Listeners {
    /// The address that all of them share.
    pub address: ListenAddress,
    /// Threads that are to serve them.
    threads: usize,
    listeners: Vec<Bound>,
}

/// A listener of no runtime yet.
#[derive(Debug)]
enum Bound {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

/// What every thread serves.
#[derive(Clone, Debug)]
pub struct Serving {
    /// Lets connections in.
    pub acceptor: Arc<Acceptor>,
    /// Answers their calls.
    pub door: Door,
    /// What of them.
    pub surface: Surface,
    /// Stops accepting, and lets calls finish.
    pub stop: CancellationToken,
    /// Ends what has not finished.
    pub end: CancellationToken,
}

impl Listeners {
    /// Binds an address as often as there are threads, and once if there are none.
    ///
    /// # Errors
    /// Those of the system, with the address; also if somebody else listens there, which a shared
    /// port would otherwise hide.
    pub fn bind(address: &ListenAddress, threads: usize) -> io::Result<Self> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{address}: {error}"));
        let (address, listeners) = match address {
            ListenAddress::Tcp(address) => bind_tcp(*address, threads).map_err(named)?,
            ListenAddress::Unix(path) => bind_unix(path, threads).map_err(named)?,
        };
        Ok(Self {
            address,
            threads,
            listeners,
        })
    }
}

fn bind_tcp(address: SocketAddr, threads: usize) -> io::Result<(ListenAddress, Vec<Bound>)> {
    if address.port() != 0 {
        // Fails where a broker with shared listeners runs already; gone before ours are bound.
        socket(address, Port::Own)?;
    }
    let first = listen(address, Port::Shared)?;
    let address = first.local_addr()?;
    let mut listeners = vec![Bound::Tcp(first)];
    for _ in 1..threads {
        listeners.push(Bound::Tcp(listen(address, Port::Shared)?));
    }
    Ok((address.into(), listeners))
}

/// All threads wait at one socket: its file is the address, and there is one of it. The file stays when
/// the broker ends, as after a kill, and is replaced at the next start.
fn bind_unix(path: &Path, threads: usize) -> io::Result<(ListenAddress, Vec<Bound>)> {
    let left_over = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if left_over {
        if UnixStream::connect(path).is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        fs::remove_file(path)?;
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    // Who connects is asked for its user; the group is let that far, since a proxy is another user.
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
    socket.listen(BACKLOG)?;
    let first = std::os::unix::net::UnixListener::from(socket);
    let mut listeners = Vec::new();
    for _ in 1..threads {
        listeners.push(Bound::Unix(first.try_clone()?));
    }
    listeners.push(Bound::Unix(first));
    Ok((ListenAddress::Unix(path.to_owned()), listeners))
}

impl Bound {
    /// For the runtime that runs here.
    fn into_listener(self) -> io::Result<Listener> {
        Ok(match self {
            Self::Tcp(listener) => Listener::Tcp(TcpListener::from_std(listener)?),
            Self::Unix(listener) => Listener::Unix(UnixListener::from_std(listener)?),
        })
    }
}

impl Cores {
    /// Starts the threads, or one task of `tasks` for listeners that are to have no threads. They serve
    /// when this returns.
    ///
    /// # Errors
    /// If the system gives no threads, or no runtime on them. Those that run end with `serving.end`.
    pub async fn start(all: Vec<(Listeners, Serving)>, tasks: &TaskTracker) -> io::Result<Self> {
        let all: Vec<_> = all
            .into_iter()
            .flat_map(|(listeners, serving)| {
                let own_threads = listeners.threads > 0;
                let each = listeners.listeners.into_iter();
                each.map(move |listener| (listener, own_threads, serving.clone()))
            })
            .collect();
        let (ending, ended) = mpsc::channel(all.len());
        let mut threads = Vec::new();
        for (number, (listener, own_threads, serving)) in all.into_iter().enumerate() {
            let ending = Ending(ending.clone());
            if !own_threads {
                let listener = listener.into_listener()?;
                tasks.spawn(async move {
                    let _ending = ending;
                    serve(listener, serving).await;
                });
                continue;
            }
            let (ready, started) = oneshot::channel();
            let thread = thread::Builder::new().name(format!("calls-{number}"));
            threads.push(thread.spawn(move || {
                let _ending = ending;
                run(listener, serving, ready);
            })?);
            started.await.map_err(io::Error::other)??;
        }
        Ok(Self { ended, threads })
    }

    /// Waits until a thread ends.
    pub async fn one_ended(&mut self) {
        self.ended.recv().await;
    }

    /// Waits until all threads have ended.
    pub async fn all_ended(&mut self) {
        while self.ended.recv().await.is_some() {}
    }

    /// Waits for the threads to be gone, after [`Serving::end`]: what they hold is free then.
    ///
    /// # Errors
    /// If one of them had panicked.
    pub async fn join(self) -> io::Result<()> {
        let joining = spawn_blocking(|| {
            self.threads
                .into_iter()
                .try_for_each(thread::JoinHandle::join)
        });
        let joined = joining.await.map_err(io::Error::other)?;
        joined.map_err(|_| io::Error::other("a thread that served calls has panicked"))
    }
}

/// Tells that the thread has ended, however it did.
struct Ending(mpsc::Sender<()>);

impl Drop for Ending {
    fn drop(&mut self) {
        // There is room for one of each thread. Nobody listens if the broker was dropped.
        let _ = self.0.try_send(());
    }
}

fn run(listener: Bound, serving: Serving, ready: oneshot::Sender<io::Result<()>>) {
    let started = runtime::Builder::new_current_thread()
        // Before it sleeps, a thread gives its core to whoever waits for it: a proxy beside us, or a
        // client. What they send meanwhile is answered in one turn, without a sleep and a wake-up each;
        // a quarter of the CPU of a call with 64 busy connections. Where nobody waits it costs nothing.
        .on_thread_park(thread::yield_now)
        .enable_all()
        .build()
        .and_then(|runtime| {
            let _inside = runtime.enter();
            let listener = listener.into_listener()?;
            Ok((runtime, listener))
        });
    let (runtime, listener) = match started {
        Ok(started) => started,
        Err(error) => {
            let _ = ready.send(Err(error));
            return;
        }
    };
    let _ = ready.send(Ok(()));
    // What has not finished by the end is dropped with the runtime.
    runtime.block_on(serve(listener, serving));
}

async fn serve(listener: Listener, serving: Serving) {
    let Serving {
        acceptor,
        door,
        surface,
        stop,
        end,
    } = serving;
    let connections = TaskTracker::new();
    let (stopping, ending) = (stop.clone(), end.clone());
    let accepting = acceptor.accept_all(listener, &connections, move |connection| {
        let (door, stop, end) = (door.clone(), stopping.clone(), ending.clone());
        async move {
            end.run_until_cancelled(door.serve(connection, surface, &stop))
                .await;
        }
    });
    stop.run_until_cancelled(accepting).await;
    connections.close();
    end.run_until_cancelled(connections.wait()).await;
}

/// Whether others may listen on the same port.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Port {
    Own,
    Shared,
}

fn socket(address: SocketAddr, port: Port) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    // Connections of an earlier process may linger.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(port == Port::Shared)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn listen(address: SocketAddr, port: Port) -> io::Result<std::net::TcpListener> {
    let socket = socket(address, port)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests;
