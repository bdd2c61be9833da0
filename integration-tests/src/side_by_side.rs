//! Runs the naive model and a real tree side by side, and compares every number after every step.

use std::collections::BTreeMap;

use crate::model::{Model, View};
use crate::operation::{Key, Operation, Outcome, Rounding, State};
use crate::tree::{Ground, Tree};

/// The default maximum of the credit of a node, in bytes.
const DEFAULT_CREDIT: usize = 1024 * 1024;

/// Whether headrooms are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Headroom {
    /// They are compared: no other thread uses the tree at the moment.
    Known,
    /// They are not, because other threads change them.
    Unknown,
}

/// A model and a tree that take the same steps.
#[derive(Debug)]
pub struct SideBySide {
    /// The reference.
    pub model: Model,
    /// The tree under test.
    pub tree: Tree,
    /// The maximum credit of a node in bytes.
    credit: usize,
    peaks: BTreeMap<Key, PeakBound>,
    /// The model after the latest step.
    views: Vec<View>,
    steps: usize,
    story: Vec<String>,
}

/// An upper bound on the peak of a node.
#[derive(Clone, Copy, Debug, Default)]
struct PeakBound {
    /// The bound in bytes.
    most: usize,
    /// Whether the node ever had a child. The peak of other nodes is exact.
    inner: bool,
}

impl SideBySide {
    /// Creates both without nodes. The credit is that of `ground`, or the default.
    pub fn new(ground: Ground, rounding: Rounding) -> Self {
        let credit = match ground {
            Ground::Root { credit, .. } => credit.unwrap_or(DEFAULT_CREDIT),
            Ground::Below(_) => DEFAULT_CREDIT,
        };
        Self {
            model: Model::new(rounding),
            tree: Tree::new(ground, rounding),
            credit,
            peaks: BTreeMap::new(),
            views: Vec::new(),
            steps: 0,
            story: Vec::new(),
        }
    }

    /// Sets the credit of the nodes in the surrounding tree.
    #[must_use]
    pub fn with_credit(mut self, credit: Option<usize>) -> Self {
        self.credit = credit.unwrap_or(DEFAULT_CREDIT);
        self
    }

    /// Applies one step to both. Returns the outcome of the model.
    ///
    /// # Panics
    ///
    /// If the two outcomes differ.
    pub fn apply(&mut self, operation: &Operation) -> Outcome {
        self.steps += 1;
        let waiting = self.model.waiting();
        let earlier = (!waiting.is_empty() && self.credit > 0).then(|| self.model.clone());
        let mut expected = self.model.apply(operation);
        self.story.push(format!("{operation:?} -> {expected:?}"));
        let outcome = self.tree.apply(operation);
        if !outcome.agrees(&expected)
            && let Some(earlier) = earlier
        {
            // Credit that nodes have from before lets requests pass those that wait.
            self.model = earlier.without_withholding();
            expected = self.model.apply(operation);
            self.model.with_withholding();
        }
        assert!(
            outcome.agrees(&expected),
            "step {}: {operation:?}\n  model: {expected:?}\n  tree:  {outcome:?}",
            self.steps
        );
        self.tree.forget_all_but(&self.model.allocators());
        self.settle(&waiting);
        self.bound_peaks();
        expected
    }

    /// Follows what the step did to those that wait. `before` waited before it.
    fn settle(&mut self, before: &[Key]) {
        let waiting = self.model.waiting();
        let ended = self.tree.ended();
        let missed = before.iter().find(|it| {
            self.model.waits().contains(it) && !waiting.contains(it) && !ended.contains(it)
        });
        assert_eq!(missed, None, "step {}: the wait is not over", self.steps);
        if waiting.is_empty() {
            return;
        }
        let exact = self.credit == 0;
        let settled = self.model.settle(&ended, &self.tree.seen(), exact);
        if let Err(wrong) = settled {
            panic!("step {}: {wrong}", self.steps);
        }
    }

