//! Volumes as NBD exports: each connection is a client of its volume, wherever its owner is.

use std::rc::Rc;

use actix::Addr;
use actors::runtime::{ClientActor, CloseClient, OpenClient, OpenError, Submit, Switchboard};
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use model::block::{BlockError, Reply, Request};
use nbd_frontend::export::{ExportError, ExportInfo, ListedExport};
use nbd_frontend::server::{Client, DescribeResult, Export, Exports, ListResult, OpenResult};

use super::meta::SharedView;

/// A fabric's volumes.
pub struct VolumeExports {
    /// The placement.
    pub view: SharedView,
    /// The node's switchboard.
    pub switchboard: Addr<Switchboard>,
}

impl VolumeExports {
    fn info(&self, name: &str) -> DescribeResult {
        let view = self
            .view
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let volume = view.volume_named(name).ok_or(ExportError::Unknown)?;
        Ok(info(name, volume.size_bytes))
    }
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
        let view = self
            .view
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let listed = view
            .volumes
            .values()
            .filter(|v| !v.deleted)
            .map(|v| ListedExport {
                name: v.name.clone(),
                description: String::new(),
            })
            .collect();
        async move { Ok(listed) }.boxed_local()
    }

    fn describe(&self, _client: &Client, name: &str) -> LocalBoxFuture<'static, DescribeResult> {
        let info = self.info(name);
        async move { info }.boxed_local()
    }

    fn open(&self, _client: &Client, name: &str) -> LocalBoxFuture<'static, OpenResult> {
        let (switchboard, name) = (self.switchboard.clone(), name.to_owned());
        async move {
            let opened = switchboard.send(OpenClient(name.clone())).await;
            match opened.unwrap_or(Err(OpenError::Stopping)) {
                Ok((client, size)) => {
                    let info = info(&name, size);
                    Ok(Rc::new(VolumeExport {
                        info,
                        client,
                        switchboard,
                    }) as Rc<dyn Export>)
                }
                Err(OpenError::NoVolume) => Err(ExportError::Unknown),
                Err(OpenError::Stopping) => Err(ExportError::ShuttingDown),
            }
        }
        .boxed_local()
    }
}

struct VolumeExport {
    info: ExportInfo,
    client: Addr<ClientActor>,
    switchboard: Addr<Switchboard>,
}

impl Export for VolumeExport {
    fn info(&self) -> ExportInfo {
        self.info.clone()
    }

    fn submit(&self, request: Request) -> LocalBoxFuture<'static, Reply> {
        let submitted = self.client.send(Submit(request));
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

    fn close(&self) -> LocalBoxFuture<'static, ()> {
        self.switchboard.do_send(CloseClient(self.client.clone()));
        async {}.boxed_local()
    }
}
