//! The rule by which room is withheld for waiters, in all states of a small tree.
//!
//! A model, not the library: `accounting::queue` as it decides while all words are shut (`withheld`, `serve`, and
//! the marks that say which levels to look at), for two children, one of which may have a reservation, and actors
//! that try, wait, release and give up in any order. Asserted in each state that they can reach:
//!
//! * no level is above its limit;
//! * no waiter sleeps that fits, by the order of age;
//! * the oldest barrier is not passed: from one state to the next the first level at which it is short, counted
//!   from the leaf, or else the room there, does not fall, unless an older waiter was served;
//! * an admission holds back nothing but admissions;
//! * if nobody holds anything, nobody waits; and where all that hold also wait, it ends if the youngest that
//!   holds gives back.
//!
//! The rule is also broken in several ways, to see that the assertions notice.

mod rule;

use std::collections::HashSet;

use self::rule::{Mutation, NEVER, ROOT, State, Step, Tree, Waiter, step};

/// What is wrong with a state by itself.
fn check_state(tree: &Tree, state: &State) -> Result<(), String> {
    for node in 0..=ROOT {
        if tree.used(state, node) > tree.limits[node] {
            return Err(format!("above a limit: {state:?}"));
        }
    }
    for one in &state.waiters {
        if tree.plan(state, one.actor, one.bytes).is_ok() {
            return Err(format!("{one:?} sleeps though it fits: {state:?}"));
        }
    }
    if state.held == [0; 4] && !state.waiters.is_empty() {
        return Err(format!("nobody holds anything, and some wait: {state:?}"));
    }
    check_admissions(tree, state)
}

/// An admission holds back nothing but admissions.
fn check_admissions(tree: &Tree, state: &State) -> Result<(), String> {
    let mut without = state.clone();
    without.waiters.retain(|one| !tree.is_admission(one.actor));
    for actor in (0..tree.actors.len() as u8).filter(|&actor| !tree.is_admission(actor)) {
        for bytes in 1..=3 {
            if tree.plan(state, actor, bytes) != tree.plan(&without, actor, bytes) {
                return Err(format!("an admission holds back {actor}: {state:?}"));
            }
        }
    }
    Ok(())
}

/// The oldest barrier passed in one step.
fn check_progress(tree: &Tree, from: &State, to: &State, granted: &[u8]) -> Result<(), String> {
    let wait = |one: &&Waiter| one.barrier && !tree.is_admission(one.actor);
    let Some(before) = from.waiters.iter().find(wait) else {
        return Ok(());
    };
    let age = from.waiters.iter().take_while(|one| *one != before);
    let mut older = age.filter(|one| granted.contains(&one.actor));
    let Some(after) = to.waiters.iter().find(|one| one.actor == before.actor) else {
        return Ok(());
    };
    if older.next().is_some() {
        return Ok(());
    }
    if progress(tree, to, after) < progress(tree, from, before) {
        return Err(format!("the oldest barrier was passed: {from:?} to {to:?}"));
    }
    Ok(())
}

/// The first level, from the leaf, at which a waiter is short, and the room there.
fn progress(tree: &Tree, state: &State, one: &Waiter) -> (usize, u8) {
    let mut need = one.bytes;
    for (depth, &at) in tree.path(one.actor).iter().enumerate() {
        let room = tree.room(state, at);
        if need > room {
            return (depth, room);
        }
        need = need.saturating_sub(tree.parked(state, at));
    }
    (ROOT, 0)
}

/// Where all that hold also wait, it ends if the youngest of them gives back, again and again.
fn check_ends(tree: &Tree, state: &State) -> Result<(), String> {
    let mut state = state.clone();
    loop {
        let waits = |actor: u8| state.waiters.iter().any(|one| one.actor == actor);
        let holds = |actor: u8| state.held[usize::from(actor)] > 0;
        let mut actors = 0..tree.actors.len() as u8;
        if state.waiters.is_empty() || actors.any(|actor| holds(actor) && !waits(actor)) {
            return Ok(());
        }
        let Some(youngest) = state.waiters.iter().rfind(|one| holds(one.actor)) else {
            return Err(format!("nobody who waits holds anything: {state:?}"));
        };
        let next = step(tree, &state, youngest.actor, Step::Cancel);
        state = next.expect("it waits").0;
        check_state(tree, &state)?;
    }
}

/// How many states can be reached; or what is wrong with one of them.
fn explore(tree: &Tree, most: u8) -> Result<usize, String> {
    let first = State {
        held: [0; 4],
        waiters: Vec::new(),
        least: [NEVER; 3],
    };
    let mut seen = HashSet::from([first.clone()]);
    let mut next = vec![first];
    let sizes = (1..=most).flat_map(|bytes| [Step::Try(bytes), Step::Wait(bytes)]);
    let steps: Vec<_> = sizes.chain([Step::Release, Step::Cancel]).collect();
    while let Some(state) = next.pop() {
        check_state(tree, &state)?;
        check_ends(tree, &state)?;
        for actor in 0..tree.actors.len() as u8 {
            for &one in &steps {
                if let Some((after, granted)) = step(tree, &state, actor, one) {
                    check_progress(tree, &state, &after, &granted)?;
                    if seen.insert(after.clone()) {
                        next.push(after);
                    }
                }
            }
        }
    }
    Ok(seen.len())
}

fn tree(reservations: [u8; 2], actors: &[usize], mutation: Mutation) -> Tree {
    Tree {
        limits: [3, 3, 4],
        reservations,
        actors: actors.to_vec(),
        mutation,
    }
}

/// Where the actors are.
const PLACES: [&[usize]; 4] = [&[0, 0, 1], &[0, 0, 2], &[0, 1, 2], &[0, 2, 2]];
const FOUR: [([u8; 2], &[usize]); 4] = [
    ([0, 0], &[0, 0, 1, 1]),
    ([0, 0], &[0, 1, 2, 2]),
    ([1, 0], &[0, 0, 1, 2]),
    ([1, 0], &[0, 0, 0, 1]),
];
const RESERVATIONS: [[u8; 2]; 4] = [[0, 0], [1, 0], [2, 0], [1, 1]];

/// How many states there are for three actors; or what is wrong.
fn explore_all(mutation: Mutation) -> Result<usize, String> {
    let mut states = 0;
    for reservations in RESERVATIONS {
        for actors in PLACES {
            states += explore(&tree(reservations, actors, mutation), 3)?;
        }
    }
    Ok(states)
}

#[test]
fn in_every_state_the_oldest_waiter_waits_for_holders_only() {
    let states = explore_all(Mutation::None).unwrap_or_else(|wrong| panic!("{wrong}"));
    assert!(states > 10_000, "{states}");
}

#[test]
fn four_actors_wait_for_holders_only() {
    for (reservations, actors) in FOUR {
        let tree = tree(reservations, actors, Mutation::None);
        explore(&tree, 2).unwrap_or_else(|wrong| panic!("{actors:?}: {wrong}"));
    }
}

#[test]
fn a_rule_that_is_broken_is_noticed() {
    for mutation in [
        Mutation::TriesIgnoreBarriers,
        Mutation::OlderSeeYounger,
        Mutation::PathIsNotWithheld,
        Mutation::AdmissionsHoldBackAll,
        Mutation::CancelDoesNotServe,
        Mutation::ReleaseDoesNotServe,
        Mutation::ReservationKeepsUnseen,
    ] {
        assert!(
            explore_all(mutation).is_err(),
            "{mutation:?} goes unnoticed"
        );
    }
}
