//! Volumes as NBD exports: each connection is a client of its volume, wherever its owner is.

use std::rc::Rc;
use std::time::Duration;

use actix::Addr;
use actors::runtime::{ClientHandle, OpenClient, OpenError, Opening, Switchboard};
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use model::block::{BlockError, Reply, Request};
use nbd_frontend::export::{ExportError, ExportInfo, ListedExport};
use nbd_frontend::server::{Client, DescribeResult, Export, Exports, ListResult, OpenResult};
use raft_meta::node::Scope;

use super::meta::MetaHandle;
use super::removal::Removal;

/// A fabric's volumes.
pub struct VolumeExports {
    /// The metadata.
    pub meta: MetaHandle,
    /// The node's switchboard.
    pub switchboard: Addr<Switchboard>,
    /// Whether the node was removed: then nothing that it opens would ever be served.
    pub removal: Removal,
}

/// So long a client waits for what others were told of volumes a moment ago, through another node: of a
/// new size, or a list, and, no longer than a person notices, of a creation.
pub(super) const SIZE_MAX: Duration = Duration::from_millis(250);
pub(super) const CREATION_MAX: Duration = Duration::from_secs(1);

/// A volume's export.
async fn look_up(meta: MetaHandle, name: String) -> DescribeResult {
    let known = || meta.view().volume_named(&name).map(|v| v.size_bytes);
    if !name.is_empty() {
        let within = known().map_or(CREATION_MAX, |_| SIZE_MAX);
        // Nobody answers only where the process is about to end.
        let _missed = meta.catch_up(Scope::Global, within).await;
    }
    known()
        .map(|size| info(&name, size))
        .ok_or(ExportError::Unknown)
}

/// Every acknowledged write is on two sites' disks, whichever node's connection it came by, so
/// a flush has nothing to do on any of them: multi-conn is honest.
fn info(name: &str, size: u64) -> ExportInfo {
    ExportInfo {
        name: name.to_owned(),
        description: String::new(),
        size,
        read_only: false,
        multi_conn: true,
    }
}

impl Exports for VolumeExports {
    fn list(&self, _client: &Client) -> LocalBoxFuture<'static, ListResult> {
        let meta = self.meta.clone();
        let listed = async move {
            let _missed = meta.catch_up(Scope::Global, SIZE_MAX).await;
            let view = meta.view();
            let live = view.volumes.values().filter(|v| !v.deleted);
            let listed = live.map(|v| ListedExport {
                name: v.name.clone(),
                description: String::new(),
            });
            Ok(listed.collect())
        };
        listed.boxed_local()
    }

    fn describe(&self, _client: &Client, name: &str) -> LocalBoxFuture<'static, DescribeResult> {
        look_up(self.meta.clone(), name.to_owned()).boxed_local()
    }

    fn open(&self, _client: &Client, name: &str) -> LocalBoxFuture<'static, OpenResult> {
        let (switchboard, name) = (self.switchboard.clone(), name.to_owned());
        let known = look_up(self.meta.clone(), name.clone());
        let opened = async move {
            known.await?;
            // Whoever gives this up, at whatever point, ends the client with it.
            match open_client(&switchboard, name.clone()).await {
                Ok((client, size)) => {
                    let info = info(&name, size);
                    Ok(Rc::new(VolumeExport { info, client }) as Rc<dyn Export>)
                }
                Err(OpenError::NoVolume) => Err(ExportError::Unknown),
                Err(OpenError::Stopping) => Err(ExportError::ShuttingDown),
            }
        };
        let removal = self.removal.clone();
        async move {
            tokio::select! {
                biased;
                () = removal.known() => Err(ExportError::Unavailable),
                opened = opened => opened,
            }
        }
        .boxed_local()
    }
}

/// Opens a client of a volume.
pub(super) async fn open_client(
    switchboard: &Addr<Switchboard>,
    name: String,
) -> Result<(ClientHandle, u64), OpenError> {
    let opening = switchboard.send(OpenClient(name)).await;
    let Opening { client, opened } = opening.unwrap_or(Err(OpenError::Stopping))?;
    let size = opened.await.unwrap_or(Err(OpenError::Stopping))?;
    Ok((client, size))
}

/// The client ends when its handle is dropped.
struct VolumeExport {
    info: ExportInfo,
    client: ClientHandle,
}

impl Export for VolumeExport {
    fn info(&self) -> ExportInfo {
        self.info.clone()
    }

    fn submit(&self, request: Request) -> LocalBoxFuture<'static, Reply> {
        let submitted = self.client.submit(request);
        async move {
            match submitted.await {
                Ok(answered) => answered
                    .await
                    .unwrap_or(Reply::Error(BlockError::NoSession)),
                Err(_) => Reply::Error(BlockError::NoSession),
            }
        }
        .boxed_local()
    }
}
