//! Allocators, their limits and reservations, and those who are asked for memory.

use std::sync::Arc;

use arrow_memory_core::{Cost, LeakCheck, RootAllocator, leak_check};

use crate::hooks::{Cache, Listener, Policy, Reclaims, waker};
use crate::managers::Hostile;
use crate::plan::{Point, panics};
use crate::state::{Charged, External, Opaque};
use crate::sweep::{Operation, op};
use crate::world::{LIMIT, World, done};

pub(crate) const OPERATIONS: &[Operation] = &[
    op("RootAllocatorBuilder::build", |w| {
        w.act(&mut (), |()| root(w).map(Opaque));
    }),
    op("RootAllocator::drop", |w| {
        let mut root = root(w).ok();
        w.act_quietly(&mut root, |root| drop(root.take()));
    }),
    op("ChildAllocatorBuilder::build", |w| {
        w.act(&mut (), |()| {
            w.right.child("child").reservation(300).build()
        });
    }),
    op("ChildAllocatorBuilder::build when memory is short", |w| {
        w.fill_cache();
        w.act(&mut (), |()| {
            w.right.child("child").reservation(300).build()
        });
    }),
    op("ChildAllocatorBuilder::build with all options", |w| {
        w.act(&mut (), |()| {
            let child = w.leaf.child("child").group("group").limit(1000).priority(2);
            child
                .listener(Arc::new(Listener))
                .rounding_policy(Policy)
                .build()
        });
    }),
    op("BufferAllocator::new_child_allocator", |w| {
        w.act(&mut (), |()| w.leaf.new_child_allocator("child", 100, 1000));
    }),
    op("BufferAllocator::drop", |w| {
        let child = w.leaf.child("child").reservation(3000);
        let child = child.listener(Arc::new(Listener)).rounding_policy(Policy);
        let mut child = child.build().ok();
        w.act_quietly(&mut child, |child| drop(child.take()));
    }),
    op("BufferAllocator::drop with external bytes", |w| {
        let child = w.leaf.child("child").build().unwrap();
        child.allocate_bytes(100).unwrap();
        w.act_quietly(&mut Charged(Some(child), 100), |it| drop(it.0.take()));
    }),
    op("BufferAllocator::drop with a buffer outstanding", |w| {
        let child = w.leaf.child("child").build().unwrap();
        let buffer = w.buffer(&child, 100);
        w.act_quietly(&mut (buffer, Some(child)), |it| drop(it.1.take()));
    }),
    op("BufferAllocator::close", |w| {
        let mut child = w.leaf.child("child").reservation(3000).build().unwrap();
        w.act(&mut child, |child| child.close());
    }),
    op("BufferAllocator::close with a buffer outstanding", |w| {
        let child = w.leaf.child("child").build().unwrap();
        let buffer = w.buffer(&child, 100);
        w.act(&mut (child, buffer), |it| done(it.0.close().is_err()));
    }),
    op("BufferAllocator::retire", |w| {
        let child = w.leaf.child("child").build().unwrap();
        let buffer = w.buffer(&child, 100);
        w.act(&mut (child, buffer), |it| done(it.0.retire()));
    }),
    op("BufferAllocator::allocate_bytes", |w| {
        w.act(&mut (), |()| {
            let charged = w.leaf.allocate_bytes(5000);
            charged.map(|()| External(w.leaf.clone(), 5000))
        });
    }),
    op(
        "BufferAllocator::allocate_bytes when memory is short",
        |w| {
            w.fill_cache();
            w.act(&mut (), |()| {
                let charged = w.leaf.allocate_bytes(5000);
                charged.map(|()| External(w.leaf.clone(), 5000))
            });
        },
    ),
    op("BufferAllocator::force_allocate", |w| {
        let held = w.fill();
        w.act(&mut (), |()| {
            w.leaf.force_allocate(5000);
            done(External(w.leaf.clone(), 5000))
        });
        drop(held);
    }),
    op("BufferAllocator::release_bytes", |w| {
        w.leaf.allocate_bytes(5000).unwrap();
        w.act(&mut Some(External(w.leaf.clone(), 5000)), |it| {
            done(drop(it.take()))
        });
    }),
    op("BufferAllocator::set_reservation", |w| {
        w.act(&mut (), |()| w.right.set_reservation(5000));
    }),
    op(
        "BufferAllocator::set_reservation when memory is short",
        |w| {
            w.fill_cache();
            w.act(&mut (), |()| w.right.set_reservation(5000));
        },
    ),
    op("BufferAllocator::raise_reservation", |w| {
        w.fill_cache();
        w.act(&mut (), |()| w.right.raise_reservation(5000));
    }),
    op("BufferAllocator::lower_reservation", |w| {
        w.act(&mut (), |()| done(w.left.lower_reservation(500)));
    }),
    op("BufferAllocator::force_reservation", |w| {
        let held = w.fill();
        w.act(&mut (), |()| done(w.right.force_reservation(5000)));
        drop(held);
    }),
    op("BufferAllocator::force_raise_reservation", |w| {
        let held = w.fill();
        w.act(&mut (), |()| done(w.right.force_raise_reservation(5000)));
        drop(held);
    }),
    op("BufferAllocator::set_limit", |w| {
        w.act(&mut (), |()| done(w.right.set_limit(100)));
    }),
    op("BufferAllocator::set_cap", |w| {
        w.act(&mut (), |()| done(w.root.set_cap(Some(LIMIT / 2))));
    }),
    op("BufferAllocator::release_unused", |w| {
        w.act(&mut (), |()| done(w.right.release_unused()));
    }),
    op("BufferAllocator::report", |w| {
        let mut buffer = w.buffer(&w.leaf, 100);
        w.act(&mut buffer, |_| done(Opaque(w.root.report())));
    }),
    op("BufferAllocator::to_verbose_string", |w| {
        let mut buffer = w.buffer(&w.leaf, 100);
        w.act(&mut buffer, |_| done(Opaque(w.root.to_verbose_string())));
    }),
    op("BufferAllocator::on_shortage", |w| {
        w.act(&mut (), |()| {
            let reclaims = Reclaims(Arc::new(Cache::default()));
            done(Opaque(w.leaf.on_shortage(Cost::Spill, reclaims)))
        });
    }),
    op("ReclaimGuard::drop", |w| {
        let reclaims = Reclaims(Arc::new(Cache::default()));
        let guard = w.leaf.on_shortage(Cost::Spill, reclaims);
        w.act_quietly(&mut Opaque(Some(guard)), |guard| drop(guard.0.take()));
    }),
    op("BufferAllocator::reclaim", |w| {
        w.fill_cache();
        w.act(&mut (), |()| done(Opaque(w.root.reclaim(5000))));
    }),
    op("BufferAllocator::reclaim_inbox", |w| {
        w.act(&mut (), |()| done(Opaque(w.leaf.reclaim_inbox(Cost::Drop))));
    }),
    op("ReclaimInbox::poll_ask", |w| {
        let inbox = w.right.reclaim_inbox(Cost::Drop);
        w.act(&mut Opaque(inbox), |inbox| {
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            let first = inbox
                .0
                .poll_ask(&mut std::task::Context::from_waker(&waker()));
            // The waker of the first poll is replaced.
            done(first.is_pending() && inbox.0.poll_ask(&mut context).is_pending())
        });
    }),
    op("ReclaimInbox::try_ask", |w| {
        let inbox = w.right.reclaim_inbox(Cost::Drop);
        let held = w.fill();
        let polled = inbox.poll_ask(&mut std::task::Context::from_waker(&waker()));
        assert!(polled.is_pending());
        w.act(&mut (), |()| {
            // The request wakes the inbox, and is refused.
            let refused = w.leaf.buffer(5000).is_err();
            drop(inbox.try_ask());
            done(refused)
        });
        drop(held);
    }),
    op("ReclaimInbox::drop", |w| {
        let inbox = w.right.reclaim_inbox(Cost::Drop);
        let polled = inbox.poll_ask(&mut std::task::Context::from_waker(&waker()));
        assert!(polled.is_pending());
        w.act_quietly(&mut Opaque(Some(inbox)), |inbox| drop(inbox.0.take()));
    }),
    op("leak_check", |w| {
        w.act(&mut (), |()| {
            done(leak_check(&w.leaf, |leaf| {
                let buffer = leaf.buffer_zeroed(100);
                panics(Point::Body);
                drop(buffer);
            }))
        });
    }),
    op("LeakCheck::new", |w| {
        let mut buffer = w.buffer(&w.leaf, 100);
        w.act(&mut buffer, |_| done(Opaque(LeakCheck::new(&w.leaf))));
    }),
];

/// Another root.
fn root(w: &World) -> Result<RootAllocator, arrow_memory_core::BackendError> {
    RootAllocator::builder()
        .name("another")
        .allocation_manager(Arc::new(Hostile {
            inner: Arc::clone(&w.manager),
        }))
        .listener(Arc::new(Listener))
        .rounding_policy(Policy)
        .spill_reserve(1000)
        .build()
}
