//! The operations of `memory-host`.

use std::time::Duration;

use arrow_memory_host::{Governor, HostExt, HostLimit};

use crate::state::Opaque;
use crate::sweep::{Operation, op};
use crate::world::done;

pub(crate) const OPERATIONS: &[Operation] = &[
    op("HostExt::reconcile", |w| {
        let mut buffer = w.buffer(&w.leaf, 100);
        w.act(&mut buffer, |_| done(Opaque(w.root.reconcile())));
    }),
    op("HostLimit::read", |w| {
        w.act(&mut (), |()| HostLimit::read().map(Opaque));
    }),
    op("Governor::start", |w| {
        w.act(&mut (), |()| {
            let governor = Governor::over(&w.root).every(Duration::from_secs(50));
            governor.start().map(Opaque)
        });
    }),
    op("GovernorGuard::drop", |w| {
        let governor = Governor::over(&w.root).every(Duration::from_secs(50));
        let guard = governor.start().ok();
        w.act_quietly(&mut Opaque(guard), |it| drop(it.0.take()));
    }),
];
