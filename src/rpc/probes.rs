//! The thread that answers probes and scrapes, with a runtime of its own: however busy those are that
//! serve callers, an orchestrator that asks is answered, and does not restart what is only busy.

use std::{future::Future, io, thread, time::Duration};

use tokio::{
    runtime::{self, Handle},
    sync::oneshot,
    task::spawn_blocking,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long an answer that has begun may take once the broker has ended.
const LAST_ANSWER: Duration = Duration::from_secs(1);

/// Where probes are answered.
#[derive(Debug)]
pub struct Probes {
    runtime: Handle,
    thread: Option<thread::JoinHandle<()>>,
    /// What answers them.
    pub tasks: TaskTracker,
}

impl Probes {
    /// Starts the thread, which ends with `end`; or none, and the runtime of the caller is used.
    ///
    /// # Errors
    /// If the system gives no thread, or no runtime on it.
    pub async fn start(own_thread: bool, end: &CancellationToken) -> io::Result<Self> {
        let tasks = TaskTracker::new();
        if !own_thread {
            let (runtime, thread) = (Handle::current(), None);
            return Ok(Self {
                runtime,
                thread,
                tasks,
            });
        }
        let (ready, started) = oneshot::channel();
        let (end, answers) = (end.clone(), tasks.clone());
        let thread = thread::Builder::new().name("probes".to_owned());
        let thread = thread.spawn(move || {
            let built = runtime::Builder::new_current_thread().enable_all().build();
            let runtime = match built {
                Ok(runtime) => runtime,
                Err(error) => return drop(ready.send(Err(error))),
            };
            // Whoever started it is there, or has been dropped, which ends it.
            let _ = ready.send(Ok(runtime.handle().clone()));
            runtime.block_on(async {
                end.cancelled().await;
                answers.close();
                let _ = timeout(LAST_ANSWER, answers.wait()).await;
            });
        })?;
        Ok(Self {
            runtime: started.await.map_err(io::Error::other)??,
            thread: Some(thread),
            tasks,
        })
    }

    /// Runs something there, and whatever it spawns.
    ///
    /// # Errors
    /// Its own, and if it panics or the thread has ended.
    pub async fn run<T: Send + 'static, E: From<io::Error> + Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Result<T, E> {
        let done = self.tasks.spawn_on(work, &self.runtime).await;
        done.map_err(io::Error::other)?
    }

    /// Waits for the end, which somebody else has asked for.
    pub async fn ended(self) {
        self.tasks.close();
        self.tasks.wait().await;
        if let Some(thread) = self.thread {
            // It has answered probes, and nothing else depends on it.
            let _ = spawn_blocking(|| thread.join()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpStream,
        sync::Arc,
    };

    use super::*;
    use crate::{
        metrics::Metrics,
        rpc::{bind, metrics_endpoint},
    };

    #[tokio::test]
    async fn they_are_answered_while_the_runtime_of_the_calls_is_blocked() {
        let end = CancellationToken::new();
        let probes = Probes::start(true, &end).await.expect("a thread");
        let (tasks, stop) = (probes.tasks.clone(), end.clone());
        let starting = async move {
            let listener = bind(([127, 0, 0, 1], 0).into()).await?;
            let address = listener.local_addr()?;
            metrics_endpoint::serve(listener, Arc::new(Metrics::new()), &tasks, stop);
            Ok::<_, io::Error>(address)
        };
        let address = probes.run(starting).await.expect("a port");
        // From here on this runtime does nothing else.
        let mut scraper = TcpStream::connect(address).expect("it listens");
        let patience = Some(Duration::from_secs(60));
        scraper
            .set_read_timeout(patience)
            .expect("an option of every socket");
        let request = b"GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        scraper.write_all(request).expect("it takes requests");
        let mut answer = String::new();
        scraper.read_to_string(&mut answer).expect("it answers");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        end.cancel();
        probes.ended().await;
        TcpStream::connect(address).expect_err("it has ended");
    }
}
