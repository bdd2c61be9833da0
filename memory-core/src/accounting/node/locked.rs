//! The tree's mutex, held: [`Locked`].
#![expect(
    unsafe_code,
    reason = "reaches the state of nodes, which the mutex guards"
)]

use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::Arc;

use super::super::heap::Account;
use super::super::queue::Queue;
use super::mutex::SharedGuard;
use super::retire::Departures;
use super::{Departure, Node, NodeKind, NodePtr, Reserved, Shared, State, Tree};
use crate::sync::plain::make_room;
use crate::sync::{AtomicUsize, Ordering};

/// The tree's mutex, held. All that needs more than one word, or any state, happens here.
///
/// While it exists, nodes that are linked stay alive; unlinked ones too until it is dropped. Its
/// holder may give up under it what kept the tree alive: the mutex outlives the tree, and nothing
/// else is touched once it is released.
pub(crate) struct Locked<'t> {
    /// The tree; alive while a node is, so until the graveyard is emptied.
    tree: NonNull<Tree>,
    /// Taken by `drop`, and by nobody else.
    pub(super) shared: ManuallyDrop<SharedGuard>,
    /// Nothing is opened for now: one step is made of several. What stays shut for it is opened
    /// when it is next used.
    pub(in crate::accounting) hold: bool,
    /// Whether any request of the tree waits, or is to be woken.
    pub(in crate::accounting) waits: bool,
    /// The account for which the global allocator started the section, if it did. Of a heap leaf's words only this
    /// account's is opened.
    pub(in crate::accounting) lane: Option<Account>,
    _tree: PhantomData<&'t Tree>,
}

impl Tree {
    /// Takes the mutex. The caller has a handle, a pin or bytes, and may give it up under it.
    #[inline]
    pub(crate) fn lock(&self) -> Locked<'_> {
        // Stripes ask for the thread's number under the mutex. The first time a thread asks, it registers a
        // destructor, for which the C library may allocate: that is done here, while no lock is held.
        let _ = crate::thread::thread_number();
        Locked::new(self, self.mutex.lock())
    }

    /// Takes the mutex for a section that the global allocator starts for an account, and that must not register a
    /// destructor, nor run foreign code or free memory at its end: [`end_quietly`](Locked::end_quietly). The account has
    /// bytes, or a scope has it.
    #[cold]
    pub(in crate::accounting) fn lock_quietly(&self, account: Account) -> Locked<'_> {
        let mut locked = Locked::new(self, self.mutex.lock());
        locked.lane = Some(account);
        locked
    }
}

impl<'t> Locked<'t> {
    #[inline]
    fn new(tree: &'t Tree, shared: SharedGuard) -> Self {
        Self {
            tree: NonNull::from(tree),
            hold: false,
            waits: shared.queue.is_active(),
            lane: None,
            shared: ManuallyDrop::new(shared),
            _tree: PhantomData,
        }
    }

    /// The tree whose mutex this is.
    pub(in crate::accounting) fn tree(&self) -> &Tree {
        // SAFETY: it was alive when the mutex was taken, by what the caller had then; nodes own
        // their tree, and are freed only after this guard was dropped.
        unsafe { self.tree.as_ref() }
    }

