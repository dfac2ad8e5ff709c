//! `StoreService`: what operators do to the store as a whole.

use std::{num::NonZeroU32, pin::Pin, sync::Arc};

use tokio::{sync::mpsc, time::Instant};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status, async_trait};

use super::{
    admission::Admission,
    deny,
    listener::Peer,
    organization_message::kek_to_destroy,
    peer_of,
    records::{Asked, Records},
    status,
};
use crate::{
    audit::Outcome,
    authz::{Action, Caller, LivePolicy},
    metrics::Metrics,
    pb::admin::v1::{
        BackUpStoreRequest, BackUpStoreResponse, GetStoreStatusRequest, GetStoreStatusResponse,
        RewrapKeysRequest, RewrapKeysResponse, store_service_server,
    },
    vault::{self, Vault, backup::Backup, rewrap::Progress},
};

/// Messages that a slow reader may leave waiting; then a backup waits, too.
const WAITING_MAX: usize = 4;

/// What the record says of work whose caller has left before its end.
const ABANDONED: &str = "ABANDONED";

/// Looks after the store.
#[derive(Clone, Debug)]
pub struct StoreService {
    /// What callers may do.
    pub policy: Arc<LivePolicy>,
    /// What is in the store.
    pub vault: Arc<Vault>,
    /// Where calls are recorded.
    pub records: Arc<Records>,
    /// Where they are counted.
    pub metrics: Arc<Metrics>,
    /// Where long work runs.
    pub tasks: TaskTracker,
    /// Ends it.
    pub stop: CancellationToken,
}

/// Something that takes long and is on record as begun.
struct Begun {
    rpc: &'static str,
    peer: Peer,
    call: u64,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
/// How far re-wrapping has come.
pub(super) type RewrapStream = Answers<RewrapKeysResponse>;
/// The pieces of a backup.
pub(super) type BackupStream = Answers<BackUpStoreResponse>;
type Sender<T> = mpsc::Sender<Result<T, Status>>;

#[async_trait]
impl store_service_server::StoreService for StoreService {
    async fn get_store_status(
        &self,
        request: Request<GetStoreStatusRequest>,
    ) -> Result<Response<GetStoreStatusResponse>, Status> {
        self.admit("GetStoreStatus", &request)?;
        let census = self.vault.census().await?;
        let retired = self.vault.retired().await?;
        let retired = retired.iter();
        Ok(Response::new(GetStoreStatusResponse {
            keks_to_destroy: retired
                .map(|retired| kek_to_destroy(retired, &self.vault))
                .collect(),
            kek_id: self.vault.kek_id().as_str().to_owned(),
            keys: census.keys.into_iter().collect(),
            change: *self.vault.changes().borrow(),
        }))
    }

    type RewrapKeysStream = RewrapStream;

    async fn rewrap_keys(
        &self,
        request: Request<RewrapKeysRequest>,
    ) -> Result<Response<Self::RewrapKeysStream>, Status> {
        let begun = self.begin("RewrapKeys", &request).await?;
        let per_second = NonZeroU32::new(request.into_inner().keys_per_second_max);
        let vault = self.vault.clone();
        Ok(self.answers(begun, async move |answers| {
            rewrap(&vault, per_second, answers).await
        }))
    }

    type BackUpStoreStream = BackupStream;

    async fn back_up_store(
        &self,
        request: Request<BackUpStoreRequest>,
    ) -> Result<Response<Self::BackUpStoreStream>, Status> {
        let begun = self.begin("BackUpStore", &request).await?;
        let vault = self.vault.clone();
        Ok(self.answers(begun, async move |answers| back_up(&vault, answers).await))
    }
}

impl StoreService {
    /// Lets a caller in, on record and counted either way.
    fn admit<T>(&self, rpc: &'static str, request: &Request<T>) -> Result<(), Status> {
        let peer = peer_of(request)?;
        let admitted = match peer.caller() {
            Ok(caller) => {
                let admission = Admission {
                    policy: &self.policy,
                    records: &self.records,
                    metrics: &self.metrics,
                };
                let admitted = admission.admit(&peer, caller, rpc, Instant::now());
                admitted.and_then(|_| {
                    let allowed = self.allow(caller);
                    let outcome = allowed.as_ref().map(|()| None);
                    let asked = Asked::default();
                    let recorded = self.records.record(&peer, caller, rpc, &asked, outcome);
                    recorded.map_err(Status::from).and(allowed)
                })
            }
            Err(unidentified) => Err(unidentified.into()),
        };
        self.count(rpc, &admitted);
        admitted
    }

