//! Which allocators are sampled: patterns, and the trees that they are applied to.

use std::sync::Weak;

use super::gap::scale_of;
use crate::accounting::{Handle, Node};
use crate::size::KIB;
use crate::sync::Ordering;
use crate::sync::plain::{AtomicUsize, Mutex, MutexGuard, lock};

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
    rules: Vec<Rule>,
    /// The roots, as memory only; dead ones are cleared out now and then.
    roots: Vec<Weak<Node>>,
    /// The length of `roots` at which that happens next.
    clear_at: usize,
}

static REGISTRY: Mutex<Registry> = Mutex::new(Registry {
    rules: Vec::new(),
    roots: Vec::new(),
    clear_at: 64,
});

/// How many rules there are: what `adopt` looks at first.
static RULES: AtomicUsize = AtomicUsize::new(0);

fn registry() -> MutexGuard<'static, Registry> {
    lock(&REGISTRY)
}

/// Samples the allocators, of all trees, those to come too, whose name matches `pattern`, where
/// `*` stands for any characters; one sample per mean `interval` bytes.
///
/// Replaces the interval if the same pattern is in force already. Where several patterns match,
/// the latest counts. The interval is kept within 512 bytes and 1 GiB.
pub fn start(pattern: &str, interval: usize) {
    let mut registry = registry();
    registry.rules.retain(|rule| rule.pattern != pattern);
    registry.rules.push(Rule {
        pattern: pattern.to_owned(),
        interval,
    });
    registry.apply();
}

/// Ends what [`start`] began with this pattern; `false` if it is not in force. What was recorded
/// stays, and live samples are followed until they are released.
pub fn stop(pattern: &str) -> bool {
    let mut registry = registry();
    let before = registry.rules.len();
    registry.rules.retain(|rule| rule.pattern != pattern);
    registry.apply();
    registry.rules.len() < before
}

/// Ends all sampling, as [`stop`].
pub fn stop_all() {
    let mut registry = registry();
    registry.rules.clear();
    registry.apply();
}

/// The patterns in force with their mean intervals in bytes, oldest first.
pub fn patterns() -> Vec<(String, usize)> {
    let registry = registry();
    let rules = registry.rules.iter();
    rules
        .map(|rule| (rule.pattern.clone(), rule.interval))
        .collect()
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
    let weak = root.downgrade();
    let mut registry = registry();
    if registry.roots.len() >= registry.clear_at {
        registry.roots.retain(|root| root.strong_count() > 0);
        registry.clear_at = 64.max(2 * registry.roots.len());
    }
    registry.roots.push(weak);
    root.set_scale(registry.scale(&root.info.name));
}

/// The trees that there are.
pub(super) fn roots() -> Vec<Handle> {
    let roots = registry().roots.clone();
    roots.iter().filter_map(Handle::upgrade).collect()
}

impl Registry {
    fn apply(&self) {
        // Relaxed: see `adopt`.
        RULES.store(self.rules.len(), Ordering::Relaxed);
        for root in self.roots.iter().filter_map(Handle::upgrade) {
            root.for_each_below(|node| node.set_scale(self.scale(&node.info.name)));
        }
    }

    /// The units per byte for an allocator of this name; 0: not sampled.
    fn scale(&self, name: &str) -> u64 {
        let mut rules = self.rules.iter().rev();
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
