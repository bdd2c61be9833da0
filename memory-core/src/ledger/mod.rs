//! Ledgers: which allocators share an allocation, and which of them is charged for it.
//!
//! An allocation has one ledger for each allocator that it is shared with, in order of
//! association, and one of them owns it: there the allocation is charged. A buffer holds one
//! ledger. As long as there is one ledger only, which is nearly always, the tree's mutex is not needed.
//! A second ledger is added under the mutex, and from then on ledgers are added, unlinked and charged
//! under it.
//!
//! When a ledger's last buffer is dropped while there are other ledgers, the thread that drops it takes
//! the mutex, takes the ledger off the list and, if the ledger owned, hands the charge to the ledger
//! that has been associated longest. Until that thread has the mutex, the ledger has no buffer but is
//! still on the list. A thread that needs a ledger for the same allocator meanwhile *buries* it: it takes
//! the ledger off the list for the other thread, and makes a new one. The home slot stays until each
//! thread whose ledger was buried has had the mutex (`pending` counts them). If no ledger is on the list
//! by then, the memory stays as long.
//!
//! The states of ledgers and allocations, and what leads from one to another, are at the head of
//! `release`.
//!
//! The only ledger of a foreign allocation can also change its allocator, where its one buffer is the caller's: see
//! `in_place`.
//!
//! OWNING moves under the mutex: by a transfer, or when the owning ledger is taken off the list.
//! `model` runs pairs and triples of these steps in all interleavings, with a datum for the bytes of
//! the block.

mod free;
mod in_place;
mod index;
mod list;
#[cfg(all(test, loom))]
mod model;
mod notify;
mod reference;
mod release;
mod spare;
mod transfer;
mod view;
mod weak;

pub(crate) use in_place::move_in_place;
pub(crate) use notify::tell_release;
pub(crate) use reference::LedgerRef;
pub(crate) use weak::Weak;