    /// Compares every number of every allocator and of every buffer.
    ///
    /// # Panics
    ///
    /// If any number differs, or if the sums of the tree do not add up.
    pub fn compare(&self, headroom: Headroom) {
        let step = self.steps;
        assert_eq!(
            self.tree.allocators(),
            self.model.allocators(),
            "step {step}"
        );
        for view in self.model.views() {
            self.compare_state(&view, headroom);
            self.compare_rest(&view);
        }
        for buffer in self.model.buffers() {
            let it = self.tree.buffer(buffer);
            let found = (it.ref_count(), it.accounted_size(), it.len());
            let (references, accounted) = self.model.ledger(buffer);
            let expected = (references, accounted, self.model.length(buffer));
            assert_eq!(found, expected, "step {step}, b{buffer}");
            let holder = it.allocator();
            assert_eq!(
                holder.name(),
                format!("a{}", self.model.holder(buffer)),
                "step {step}, b{buffer}"
            );
        }
    }

    /// Checks the sums of the whole tree.
    ///
    /// # Panics
    ///
    /// If a sum does not add up.
    pub fn verify(&self) {
        if let Some(&root) = self.tree.allocators().first() {
            let verified = self.tree.allocator(root).verify();
            assert_eq!(verified, Ok(()), "step {}", self.steps);
        }
    }

    /// Every step with the outcome of the model.
    pub fn story(&self) -> String {
        self.story.join("\n")
    }

    /// The maximum peak that the first allocator may show.
    pub fn root_peak_bound(&self) -> usize {
        self.peaks.values().next().map_or(0, |bound| bound.most)
    }

    fn compare_state(&self, view: &View, headroom: Headroom) {
        let expected = view.state;
        let mut found = self.tree.state(expected.allocator);
        if headroom == Headroom::Unknown {
            found.headroom = expected.headroom;
        }
        let bound = self.peaks[&expected.allocator];
        let credit = if bound.inner { bound.most } else { 0 };
        let most = credit.max(view.transient_peak);
        let peak_holds = (expected.peak..=most).contains(&found.peak);
        let rest = State {
            peak: expected.peak,
            ..found
        };
        assert!(
            rest == expected && peak_holds,
            "step {}\n  model: {expected} (peak at most {most})\n  tree:  {found}",
            self.steps
        );
    }

    fn compare_rest(&self, view: &View) {
        let key = view.state.allocator;
        let (step, it) = (self.steps, self.tree.allocator(key));
        let stats = it.stats();
        assert_eq!(
            (stats.own_bytes, stats.foreign_bytes),
            (view.own, 0),
            "step {step}, a{key}"
        );
        assert_eq!(
            (stats.external_bytes, stats.reserved_bytes),
            (view.external, view.reserved),
            "step {step}, a{key}"
        );
        let allocated = view.state.allocated;
        let credit = (view.below + 1).saturating_mul(self.credit.max(100000));
        let charged = it.charged_memory();
        assert!(
            (allocated..=allocated.saturating_add(credit)).contains(&charged),
            "step {step}, a{key}: {charged} charged, {allocated} allocated"
        );
        assert_eq!(
            (it.reservation(), it.is_closed()),
            (view.reservation, view.closed),
            "step {step}, a{key}"
        );
    }

    /// A peak counts the allocated bytes after each step, plus at most the credit that the nodes below hold
    /// during the step. Credit never takes a node above its current limit.
    fn bound_peaks(&mut self) {
        let views = self.model.views();
        for view in &views {
            let key = view.state.allocator;
            let earlier = self.views.iter().find(|it| it.state.allocator == key);
            let earlier = earlier.unwrap_or(view);
            let allocated = view.state.allocated.max(earlier.state.allocated);
            let credit = view.below.max(earlier.below).saturating_mul(self.credit);
            let limit = view.limit.max(earlier.limit);
            let transient = allocated.saturating_add(credit).min(limit);
            let bound = self.peaks.entry(key).or_default();
            bound.inner |= view.below > 0;
            bound.most = bound.most.max(view.state.allocated).max(transient);
        }
        self.views = views;
    }
}
