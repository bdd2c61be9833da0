//! What a node's words hold, under the tree's mutex: freezing them, opening them, and reading them.
//!
//! The words of a heap leaf are those of its accounts, and its own stays shut. They are frozen and opened here; what only
//! reads words does not see their credit, and takes it for bytes in use. So a peak of a leaf may be too high by it.
#![expect(
    unsafe_code,
    reason = "takes credit of nodes, and gives it, by their pointers"
)]

use super::super::queue::NONE;
use super::super::word::{Held, Kind, MAX_CREDIT, Word};
use super::locked::Locked;
use super::stripes::{Stripes, open_shut};
use super::{NodeKind, NodePtr};
use crate::sync::Ordering;

impl Locked<'_> {
    /// Shuts every word of the node and parks its credit: from here on `used` counts no credit
    /// of its own.
    pub(in crate::accounting) fn freeze(&mut self, node: NodePtr) {
        let this = self.node(node);
        let held = match this.kind {
            NodeKind::Heap => self.shut_accounts(node),
            _ => this.sum(Word::shut_down),
        };
        self.park(node, held);
    }

    /// Shuts the word that the calling thread uses, and no other, unless the node is `shut`: credit in other stripes
    /// counts as used. Of a heap leaf, the word of the account that the section is for.
    pub(in crate::accounting) fn freeze_mine(&mut self, node: NodePtr) {
        let this = self.node(node);
        let held = match this.stripes() {
            Some(_) if self.look(node).shut => this.sum(Word::shut_down),
            Some(stripes) => self.mine(stripes).shut_down(),
            None if this.kind == NodeKind::Heap => self.shut_mine(node),
            None => this.word.shut_down(),
        };
        self.park(node, held);
    }

    /// The stripe of the calling thread. In the global allocator any of them: to ask for the thread's number may
    /// register a destructor.
    fn mine<'s>(&self, stripes: &'s Stripes) -> &'s Word {
        if self.lane.is_some() {
            stripes.any()
        } else {
            stripes.mine()
        }
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
        if self.node(node).kind == NodeKind::Heap {
            return self.open_mine(node);
        }
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
        self.open_if_allowed(node);
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
}
