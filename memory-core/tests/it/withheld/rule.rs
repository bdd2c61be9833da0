//! The rule, and the marks that say which levels are looked at, step by step as `accounting::queue` has them.

pub(super) const ROOT: usize = 2;
pub(super) const NEVER: u8 = u8::MAX;

/// A way to break the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mutation {
    None,
    TriesIgnoreBarriers,
    OlderSeeYounger,
    PathIsNotWithheld,
    AdmissionsHoldBackAll,
    CancelDoesNotServe,
    ReleaseDoesNotServe,
    ReservationKeepsUnseen,
}

/// What does not change.
pub(super) struct Tree {
    pub(super) limits: [u8; 3],
    pub(super) reservations: [u8; 2],
    /// The node of each actor; those at the root wait for admission.
    pub(super) actors: Vec<usize>,
    pub(super) mutation: Mutation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Waiter {
    pub(super) actor: u8,
    pub(super) bytes: u8,
    pub(super) level: u8,
    pub(super) passed: u8,
    pub(super) barrier: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) held: [u8; 4],
    /// In the order of age.
    pub(super) waiters: Vec<Waiter>,
    /// What the next waiter of each level needs.
    pub(super) least: [u8; 3],
}

/// A section under the mutex.
struct Section<'t> {
    tree: &'t Tree,
    state: State,
    marked: Vec<usize>,
    rescan: [bool; 3],
    /// The actors that were granted.
    granted: Vec<u8>,
}

/// How old a request is: its index among the waiters, and whether it is an admission.
#[derive(Clone, Copy)]
struct Turn {
    index: usize,
    admission: bool,
}

impl Tree {
    pub(super) fn is_admission(&self, actor: u8) -> bool {
        self.actors[usize::from(actor)] == ROOT
    }