    /// Lets a caller in for what may take long: on record and counted as it begins, and on record again
    /// when it ends.
    async fn begin<T>(&self, rpc: &'static str, request: &Request<T>) -> Result<Begun, Status> {
        let peer = peer_of(request)?;
        let begun = match peer.caller() {
            Ok(caller) => self.intend(&peer, caller, rpc).await,
            Err(unidentified) => Err(unidentified.into()),
        };
        self.count(rpc, &begun);
        let call = begun?;
        Ok(Begun { rpc, peer, call })
    }

    async fn intend(&self, peer: &Peer, caller: &Caller, rpc: &'static str) -> Result<u64, Status> {
        if let Err(denied) = self.allow(caller) {
            let asked = Asked::default();
            self.records
                .record(peer, caller, rpc, &asked, Err(&denied))?;
            return Err(denied);
        }
        Ok(self.records.intend(peer, caller, rpc).await?)
    }

    fn count<T>(&self, rpc: &'static str, outcome: &Result<T, Status>) {
        let outcome = outcome.as_ref();
        let word = outcome.map_or_else(status::reason, |_| Outcome::Done.as_str());
        self.metrics.called(rpc, word);
    }

    fn allow(&self, caller: &Caller) -> Result<(), Status> {
        let action = Action::ManageStore;
        let allowed = self.policy.check_any(caller.id(), action);
        allowed.map_err(|denied| deny(caller.id(), action, None, denied))
    }

    /// Has work done beside the call, which is given its answers as they come. It ends with the broker,
    /// or when nobody takes its answers any more.
    fn answers<T: Send + 'static, F>(
        &self,
        begun: Begun,
        work: impl FnOnce(Sender<T>) -> F,
    ) -> Response<Answers<T>>
    where
        F: Future<Output = Result<(), vault::Error>> + Send + 'static,
    {
        let (sender, answers) = mpsc::channel(WAITING_MAX);
        let (stop, last, work) = (self.stop.clone(), sender.clone(), work(sender.clone()));
        let records = self.records.clone();
        self.tasks.spawn(async move {
            let outcome = tokio::select! {
                outcome = work => outcome.map_err(Status::from),
                () = stop.cancelled() => Err(status::shutting_down()),
                () = sender.closed() => return begun.conclude(&records, Some(ABANDONED)),
            };
            begun.conclude(&records, outcome.as_ref().err().map(status::reason));
            if let Err(status) = outcome {
                // Nobody may listen any more.
                let _ = last.send(Err(status)).await;
            }
        });
        Response::new(Box::pin(ReceiverStream::new(answers)))
    }
}

impl Begun {
    fn conclude(&self, records: &Records, refusal: Option<&'static str>) {
        if let Ok(caller) = self.peer.caller() {
            records.conclude(&self.peer, caller, self.rpc, self.call, refusal);
        }
    }
}

async fn rewrap(
    vault: &Vault,
    per_second: Option<NonZeroU32>,
    answers: Sender<RewrapKeysResponse>,
) -> Result<(), vault::Error> {
    let mut last = Progress::default();
    let census = vault.rewrap(per_second, |progress| {
        last = progress;
        // A reader who is slow sees fewer of them.
        let _ = answers.try_send(Ok(response(progress)));
    });
    let keys = census.await?.keys.into_iter().collect();
    let finished = RewrapKeysResponse {
        finished: true,
        keys,
        ..response(last)
    };
    // The work is done, whoever learns of it.
    let _ = answers.send(Ok(finished)).await;
    Ok(())
}

fn response(progress: Progress) -> RewrapKeysResponse {
    RewrapKeysResponse {
        keys_done: progress.done,
        keys_rewrapped: progress.rewrapped,
        keys_total: progress.total,
        ..RewrapKeysResponse::default()
    }
}

async fn back_up(vault: &Vault, answers: Sender<BackUpStoreResponse>) -> Result<(), vault::Error> {
    let (mut backup, mut piece) = Backup::begin(vault).await?;
    loop {
        let next = backup.next().await?;
        let message = BackUpStoreResponse {
            data: piece.bytes,
            organizations_done: piece.done,
            organizations_total: piece.total,
            finished: next.is_none(),
        };
        if answers.send(Ok(message)).await.is_err() {
            return Ok(());
        }
        match next {
            Some(next) => piece = next,
            None => return Ok(()),
        }
    }
}
