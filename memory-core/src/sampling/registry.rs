//! The patterns of the allocators that are sampled, and the trees to which they apply.

use std::sync::{Arc, Weak};

use super::gap::scale_of;
use crate::accounting::{Handle, Node};
use crate::size::KIB;
use crate::sync::plain::{AtomicUsize, copy_out, push};
use crate::sync::process::{Order, ProcessGuard};
use crate::sync::{Ordering, ProcessLock};

/// The default mean interval in bytes.
///
/// One stack per 4 MiB of 4 KiB buffers costs less than 2 % of the instructions of those buffers; with
/// larger buffers a smaller interval costs no more.
pub const DEFAULT_INTERVAL: usize = 4 * KIB * KIB;

/// A pattern and its mean interval in bytes.
#[derive(Clone)]
struct Rule {
    pattern: String,
    interval: usize,
}

struct Registry {
    /// The rules in force, oldest first; `None` if there are none. They are replaced as a whole, so that
    /// the old ones can be dropped after the lock.
    rules: Option<Arc<[Rule]>>,
    /// The roots as weak references; dead ones are removed when the vector reaches `clear_at`.
    roots: Vec<Weak<Node>>,
    /// The length of `roots` at which dead ones are removed next.
    clear_at: usize,
}

/// The lock is held while the rules are replaced, while a root is added or dead ones are removed, and
/// while the rules are applied to the nodes of one tree, whose mutex is taken for that. No handle is
/// created or dropped under it: each may be the last, whose drop frees a tree and runs foreign code.
static REGISTRY: ProcessLock<Registry> = ProcessLock::new(
    Order::Outer,
    Registry {
        rules: None,
        roots: Vec::new(),
        clear_at: 64,
    },
);

/// The number of rules, which `adopt` checks before it takes the lock.
static RULES: AtomicUsize = AtomicUsize::new(0);

fn registry() -> ProcessGuard<Registry> {
    REGISTRY.lock()
}

/// Samples all allocators, of all trees, whose names match `pattern`: one sample per mean `interval`
/// bytes.
///
/// A `*` in the pattern matches any characters. Allocators that are created later are sampled too.
///
/// If the same pattern is in force already, its interval is replaced. If several patterns match an
/// allocator, the latest applies. The interval is clamped to 512 bytes to 1 GiB.
///
/// The cost grows with the number of allocators of all trees; each tree's mutex is taken in turn.
pub fn start(pattern: &str, interval: usize) {
    let rule = Rule {
        pattern: pattern.to_owned(),
        interval,
    };
    change(|rules| {
        rules.retain(|rule| rule.pattern != pattern);
        rules.push(rule.clone());
    });
}

/// Ends sampling by this pattern; returns `false` if the pattern is not in force.
///
/// All records stay, and live samples are kept until their allocations are released. The cost is that of
/// [`start`].
pub fn stop(pattern: &str) -> bool {
    let mut stopped = false;
    change(|rules| {
        let before = rules.len();
        rules.retain(|rule| rule.pattern != pattern);
        stopped = rules.len() < before;
    });
    stopped
}

/// Ends sampling by all patterns. All records stay, and live samples are kept until their allocations are
/// released.
pub fn stop_all() {
    change(Vec::clear);
}

/// Returns the patterns in force with their mean intervals in bytes, oldest first.
pub fn patterns() -> Vec<(String, usize)> {
    let rules = registry().rules.clone();
    let rules = rules.iter().flat_map(|rules| rules.iter());
    rules
        .map(|rule| (rule.pattern.clone(), rule.interval))
        .collect()
}

/// Changes the rules by `change`, and applies them to all trees.
fn change(mut change: impl FnMut(&mut Vec<Rule>)) {
    loop {
        let before = registry().rules.clone();
        let mut rules = before.as_deref().map_or_else(Vec::new, <[Rule]>::to_vec);
        change(&mut rules);
        let count = rules.len();
        let mut rules = Some(rules.into());
        let mut registry = registry();
        let known = registry.rules.as_ref().map(Arc::as_ptr);
        if known == before.as_ref().map(Arc::as_ptr) {
            std::mem::swap(&mut registry.rules, &mut rules);
            // Relaxed: see `adopt`.
            RULES.store(count, Ordering::Relaxed);
            break;
        }
        // Another thread replaced the rules in the meantime, so they are changed again.
    }
    // The thread that is the last to apply rules to a tree applies the latest ones, since each reads them
    // under the lock. A root that is created in the meantime applies them itself.
    for root in roots() {
        let registry = registry();
        root.for_each_below(|node| node.set_scale(registry.scale(&node.info.name)));
        drop(registry);
        drop(root);
    }
}

/// Applies the rules to a new node that is linked into its tree already.
///
/// A thread that changes the rules first stores their number and then walks the trees. If its walk passed
/// before the node was linked, the tree's mutex, which both threads took, orders that store before this
/// load.
pub(crate) fn adopt(node: &Node) {
    // Relaxed: ordered by the tree's mutex, as said above.
    if RULES.load(Ordering::Relaxed) > 0 {
        // Under the registry's lock, so that this thread and a walk do not overwrite each other's scale.
        let registry = registry();
        node.set_scale(registry.scale(&node.info.name));
    }
}

/// Adds a tree by its root, and applies the rules to the root.
pub(crate) fn adopt_root(root: &Handle) {
    clear_roots();
    push(registry, |registry| &mut registry.roots, root.downgrade());
    let registry = registry();
    root.set_scale(registry.scale(&root.info.name));
}

/// Removes dead roots, if there are many roots.
fn clear_roots() {
    let count = {
        let registry = registry();
        if registry.roots.len() < registry.clear_at {
            return;
        }
        registry.roots.len()
    };
    // Dropped after the lock: each may be the last reference to a node's memory.
    let mut dead: Vec<Weak<Node>> = Vec::with_capacity(count);
    let mut registry = registry();
    registry.roots.retain_mut(|root| {
        let lives = root.strong_count() > 0 || dead.len() == dead.capacity();
        if !lives {
            dead.push(std::mem::take(root));
        }
        lives
    });
    registry.clear_at = 64.max(2 * registry.roots.len());
    drop(registry);
}

/// Returns the roots of all trees that are alive.
pub(crate) fn roots() -> Vec<Handle> {
    let mut roots = Vec::new();
    copy_out(
        &mut roots,
        registry,
        |registry| registry.roots.len(),
        |registry, copy| copy.extend(registry.roots.iter().cloned()),
    );
    roots.iter().filter_map(Handle::upgrade).collect()
}

impl Registry {
    /// Returns the units per byte for an allocator of this name; 0 if it is not sampled.
    fn scale(&self, name: &str) -> u64 {
        let mut rules = self.rules.iter().flat_map(|rules| rules.iter()).rev();
        let rule = rules.find(|rule| matches(&rule.pattern, name));
        rule.map_or(0, |rule| scale_of(rule.interval))
    }
}

/// Returns whether `name` matches `pattern`, in which `*` stands for any characters.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        // The pattern has no star.
        return rest.is_empty();
    };
    for part in parts {
        match rest.split_once(part) {
            Some((_, behind)) => rest = behind,
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::matches;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, name) in [
            ("query", "query"),
            ("*", ""),
            ("*", "query"),
            ("query-*", "query-"),
            ("query-*", "query-7"),
            ("*-7", "query-7"),
            ("q*-*7", "query-17"),
            ("a*b*a", "abba"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("query", "query-7"),
            ("", "query"),
            ("query-*", "query"),
            ("*-7", "query-8"),
            ("aba*aba", "aba"),
            ("a*b*c", "ac"),
        ] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }
}