    pub(super) fn path(&self, actor: u8) -> &'static [usize] {
        match self.actors[usize::from(actor)] {
            0 => &[0, ROOT],
            1 => &[1, ROOT],
            _ => &[ROOT],
        }
    }

    fn own(&self, state: &State, node: usize) -> u8 {
        let held = self.actors.iter().zip(state.held);
        held.filter(|&(&at, _)| at == node)
            .map(|(_, held)| held)
            .sum()
    }

    fn obtained(&self, state: &State, child: usize) -> u8 {
        self.own(state, child).max(self.reservations[child])
    }

    pub(super) fn used(&self, state: &State, node: usize) -> u8 {
        let lent = if node == ROOT {
            self.obtained(state, 0) + self.obtained(state, 1)
        } else {
            0
        };
        self.own(state, node) + lent
    }

    pub(super) fn room(&self, state: &State, node: usize) -> u8 {
        self.limits[node].saturating_sub(self.used(state, node))
    }

    /// What a child's reservation keeps unused.
    pub(super) fn parked(&self, state: &State, node: usize) -> u8 {
        if node == ROOT {
            0
        } else {
            self.obtained(state, node) - self.own(state, node)
        }
    }

    fn turn(&self, state: &State, actor: u8) -> Turn {
        let waiting = state.waiters.iter().position(|one| one.actor == actor);
        Turn {
            index: waiting.unwrap_or(state.waiters.len()),
            admission: self.is_admission(actor),
        }
    }

    /// The oldest waiter of a level for which room is withheld from a request.
    fn barrier(&self, state: &State, level: usize, turn: Turn) -> Option<Waiter> {
        if self.mutation == Mutation::TriesIgnoreBarriers && turn.index == state.waiters.len() {
            return None;
        }
        let mut waiters = state.waiters.iter().enumerate();
        let found = waiters.find(|&(index, one)| {
            let older = index < turn.index
                || self.mutation == Mutation::OlderSeeYounger && index != turn.index;
            let holds_back = turn.admission
                || !self.is_admission(one.actor)
                || self.mutation == Mutation::AdmissionsHoldBackAll;
            usize::from(one.level) == level && one.barrier && older && holds_back
        });
        found.map(|(_, &one)| one)
    }

    fn withheld(&self, state: &State, at: usize, turn: Turn) -> u8 {
        if self.barrier(state, at, turn).is_some() {
            return NEVER;
        }
        if at == ROOT || self.mutation == Mutation::PathIsNotWithheld {
            return 0;
        }
        let above = self.barrier(state, ROOT, turn);
        let below = above.filter(|one| self.actors[usize::from(one.actor)] == at);
        below.map_or(0, |one| one.bytes)
    }

    /// Whether a request fits; or the level that is short, and what must be free there.
    pub(super) fn plan(&self, state: &State, actor: u8, bytes: u8) -> Result<(), (usize, u8)> {
        let (turn, mut need) = (self.turn(state, actor), bytes);
        for &at in self.path(actor) {
            let needed = need.saturating_add(self.withheld(state, at, turn));
            if needed > self.room(state, at) {
                return Err((at, needed));
            }
            need = need.saturating_sub(self.parked(state, at));
            if need == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Whether a request fits in the empty tree.
    fn ever_fits(&self, actor: u8, bytes: u8) -> bool {
        let empty = State {
            held: [0; 4],
            waiters: Vec::new(),
            least: [NEVER; 3],
        };
        self.plan(&empty, actor, bytes).is_ok()
    }
}

impl<'t> Section<'t> {
    fn new(tree: &'t Tree, state: &State) -> Self {
        Self {
            tree,
            state: state.clone(),
            marked: Vec::new(),
            rescan: [false; 3],
            granted: Vec::new(),
        }
    }

    fn has_waiters(&self, level: usize) -> bool {
        self.state
            .waiters
            .iter()
            .any(|one| usize::from(one.level) == level)
    }

    fn mark(&mut self, level: usize) {
        if !self.marked.contains(&level) {
            self.marked.push(level);
        }
    }

    fn may_serve(&self, level: usize) -> bool {
        let used = self.tree.used(&self.state, level);
        used.saturating_add(self.state.least[level]) <= self.tree.limits[level]
    }

    /// Bytes may have become free at a level.
    fn freed(&mut self, level: usize) {
        if self.has_waiters(level) && (self.rescan[level] || self.may_serve(level)) {
            self.mark(level);
        }
    }

    /// More or less than before may be withheld or needed on the path of an actor.
    fn look_again(&mut self, actor: u8) {
        for &level in self.tree.path(actor) {
            if self.has_waiters(level) {
                self.rescan[level] = true;
                self.mark(level);
            }
        }
    }

    fn charge(&mut self, actor: u8, bytes: u8, serving: Option<usize>) {
        let mut need = bytes;
        for &at in self.tree.path(actor) {
            if serving != Some(at) {
                for one in &mut self.state.waiters {
                    if usize::from(one.level) == at {
                        one.passed = (one.passed + need).min(one.bytes);
                    }
                }
                self.raise_barriers(at);
            }
            need = need.saturating_sub(self.tree.parked(&self.state, at));
            if need == 0 {
                break;
            }
        }
        self.state.held[usize::from(actor)] += bytes;
    }

    fn raise_barriers(&mut self, level: usize) {
        for one in &mut self.state.waiters {
            one.barrier |= usize::from(one.level) == level && one.passed >= one.bytes;
        }
    }

    fn release(&mut self, actor: u8) {
        let node = self.tree.actors[usize::from(actor)];
        if node == ROOT {
            self.state.held[usize::from(actor)] = 0;
            return self.freed_unless(Mutation::ReleaseDoesNotServe, ROOT);
        }
        let before = self.tree.obtained(&self.state, node);
        self.state.held[usize::from(actor)] = 0;
        self.freed_unless(Mutation::ReleaseDoesNotServe, node);
        let kept = self.tree.parked(&self.state, node) > 0;
        if before > self.tree.obtained(&self.state, node) {
            self.freed_unless(Mutation::ReleaseDoesNotServe, ROOT);
        }
        let waits = |one: &Waiter| self.tree.actors[usize::from(one.actor)] == node;
        let unseen = self.tree.mutation == Mutation::ReservationKeepsUnseen
            && before > self.tree.obtained(&self.state, node);
        if kept && !unseen && self.state.waiters.iter().any(waits) {
            self.look_again(actor);
        }
    }

    fn freed_unless(&mut self, mutation: Mutation, level: usize) {
        if self.tree.mutation != mutation {
            self.freed(level);
        }
    }

    fn enter(&mut self, index: usize, level: usize, needed: u8) {
        self.state.waiters[index].level = level as u8;
        let least = &mut self.state.least[level];
        *least = (*least).min(needed);
    }

    /// After a waiter left a level.
    fn left(&mut self, level: usize) {
        if !self.has_waiters(level) {
            (self.state.least[level], self.rescan[level]) = (NEVER, false);
            self.marked.retain(|&one| one != level);
        }
    }

    fn remove(&mut self, index: usize) {
        let gone = self.state.waiters.remove(index);
        self.left(usize::from(gone.level));
        if gone.barrier && self.tree.mutation != Mutation::CancelDoesNotServe {
            self.look_again(gone.actor);
        }
    }

    /// The end of the section.
    fn serve(mut self) -> (State, Vec<u8>) {
        while let Some(level) = self.marked.pop() {
            if self.rescan[level] || self.may_serve(level) {
                self.serve_level(level);
            }
        }
        (self.state, self.granted)
    }

    fn serve_level(&mut self, level: usize) {
        let rescan = std::mem::take(&mut self.rescan[level]);
        let (mut least, mut held_back, mut index) = (NEVER, [false; 2], 0);
        while let Some(&one) = self.state.waiters.get(index) {
            let admission = self.tree.is_admission(one.actor);
            let skipped = held_back[0] || held_back[1] && admission;
            if usize::from(one.level) != level || skipped && !rescan {
                index += 1;
                continue;
            }
            match self.tree.plan(&self.state, one.actor, one.bytes) {
                Ok(()) => {
                    let before = self.tree.used(&self.state, level);
                    self.charge(one.actor, one.bytes, Some(level));
                    let grown = self.tree.used(&self.state, level) - before;
                    for older in &mut self.state.waiters[..index] {
                        if usize::from(older.level) == level {
                            older.passed = (older.passed + grown).min(older.bytes);
                        }
                    }
                    self.granted.push(one.actor);
                    self.remove(index);
                }
                Err((at, needed)) if at == level => {
                    least = least.min(needed);
                    held_back[usize::from(admission)] |= one.barrier;
                    index += 1;
                }
                Err((at, needed)) => {
                    self.enter(index, at, needed);
                    self.left(level);
                    index += 1;
                }
            }
        }
        if self.has_waiters(level) {
            self.state.least[level] = least;
            self.raise_barriers(level);
        }
    }
}

/// What an actor may do.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Try(u8),
    Wait(u8),
    Release,
    /// It gives up its wait, and all it holds.
    Cancel,
}

