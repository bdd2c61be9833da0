//! Which allocators are sampled: patterns, and the trees that they are applied to.

use std::sync::{Arc, Weak};

use super::gap::scale_of;
use crate::accounting::{Handle, Node};
use crate::size::KIB;
use crate::sync::plain::{AtomicUsize, copy_out, push};
use crate::sync::process::{Order, ProcessGuard};
use crate::sync::{Ordering, ProcessLock};

/// The default mean interval in bytes. One stack per 4 MiB of 4 KiB buffers costs less than 2 % of the
/// instructions that these cost; with larger buffers a smaller interval costs no more.
pub const DEFAULT_INTERVAL: usize = 4 * KIB * KIB;

/// A pattern and the mean interval in bytes.
#[derive(Clone)]
struct Rule {
    pattern: String,
    interval: usize,
}

struct Registry {
    /// The rules in force, oldest first; `None` is none. Replaced as a whole, so that the old ones can
    /// be dropped when the lock is free.
    rules: Option<Arc<[Rule]>>,
    /// The roots, as memory only; dead ones are cleared out now and then.
    roots: Vec<Weak<Node>>,
    /// The length of `roots` at which that happens next.
    clear_at: usize,
}

/// Under its lock the rules are replaced, a root is added or dead ones are taken out, and the rules are
/// applied to the nodes of one tree, whose mutex is taken for that. No handle is made or dropped under
/// it: each may be the last, and then a tree is freed and users' code runs.
static REGISTRY: ProcessLock<Registry> = ProcessLock::new(
    Order::Outer,
    Registry {
        rules: None,
        roots: Vec::new(),
        clear_at: 64,
    },
);

/// How many rules there are: what `adopt` looks at first.
static RULES: AtomicUsize = AtomicUsize::new(0);

fn registry() -> ProcessGuard<Registry> {
    REGISTRY.lock()
}

/// Samples the allocators, of all trees, those to come too, whose name matches `pattern`, where
/// `*` stands for any characters; one sample per mean `interval` bytes.
///
/// Replaces the interval if the same pattern is in force already. Where several patterns match,
/// the latest counts. The interval is kept within 512 bytes and 1 GiB.
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

/// Ends what [`start`] began with this pattern; `false` if it is not in force. What was recorded
/// stays, and live samples are followed until they are released.
pub fn stop(pattern: &str) -> bool {
    let mut stopped = false;
    change(|rules| {
        let before = rules.len();
        rules.retain(|rule| rule.pattern != pattern);
        stopped = rules.len() < before;
    });
    stopped
}

/// Ends all sampling, as [`stop`].
pub fn stop_all() {
    change(Vec::clear);
}

/// The patterns in force with their mean intervals in bytes, oldest first.
pub fn patterns() -> Vec<(String, usize)> {
    let rules = registry().rules.clone();
    let rules = rules.iter().flat_map(|rules| rules.iter());
    rules
        .map(|rule| (rule.pattern.clone(), rule.interval))
        .collect()
}

/// Replaces the rules by what `change` makes of them, and applies them to all trees.
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
        // Somebody else changed them meanwhile.
    }
    // Whoever applies the rules last to a tree applies the latest: each looks at them under the lock.
    // A root that comes meanwhile applies them itself.
    for root in roots() {
        let registry = registry();
        root.for_each_below(|node| node.set_scale(registry.scale(&node.info.name)));
        drop(registry);
        drop(root);
    }
}

/// Applies the rules to a new node, which is linked into its tree already.
///
/// Whoever changes the rules counts them first and walks the trees then. If that walk passed before
/// the node was linked, the tree's mutex, which both took, orders the count before this look at it.
pub(crate) fn adopt(node: &Node) {
    // Relaxed: ordered by the tree's mutex, as above.
    if RULES.load(Ordering::Relaxed) > 0 {
        // Under the registry's lock, so that this and a walk do not overwrite each other's.
        let registry = registry();
        node.set_scale(registry.scale(&node.info.name));
    }
}

/// Makes a tree known by its root, and applies the rules to it.
pub(crate) fn adopt_root(root: &Handle) {
    clear_roots();
    push(registry, |registry| &mut registry.roots, root.downgrade());
    let registry = registry();
    root.set_scale(registry.scale(&root.info.name));
}

/// Takes dead roots out, if there are many.
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

/// The trees that there are.
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
    /// The units per byte for an allocator of this name; 0: not sampled.
    fn scale(&self, name: &str) -> u64 {
        let mut rules = self.rules.iter().flat_map(|rules| rules.iter()).rev();
        let rule = rules.find(|rule| matches(&rule.pattern, name));
        rule.map_or(0, |rule| scale_of(rule.interval))
    }
}

/// Whether `name` matches `pattern`, in which `*` stands for any characters.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        // No star.
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
