//! The tree's mutex, held: [`Locked`].
#![expect(
    unsafe_code,
    reason = "reaches the state of nodes, which the mutex guards"
)]

use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::Arc;

use super::super::queue::{NONE, Queue};
use super::super::word::{Held, Kind, MAX_CREDIT, Word};
use super::mutex::SharedGuard;
use super::retire::Departures;
use super::stripes::{Stripes, open_shut};
use super::{Departure, Node, NodePtr, Reserved, Shared, State, Tree};
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
}

impl<'t> Locked<'t> {
    #[inline]
    fn new(tree: &'t Tree, shared: SharedGuard) -> Self {
        Self {
            tree: NonNull::from(tree),
            hold: false,
            waits: shared.queue.is_active(),
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

    /// Shuts every word of the node and parks its credit: from here on `used` counts no credit
    /// of its own.
    pub(in crate::accounting) fn freeze(&mut self, node: NodePtr) {
        let held = self.node(node).sum(Word::shut_down);
        self.park(node, held);
    }

    /// Shuts the word that the calling thread uses, and no other: credit in other stripes counts
    /// as used.
    pub(in crate::accounting) fn freeze_mine(&mut self, node: NodePtr) {
        let this = self.node(node);
        let held = match this.stripes() {
            Some(stripes) => stripes.mine().shut_down(),
            None => this.word.shut_down(),
        };
        self.park(node, held);
    }

    fn park(&mut self, node: NodePtr, held: Held) {
        let state = self.state(node);
        state.peak = state.peak.max(state.used() - held.low);
        state.parked += held.credit;
        state.external += held.external;
    }

    /// Opens the node's shut words with what is parked, as far as its limit allows, and with external
    /// bytes.
    pub(in crate::accounting) fn open(&mut self, node: NodePtr) {
        let high = self.set_high(node);
        let this = self.node(node);
        let state = self.state(node);
        // Where requests wait, what is free is theirs.
        let room = if state.queue == NONE { state.room() } else { 0 };
        let (free, external) = (state.parked.min(room), state.external);
        let (credit, external) = match this.stripes() {
            None => open_shut(std::iter::once(&this.word), free, external, high),
            Some(stripes) => open_shut(stripes.iter(), free, external, high >> stripes.shift),
        };
        state.parked -= credit;
        state.external -= external;
        self.recount(node);
    }

    /// How many words of the node are open.
    pub(in crate::accounting) fn open_words(&self, node: NodePtr) -> usize {
        let this = self.node(node);
        match this.stripes() {
            None => usize::from(!this.word.is_shut()),
            Some(stripes) => stripes.iter().filter(|word| !word.is_shut()).count(),
        }
    }

    /// Sets the maximum of the credit that `give` may leave, by what the node has obtained. While its words
    /// are open, only a transfer changes that.
    fn set_high(&mut self, node: NodePtr) -> usize {
        let this = self.node(node);
        // Up to so much beyond the reservation all of it may be free; from there on only the credit
        // may.
        let state = self.look(node);
        let beyond = state.obtained - state.reservation;
        let most = self.tree().config.credit;
        let shift = this.stripes().map_or(0, |stripes| stripes.shift);
        let largest = MAX_CREDIT << shift;
        let high = if beyond <= most {
            largest
        } else {
            most.min(largest)
        };
        // Relaxed: see `high`.
        this.high.store(high, Ordering::Relaxed);
        high
    }

    /// Takes `bytes` off what the node has obtained and what is charged to it or below it, at once,
    /// with its words as they are: its credit stays.
    #[inline]
    pub(in crate::accounting) fn obtain_less(&mut self, node: NodePtr, bytes: usize) {
        let this = self.node(node);
        // Bytes that others take from the words after this look count as taken after the change.
        let low = match this.stripes() {
            None => this.word.held().low,
            Some(stripes) => stripes.iter().map(|word| word.held().low).sum(),
        };
        let state = self.state(node);
        state.peak = state.peak.max(state.used() - low);
        // The high mark need not rise: no more can be free than was obtained.
        state.obtained -= bytes;
    }

    /// Adds `bytes` to what the node has obtained and to what is charged to it or below it, at once:
    /// its credit stays.
    #[inline]
    pub(in crate::accounting) fn obtain_more(&mut self, node: NodePtr, bytes: usize) {
        let this = self.node(node);
        let held = this.word.held();
        // Where the word holds as little as it ever held since it was opened, its low mark says what
        // is in use now, and so what will be in use with these bytes. (What others take or give after
        // this look counts as taken or given after the change.) Else the mark must start anew, or
        // the peak would be too high.
        let starts = this.stripes().is_some() || held.low != held.credit;
        if starts {
            self.freeze(node);
        }
        let most = self.tree().config.credit;
        let state = self.state(node);
        state.obtained += bytes;
        let low = if starts { 0 } else { held.low };
        state.peak = state.peak.max(state.used() - low);
        if starts && !state.shut {
            self.open(node);
        } else if state.obtained > most {
            self.set_high(node);
        }
    }

    /// External bytes, as the words are.
    pub(in crate::accounting) fn external(&self, node: NodePtr) -> usize {
        self.look(node).external + self.node(node).sum(Word::held).external
    }

    /// The bytes in use here and below, by the words as they are; never less than is allocated.
    pub(in crate::accounting) fn charged(&mut self, node: NodePtr) -> usize {
        if self.node(node).stripes().is_none() {
            return self.look(node).used() - self.node(node).word.held().credit;
        }
        // Several words are not read at one instant.
        self.freeze(node);
        let used = self.look(node).used();
        if !self.look(node).shut {
            self.open(node);
        }
        used
    }

    /// The peak, with what the open words have seen since they were opened.
    pub(in crate::accounting) fn peak(&mut self, node: NodePtr) -> usize {
        let low = self.node(node).sum(Word::held).low;
        let state = self.look(node);
        state.peak.max(state.used() - low)
    }

    /// Splits the node's word into these stripes, if there are any and nobody was faster. They were
    /// made before the mutex was taken, by [`Node::stripes_if_contended`]. If they are not used, the caller
    /// drops them after the mutex was released.
    pub(in crate::accounting) fn install_stripes(
        &mut self,
        node: NodePtr,
        made: &mut Option<Box<Stripes>>,
    ) {
        let this = self.node(node);
        if this.stripes().is_some() {
            return;
        }
        if let Some(stripes) = made.take() {
            self.freeze(node);
            // Release: partner of the Acquire in `stripes`.
            this.stripes
                .store(Box::into_raw(stripes), Ordering::Release);
        }
    }

    /// The maximum of the bytes that a node may hold beyond what its reservation and its use need.
    pub(in crate::accounting) fn max_unused(&self, node: NodePtr) -> usize {
        let max = self.tree().config.credit;
        if self.node(node).stripes().is_some() {
            max / 2
        } else {
            max
        }
    }

    /// Takes credit as anyone may, without shutting the word.
    pub(in crate::accounting) fn take(&self, node: NodePtr, bytes: usize) -> bool {
        // SAFETY: the node is alive as in `node`.
        unsafe { node.take(bytes, Kind::Held) }
    }

    /// Gives `bytes` that are charged to the node back to its credit, without shutting the word.
    pub(in crate::accounting) fn give(&self, node: NodePtr, bytes: usize) -> bool {
        // SAFETY: the caller counts these bytes as charged; and a node is freed only under the
        // mutex, so it is alive afterwards too.
        unsafe { node.give(bytes, Kind::Held) }
    }

    /// Whether `give` would succeed, as things stand.
    pub(in crate::accounting) fn may_give(&self, node: NodePtr, bytes: usize) -> bool {
        let this = self.node(node);
        let (word, high) = match this.stripes() {
            Some(stripes) => (stripes.mine(), this.high() >> stripes.shift),
            None => (&this.word, this.high()),
        };
        !word.is_shut() && word.held().credit.saturating_add(bytes) <= high
    }

    /// Whether the node refuses new work.
    pub(crate) fn is_closed(&self, node: NodePtr) -> bool {
        self.look(node).closed
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
        if self.node(parent).listener.is_none() {
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
    fn shared(&mut self) -> &mut Shared {
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
        match self.shared().departed.take() {
            None => Departures(None),
            Some(last) => self.in_order(last),
        }
    }

    /// The list of departures that ends with the `last` one, which comes first on it.
    #[cold]
    fn in_order(&mut self, last: NodePtr) -> Departures {
        // Children leave before their parents.
        let (mut next, mut told) = (Some(last), None);
        while let Some(node) = next {
            next = std::mem::replace(&mut self.departure(node).next, told);
            told = Some(node);
        }
        Departures(told)
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