/// The state after a step, and who was granted; `None` if the actor cannot do that now.
pub(super) fn step(tree: &Tree, state: &State, actor: u8, step: Step) -> Option<(State, Vec<u8>)> {
    let index = state.waiters.iter().position(|one| one.actor == actor);
    let held = state.held[usize::from(actor)];
    let mut section = Section::new(tree, state);
    match (step, index) {
        (Step::Try(bytes) | Step::Wait(bytes), None) => {
            // As much as would fit alone.
            if !tree.ever_fits(actor, held + bytes) || tree.is_admission(actor) && held > 0 {
                return None;
            }
            match (tree.plan(state, actor, bytes), step) {
                (Ok(()), _) => {
                    section.charge(actor, bytes, None);
                    section.granted.push(actor);
                }
                (Err((level, needed)), Step::Wait(_)) => {
                    section.state.waiters.push(Waiter {
                        actor,
                        bytes,
                        level: level as u8,
                        passed: 0,
                        barrier: false,
                    });
                    let last = state.waiters.len();
                    section.enter(last, level, needed);
                }
                (Err(_), _) => return None,
            }
        }
        (Step::Release, None) if held > 0 => section.release(actor),
        (Step::Cancel, Some(index)) => {
            section.remove(index);
            if held > 0 {
                section.release(actor);
            }
        }
        _ => return None,
    }
    Some(section.serve())
}