    /// The node behind a pointer. It is alive while we hold the mutex: linked, or kept by a handle, a pin
    /// or bytes of the caller.
    #[inline]
    pub(in crate::accounting) fn node(&self, node: NodePtr) -> &'t Node {
        // SAFETY: the type's promise: its holder knows why the node is alive, and by I4 (see
        // `accounting`) nodes are freed only after this guard was dropped.
        let node = unsafe { node.node() };
        debug_assert!(
            std::ptr::eq(&raw const *node.tree, self.tree.as_ptr()),
            "a node of another tree"
        );
        node
    }

    /// The node's state.
    #[inline]
    pub(in crate::accounting) fn state(&mut self, node: NodePtr) -> &mut State {
        // SAFETY: the node is alive as in `node`. By invariant 3 its state is touched only under
        // the mutex, which we hold, and `&mut self` lends out one state at a time.
        unsafe { &mut *self.node(node).state.get() }
    }

    /// The node's state, to read.
    #[inline]
    pub(in crate::accounting) fn look(&self, node: NodePtr) -> &State {
        // SAFETY: as in `state`; `&self` lends shared references only.
        unsafe { &*self.node(node).state.get() }
    }

    /// Whether any request of the tree waits, or is to be woken.
    pub(crate) fn somebody_waits(&self) -> bool {
        self.waits
    }

    /// Whether the node refuses new work.
    pub(crate) fn is_closed(&self, node: NodePtr) -> bool {
        self.look(node).closed
    }

    /// Whether the node is in its tree.
    pub(crate) fn is_linked(&self, node: NodePtr) -> bool {
        self.look(node).linked
    }

    /// Counts non-owning ledgers in or out.
    pub(crate) fn change_guests(&mut self, node: NodePtr, by: isize) {
        let state = self.state(node);
        state.guests = state
            .guests
            .checked_add_signed(by)
            .expect("guests are counted in first");
    }

    /// Keeps the node's memory, and its name and listener in it; not the allocator.
    pub(crate) fn keep(&self, node: NodePtr) -> Arc<Node> {
        // SAFETY: the pointer is from `Arc::into_raw` in `leak`, and the node is alive as in
        // `node`.
        unsafe { Arc::increment_strong_count(node.0.as_ptr()) };
        // SAFETY: as above; this takes over the count just added.
        unsafe { Arc::from_raw(node.0.as_ptr()) }
    }

    /// Takes one from `count`; `true` if it was the last.
    fn last_goes(count: &AtomicUsize) -> bool {
        // Release for what we did; Acquire, partner of the Release in `drop_unless_last`, because
        // the last one may free the node.
        count.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Gives up a handle; `true` if it was the last.
    pub(in crate::accounting) fn drop_handle(&mut self, node: NodePtr) -> bool {
        Self::last_goes(&self.node(node).handles)
    }

    /// Gives up a pin.
    pub(in crate::accounting) fn drop_pin(&mut self, node: NodePtr) {
        Self::last_goes(&self.node(node).pins);
    }

    /// Lists a reservation, if [`make_room`] finds room for it.
    pub(in crate::accounting) fn list_reservation(
        &mut self,
        node: NodePtr,
        reserved: &Arc<Reserved>,
        spare: &mut Vec<Arc<Reserved>>,
    ) -> Result<(), usize> {
        let list = &mut self.state(node).reservations;
        make_room(list, spare)?;
        // Relaxed: the mutex orders it.
        reserved.place.store(list.len(), Ordering::Relaxed);
        list.push(Arc::clone(reserved));
        Ok(())
    }

    /// Takes a reservation off the list. What it returns is dropped with the mutex free.
    pub(in crate::accounting) fn unlist_reservation(
        &mut self,
        node: NodePtr,
        reserved: &Reserved,
    ) -> Arc<Reserved> {
        let list = &mut self.state(node).reservations;
        // Relaxed, both: the mutex orders them.
        let place = reserved.place.load(Ordering::Relaxed);
        let gone = list.swap_remove(place);
        if let Some(moved) = list.get(place) {
            moved.place.store(place, Ordering::Relaxed);
        }
        gone
    }

    /// The sum of the node's reservations, in bytes.
    pub(in crate::accounting) fn reserved_bytes(&self, node: NodePtr) -> usize {
        let reservations = self.look(node).reservations.iter();
        reservations.map(|reserved| reserved.size()).sum()
    }

    /// Adds what the node has counted since the last call to the sums of its path.
    pub(in crate::accounting) fn add_to_path(&mut self, node: NodePtr) {
        let path = &self.node(node).path;
        let state = self.state(node);
        path.add(&mut state.in_path, state.refusals, state.forced);
    }

    /// Remembers that `child` left `parent`, if anyone wants to know.
    pub(in crate::accounting) fn note_departure(&mut self, child: NodePtr, parent: NodePtr) {
        // Nobody was told that a node for the heap came.
        if self.node(parent).listener.is_none() || self.node(child).kind != NodeKind::Allocator {
            return;
        }
        for node in [child, parent] {
            // SAFETY: the pointer is from `Arc::into_raw` in `leak` and the node is alive. The
            // count is given back in `Departures`.
            unsafe { Arc::increment_strong_count(node.0.as_ptr()) };
        }
        let next = self.shared().departed.replace(child);
        let parent = Some(parent);
        *self.departure(child) = Departure { parent, next };
    }

    /// The node's departure, which is on the list that the mutex protects, or about to be.
    fn departure(&mut self, node: NodePtr) -> &mut Departure {
        // SAFETY: the node is alive as in `node`. Until the list is taken by `take_departures`, all
        // on it are touched under the mutex only, which we hold, and `&mut self` lends out one.
        unsafe { &mut *self.node(node).departure.get() }
    }

    /// The data that the mutex protects besides the states of the nodes.
    pub(super) fn shared(&mut self) -> &mut Shared {
        &mut self.shared
    }

    /// The requests that wait in this tree.
    #[inline]
    pub(in crate::accounting) fn queue(&self) -> &Queue<NodePtr> {
        &self.shared.queue
    }

    /// The requests that wait in this tree.
    pub(in crate::accounting) fn queue_mut(&mut self) -> &mut Queue<NodePtr> {
        &mut self.shared().queue
    }

    /// Notes that the node's subtree is exact and shut, by a recall that visited so many nodes.
    pub(in crate::accounting) fn tighten(&mut self, node: NodePtr, visited: usize) {
        let state = self.state(node);
        (state.tight_operations, state.recall_cost) = (0, visited);
        if !std::mem::replace(&mut state.tight, true) {
            self.shared().tight += 1;
        }
    }

    /// Has a tight node stay so for at least this many operations more, since it took as many steps to look at those
    /// that wait there. Otherwise it could be opened, recalled and looked at again for every few operations.
    pub(in crate::accounting) fn stay_tight(&mut self, node: NodePtr, operations: usize) {
        let state = self.state(node);
        if state.recall_cost.saturating_sub(state.tight_operations) < operations {
            (state.tight_operations, state.recall_cost) = (0, operations);
        }
    }

    /// Notes that the node is tight no more.
    pub(in crate::accounting) fn loosen(&mut self, node: NodePtr) {
        if std::mem::take(&mut self.state(node).tight) {
            self.shared().tight -= 1;
        }
    }

    /// Whether any node of the tree is tight.
    pub(in crate::accounting) fn some_are_tight(&mut self) -> bool {
        self.shared().tight > 0
    }

    /// The departures since this was last asked, in order, to be told once the mutex is released.
    #[inline]
    pub(crate) fn take_departures(&mut self) -> Departures {
        Departures::take(&mut self.shared)
    }

    /// Whether nothing but links can lead to the node any more.
    fn may_free(&self, node: NodePtr) -> bool {
        let this = self.node(node);
        // Acquire: partner of the Release in `drop_unless_last`.
        !self.look(node).linked && this.handles() == 0 && this.pins.load(Ordering::Acquire) == 0
    }

    /// How many pins the node has.
    pub(in crate::accounting) fn pins(&self, node: NodePtr) -> usize {
        // Acquire: partner of the Release in `drop_unless_last`.
        self.node(node).pins.load(Ordering::Acquire)
    }

    /// Buries the node if it is unlinked and has no handle and no pin. It is freed after this guard was
    /// dropped; the caller gives up the pointer.
    pub(in crate::accounting) fn bury_if_free(&mut self, node: NodePtr) {
        if self.may_free(node) {
            let next = self.shared().graveyard.replace(node);
            self.state(node).next_dead = next;
        }
    }
}
