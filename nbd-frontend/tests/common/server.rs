//! A server in this process, on its own thread, with volumes in memory.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use futures::FutureExt;
use futures::future::LocalBoxFuture;
use model::block::{Reply, Request};
use nbd_frontend::export::{ExportError, ExportInfo, ListedExport};
use nbd_frontend::server::{
    Address, Client, Config, DescribeResult, Export, Exports, ListResult, Listener, OpenResult,
    serve,
};
use tokio::sync::watch;

use super::memory::Memory;

pub const VOLUME_BYTES: u64 = 64 << 20;

/// How long the export `late` takes to open.
pub const LATE: Duration = Duration::from_millis(400);

/// How long a request to the export `slow` takes.
pub const SLOW: Duration = Duration::from_millis(200);

/// What the tests count, from outside of the server's thread.
#[derive(Debug, Default)]
pub struct Counters {
    pub opened: AtomicUsize,
    pub closed: AtomicUsize,
    pub in_flight: AtomicUsize,
}

struct MemoryExports {
    volumes: BTreeMap<&'static str, Rc<RefCell<Memory>>>,
    counters: Arc<Counters>,
}

struct MemoryExport {
    info: ExportInfo,
    memory: Rc<RefCell<Memory>>,
    counters: Arc<Counters>,
    submitted: Cell<u32>,
}

/// `vol`, `lazy` (every third request takes its time) and `stuck` (nothing is ever answered)
/// are volumes of their own; `ro` is `vol` read-only, `slow` takes [`SLOW`] for each request, `late`
/// is `vol` after [`LATE`], `away` never opens.
fn info(name: &str) -> Result<ExportInfo, ExportError> {
    let name = if name.is_empty() { "vol" } else { name };
    if !["vol", "lazy", "stuck", "ro", "slow", "late", "away"].contains(&name) {
        return Err(ExportError::Unknown);
    }
    Ok(ExportInfo {
        name: name.to_owned(),
        description: format!("memory of {name}"),
        size: VOLUME_BYTES,
        read_only: name == "ro",
        multi_conn: true,
    })
}

impl Exports for MemoryExports {
    fn list(&self, _: &Client) -> LocalBoxFuture<'static, ListResult> {
        let listed = ["vol", "ro"].map(|name| ListedExport {
            name: name.to_owned(),
            description: format!("memory of {name}"),
        });
        async move { Ok(listed.to_vec()) }.boxed_local()
    }

    fn describe(&self, _: &Client, name: &str) -> LocalBoxFuture<'static, DescribeResult> {
        let found = info(name);
        async move { found }.boxed_local()
    }

    fn open(&self, _: &Client, name: &str) -> LocalBoxFuture<'static, OpenResult> {
        let found = info(name).map(|info| {
            let volume = match info.name.as_str() {
                "ro" | "slow" | "late" | "away" => "vol",
                name => name,
            };
            self.counters.opened.fetch_add(1, Ordering::SeqCst);
            let memory = Rc::clone(&self.volumes[volume]);
            let counters = Arc::clone(&self.counters);
            let export = MemoryExport {
                info,
                memory,
                counters,
                submitted: Cell::new(0),
            };
            Rc::new(export) as Rc<dyn Export>
        });
        let name = name.to_owned();
        async move {
            match name.as_str() {
                "late" => tokio::time::sleep(LATE).await,
                "away" => std::future::pending().await,
                _ => tokio::task::yield_now().await,
            }
            found
        }
        .boxed_local()
    }
}

impl Export for MemoryExport {
    fn info(&self) -> ExportInfo {
        self.info.clone()
    }

    fn submit(&self, request: Request) -> LocalBoxFuture<'static, Reply> {
        let count = self.submitted.get().wrapping_add(1);
        self.submitted.set(count);
        let memory = Rc::clone(&self.memory);
        let in_flight = InFlight::new(&self.counters);
        let is = |name| self.info.name == name;
        let (lazy, stuck, slow) = (is("lazy"), is("stuck"), is("slow"));
        async move {
            let _in_flight = in_flight;
            if stuck {
                std::future::pending::<()>().await;
            }
            if slow {
                tokio::time::sleep(SLOW).await;
            }
            // In order of submission, as a volume would; answered out of order.
            let reply = memory.borrow_mut().execute(request);
            if lazy && count.is_multiple_of(3) {
                for _ in 0..count % 7 {
                    tokio::task::yield_now().await;
                }
            }
            reply
        }
        .boxed_local()
    }
}

impl Drop for MemoryExport {
    fn drop(&mut self) {
        self.counters.closed.fetch_add(1, Ordering::SeqCst);
    }
}

struct InFlight(Arc<Counters>);

impl InFlight {
    fn new(counters: &Arc<Counters>) -> Self {
        counters.in_flight.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(counters))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

pub struct Server {
    pub address: Address,
    pub counters: Arc<Counters>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start(config: Config) -> Self {
        Self::start_at(
            Address::Tcp("127.0.0.1:0".parse().expect("an address")),
            config,
        )
    }

    pub fn start_at(address: Address, config: Config) -> Self {
        let counters = Arc::new(Counters::default());
        let (stop, stopped) = watch::channel(false);
        let (bound, address_of) = std::sync::mpsc::channel();
        let shared = Arc::clone(&counters);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime.expect("a runtime"), async move {
                let listener = Listener::bind(&address)
                    .await
                    .expect("an address to listen on");
                bound
                    .send(listener.address().clone())
                    .expect("the test waits");
                let volume = || Rc::new(RefCell::new(Memory::new(VOLUME_BYTES)));
                let volumes = ["vol", "lazy", "stuck"].map(|name| (name, volume()));
                let exports = MemoryExports {
                    volumes: volumes.into(),
                    counters: shared,
                };
                serve(listener, Rc::new(exports), config, stopped).await;
            });
        });
        let address = address_of.recv().expect("the server listens");
        Self {
            address,
            counters,
            stop,
            thread: Some(thread),
        }
    }

    pub fn port(&self) -> u16 {
        match &self.address {
            Address::Tcp(address) => address.port(),
            Address::Unix(_) => panic!("a Unix socket has no port"),
        }
    }

    pub fn url(&self, export: &str) -> String {
        format!("nbd://127.0.0.1:{}/{export}", self.port())
    }

    /// Tells the server to stop.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Stops the server and waits until all connections are gone.
    pub fn finish(mut self) {
        self.stop();
        self.thread
            .take()
            .expect("joined once")
            .join()
            .expect("the server did not panic");
        let opened = self.counters.opened.load(Ordering::SeqCst);
        assert_eq!(
            opened,
            self.counters.closed.load(Ordering::SeqCst),
            "each is closed once"
        );
        assert_eq!(self.counters.in_flight.load(Ordering::SeqCst), 0);
    }
}
