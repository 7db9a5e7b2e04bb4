//! A target in memory with two portals, to try initiators on; it says where it listens.

#![allow(clippy::print_stdout, reason = "that is what it is for")]

#[path = "../tests/common/memory.rs"]
mod memory;

use iscsi_frontend::server::Config;
use iscsi_frontend::session::Access;
use tokio::sync::watch;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let listeners = memory::listen();
        let unit = memory::Memory::new(256 << 20, Access::Open);
        for listener in &listeners {
            println!("iscsi://{}/{}/0", listener.address(), unit.name);
        }
        let (_tell, stop) = watch::channel(false);
        memory::serve_memory(listeners, unit, Config::default(), stop).await;
    });
}
