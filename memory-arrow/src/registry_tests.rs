use std::cell::Cell;

use super::*;

fn leaked() -> &'static Registry<usize> {
    Box::leak(Box::new(Registry::new()))
}

fn all_at(registry: &'static Registry<usize>, address: usize) -> Vec<usize> {
    let mut seen = Vec::new();
    registry.visit(address, |&target| {
        seen.push(target);
        ControlFlow::Continue(())
    });
    seen
}

fn last(_: &usize) -> bool {
    false
}

#[test]
fn entries_at_one_address_are_told_apart_by_their_places() {
    let registry = leaked();
    let first = registry.insert(64, 1, last);
    let unless = |_: &usize| ControlFlow::Continue(());
    let second = registry.insert_unless(64, 2, unless).unwrap();
    assert_eq!(all_at(registry, 64), [2, 1]);

    assert_eq!(registry.remove(64, first), Some(1));
    assert_eq!(registry.remove(64, first), None);
    assert_eq!(registry.remove(128, second), None);
    assert_eq!((all_at(registry, 64), registry.len()), (vec![2], 1));
}

#[test]
fn an_entry_is_not_inserted_where_another_will_do() {
    let registry = leaked();
    registry.insert(64, 1, last);

    let inserted = registry.insert_unless(64, 2, |&one| {
        assert_eq!(one, 1);
        ControlFlow::Break(())
    });
    assert_eq!((inserted, registry.len()), (Err(2), 1));
}

#[test]
fn a_thousand_addresses_are_found_again() {
    let registry = leaked();
    let addresses: Vec<usize> = (1..=1000).map(|page| page * 4096).collect();
    let places: Vec<_> = addresses
        .iter()
        .map(|&address| registry.insert(address, address, last))
        .collect();

    for (address, place) in addresses.into_iter().zip(places) {
        assert_eq!(all_at(registry, address), [address]);
        assert_eq!(registry.remove(address, place), Some(address));
    }
    let counts = registry.shards.iter().flat_map(|shard| &shard.counts);
    // Relaxed: one thread.
    assert!(
        counts
            .into_iter()
            .all(|count| count.load(Ordering::Relaxed) == 0)
    );
}

/// Compares the chains with a vector for each address, over insertions at both ends and removals in any order.
#[test]
fn chains_are_what_a_naive_list_is() {
    let registry = leaked();
    let mut naive: Vec<Vec<(usize, usize)>> = vec![Vec::new(); 3];
    let mut random = 20_261_127_u64;
    let mut next = |below: usize| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (random >> 33) as usize % below
    };
    for step in 0..20_000 {
        let which = next(3);
        let (address, list) = (64 * (which + 1), &mut naive[which]);
        match next(5) {
            0 => {
                let place = registry.insert(address, step, |_| true);
                list.insert(0, (place, step));
            }
            1 => {
                let place = registry.insert(address, step, last);
                list.push((place, step));
            }
            2 if !list.is_empty() => {
                let value = list[next(list.len())].1;
                let removed = registry.remove_first(address, |&target| target == value);
                assert_eq!(removed, Some(value));
                list.retain(|&(_, other)| other != value);
            }
            _ if !list.is_empty() => {
                let (place, value) = list.remove(next(list.len()));
                assert_eq!(registry.remove(address, place), Some(value));
            }
            _ => {}
        }
        let values: Vec<_> = list.iter().map(|&(_, value)| value).collect();
        assert_eq!(all_at(registry, address), values, "step {step}");
    }
}

/// Each insertion and removal took as many steps as there were entries at the address.
#[test]
fn an_entry_in_front_is_found_in_one_step_whatever_is_behind_it() {
    let registry = leaked();
    let places: Vec<_> = (0..10_000)
        .map(|width| registry.insert(64, width, |&first| first < width))
        .collect();

    let steps = Cell::new(0);
    registry.visit(64, |&width| {
        steps.set(steps.get() + 1);
        if width == 9_999 {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    assert_eq!(steps.get(), 1);
    for (width, place) in places.into_iter().enumerate() {
        assert_eq!(registry.remove(64, place), Some(width));
    }
    assert_eq!(registry.len(), 0);
}
