//! Sums of the counts of all allocators of each path, including those that have left the tree.
//!
//! The *path* of an allocator is the sequence of labels from the root down to it; a label is the
//! allocator's group, or its name if it has no group. An exporter of counters needs a sum per path that
//! never falls and that misses nothing, although an allocator often lives for less time than passes
//! between two exports. So each tree has a table of the paths of all allocators that were ever created in it. A
//! node is given its path when it is created. It counts in its own state, under the tree's mutex, and its
//! counts are added to the path's sums whenever it is measured for a snapshot, and when it leaves the tree.
//! The state remembers what was added already, so that nothing is added twice.
//!
//! The table is bounded: see [`MAX_CHILDREN`] and [`MAX_PATHS`]. Allocators beyond these bounds are
//! counted below their parent's path as [`OTHER`]. A node keeps its path for life, so that each of its counts is added to
//! the same sums.
//!
//! The table is a binary tree by hash that only ever grows, made of `OnceLock`s. Finding a path takes no
//! lock, and memory for a new one is allocated while no lock is held. A child process that is forked while another
//! thread sets one of them never returns from there if it reaches the same place, so the README rules out
//! new children of inherited allocators.

use std::cmp::Ordering::{Equal, Greater, Less};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::sync::Ordering;
use crate::sync::plain::{AtomicU64, AtomicUsize};

/// The number of different labels that the children of one path may have. Children with other labels
/// are counted as [`OTHER`].
const MAX_CHILDREN: usize = 1000;

/// The number of paths of one tree beyond which every new label is [`OTHER`]. Each path may have a child
/// of that label, so that a table has at most twice as many entries.
const MAX_PATHS: usize = 10_000;

/// The label of all children that came after the table was full. What is created below them has the
/// same path as they have.
const OTHER: &str = "(other)";

/// The table of the paths of one tree; a clone refers to the same table.
#[derive(Clone)]
pub(crate) struct Paths(Arc<Table>);

struct Table {
    root: NodePath,
    /// How many paths there are, without those of [`OTHER`] that came when the table was full.
    count: AtomicUsize,
    /// The next [`Entry::index`].
    next: AtomicUsize,
    hasher: RandomState,
    /// What became of the requests of the tree that waited for memory.
    waits: Waits,
}

/// Sums over the requests of a tree that waited for memory.
#[derive(Default)]
struct Waits {
    /// How many began to wait.
    begun: AtomicU64,
    /// How long those waited that do not wait any more.
    microseconds: AtomicU64,
    /// How many were told to give way.
    give_ways: AtomicU64,
}

/// The path of a node.
pub(crate) type NodePath = Arc<Entry>;

/// One path.
pub(crate) struct Entry {
    /// Unique in the table; larger than that of `parent`.
    pub(crate) index: usize,
    /// The index of the path above; the root's is its own.
    parent: usize,
    label: Arc<str>,
    /// How many different labels the children have, without [`OTHER`] that came when they were too many.
    children: AtomicUsize,
    /// The sums, written under the tree's mutex.
    refusals: AtomicU64,
    forced_bytes: AtomicU64,
    /// The place in the table: by this hash of `parent` and `label`, and then by these two.
    hash: u64,
    smaller: OnceLock<Arc<Entry>>,
    larger: OnceLock<Arc<Entry>>,
}

/// The part of a node's counts that was added to its path's sums already.
#[derive(Default)]
pub(super) struct InPath {
    refusals: u64,
    forced_bytes: u64,
}

/// One path, as [`Paths::read`] found it.
pub(crate) struct PathSums {
    /// The path's identity, which a node's [`Entry::index`] refers to.
    pub(crate) index: usize,
    /// The path above, which precedes this one in the list; the root's is its own.
    pub(crate) parent: usize,
    /// The last label of the path, as it was given.
    pub(crate) label: Arc<str>,
    /// Requests that allocators of this path refused.
    pub(crate) refusals: u64,
    /// Bytes that forced paths charged to allocators of this path.
    pub(crate) forced_bytes: u64,
}

impl Paths {
    /// A table with the root's path.
    pub(crate) fn new(root: &Arc<str>) -> Self {
        Self(Arc::new(Table {
            root: Arc::new(Entry::new(0, 0, Arc::clone(root), 0)),
            count: AtomicUsize::new(1),
            next: AtomicUsize::new(1),
            hasher: RandomState::new(),
            waits: Waits::default(),
        }))
    }

    /// Counts a request that begins to wait.
    pub(crate) fn count_wait(&self) {
        // Relaxed, here and below: numbers for readers.
        self.0.waits.begun.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the end of a wait.
    pub(crate) fn count_waited(&self, waited: Duration, gives_way: bool) {
        let Waits {
            microseconds,
            give_ways,
            ..
        } = &self.0.waits;
        microseconds.fetch_add(waited.as_micros() as u64, Ordering::Relaxed);
        give_ways.fetch_add(u64::from(gives_way), Ordering::Relaxed);
    }

    /// The sums of the waits: how many began, whole seconds waited, and how many were told to give way.
    pub(crate) fn waits(&self) -> [u64; 3] {
        let Waits {
            begun,
            microseconds,
            give_ways,
        } = &self.0.waits;
        let [begun, microseconds, give_ways] =
            [begun, microseconds, give_ways].map(|sum| sum.load(Ordering::Relaxed));
        [begun, microseconds / 1_000_000, give_ways]
    }

    /// The root's path.
    pub(crate) fn root(&self) -> NodePath {
        Arc::clone(&self.0.root)
    }

    /// The path of a child of `parent` with this label; that of [`OTHER`] if there is no room for it.
    ///
    /// Two threads that race for the last room may be told of none although one path more would fit:
    /// each takes its room before it puts the path there, and gives it back if the path has come
    /// meanwhile. Their children are counted as [`OTHER`] then, where nothing of them is lost.
    pub(crate) fn child(&self, parent: &NodePath, label: &Arc<str>) -> NodePath {
        if parent.index != self.0.root.index && *parent.label == *OTHER {
            return Arc::clone(parent);
        }
        self.find(parent, label)
            .or_else(|| self.insert(parent, label))
            // Another thread may have taken the last room for this very path.
            .or_else(|| self.find(parent, label))
            .unwrap_or_else(|| self.other(parent))
    }

    /// The sums of all paths, parents before children.
    pub(crate) fn read(&self) -> Vec<PathSums> {
        let (mut found, mut left) = (Vec::new(), vec![&self.0.root]);
        while let Some(entry) = left.pop() {
            left.extend(entry.smaller.get());
            left.extend(entry.larger.get());
            found.push(PathSums {
                index: entry.index,
                parent: entry.parent,
                label: Arc::clone(&entry.label),
                // Relaxed, both: numbers for readers. What was added under a mutex that the caller has
                // held since is seen.
                refusals: entry.refusals.load(Ordering::Relaxed),
                forced_bytes: entry.forced_bytes.load(Ordering::Relaxed),
            });
        }
        found.sort_unstable_by_key(|path| path.index);
        found
    }

    /// The path, if it is in the table.
    fn find(&self, parent: &Entry, label: &str) -> Option<NodePath> {
        self.place(self.hash(parent, label), parent.index, label)
            .ok()
    }

    /// A new path, or the one that another thread has inserted meanwhile; `None` if there is no room.
    fn insert(&self, parent: &Entry, label: &Arc<str>) -> Option<NodePath> {
        if !add_below(&parent.children, MAX_CHILDREN) {
            return None;
        }
        if add_below(&self.0.count, MAX_PATHS) {
            let (path, inserted) = self.put(parent, Arc::clone(label));
            if inserted {
                return Some(path);
            }
            // Relaxed, both: bounds, which guard no memory.
            self.0.count.fetch_sub(1, Ordering::Relaxed);
            parent.children.fetch_sub(1, Ordering::Relaxed);
            return Some(path);
        }
        // Relaxed: a bound, which guards no memory.
        parent.children.fetch_sub(1, Ordering::Relaxed);
        None
    }

    /// The path of all children of `parent` for whose labels there is no room.
    fn other(&self, parent: &Entry) -> NodePath {
        self.find(parent, OTHER)
            .unwrap_or_else(|| self.put(parent, Arc::from(OTHER)).0)
    }

    /// Puts a path into the table unless it is there, and says whether it did.
    fn put(&self, parent: &Entry, label: Arc<str>) -> (NodePath, bool) {
        let hash = self.hash(parent, &label);
        // Relaxed: uniqueness is all that is asked. The parent's number was taken before.
        let index = self.0.next.fetch_add(1, Ordering::Relaxed);
        let new = Arc::new(Entry::new(index, parent.index, label, hash));
        loop {
            match self.place(hash, parent.index, &new.label) {
                Ok(known) => return (known, false),
                // If another thread was faster, its path is there now, and the search continues below it.
                Err(place) if place.set(Arc::clone(&new)).is_ok() => return (new, true),
                Err(_) => {}
            }
        }
    }

    /// The path in the table, or the place where it belongs.
    fn place(
        &self,
        hash: u64,
        parent: usize,
        label: &str,
    ) -> Result<NodePath, &OnceLock<Arc<Entry>>> {
        let mut at = &self.0.root;
        loop {
            let wanted = (hash, parent, label);
            let next = match wanted.cmp(&(at.hash, at.parent, &at.label)) {
                // The root is not its own child.
                Equal if at.index != parent => return Ok(Arc::clone(at)),
                Less => &at.smaller,
                Equal | Greater => &at.larger,
            };
            match next.get() {
                Some(entry) => at = entry,
                None => return Err(next),
            }
        }
    }

    fn hash(&self, parent: &Entry, label: &str) -> u64 {
        self.0.hasher.hash_one((parent.index, label))
    }
}

impl fmt::Debug for Paths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Paths").finish_non_exhaustive()
    }
}

impl Entry {
    fn new(index: usize, parent: usize, label: Arc<str>, hash: u64) -> Self {
        Self {
            index,
            parent,
            label,
            children: AtomicUsize::new(0),
            refusals: AtomicU64::new(0),
            forced_bytes: AtomicU64::new(0),
            hash,
            smaller: OnceLock::new(),
            larger: OnceLock::new(),
        }
    }
}

impl Entry {
    /// Adds what a node has counted since the last call to the sums. Called under the tree's mutex.
    pub(super) fn add(&self, in_path: &mut InPath, refusals: u64, forced_bytes: u64) {
        let gained = (
            refusals - in_path.refusals,
            forced_bytes - in_path.forced_bytes,
        );
        *in_path = InPath {
            refusals,
            forced_bytes,
        };
        if gained != (0, 0) {
            // Relaxed, both: numbers for readers, and written under the mutex only.
            self.refusals.fetch_add(gained.0, Ordering::Relaxed);
            self.forced_bytes.fetch_add(gained.1, Ordering::Relaxed);
        }
    }
}

/// Adds 1 to a number below `bound`; `false` if it has reached it.
fn add_below(number: &AtomicUsize, bound: usize) -> bool {
    number
        // Relaxed, both: a bound, which guards no memory.
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |number| {
            (number < bound).then(|| number + 1)
        })
        .is_ok()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::HashSet;
    use std::thread;

    use super::*;

    fn label(text: impl ToString) -> Arc<str> {
        Arc::from(text.to_string())
    }

    #[test]
    fn a_label_below_a_parent_is_one_path_although_threads_race_for_it() {
        let paths = Paths::new(&label("root"));

        let found: Vec<Vec<usize>> = thread::scope(|scope| {
            let find = || {
                let below = |number| {
                    let parent = paths.child(&paths.root(), &label(number));
                    paths.child(&parent, &label("root")).index
                };
                (0..200).map(below).collect()
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(find)).collect();
            threads.into_iter().map(|it| it.join().unwrap()).collect()
        });

        assert!(found.iter().all(|indexes| *indexes == found[0]));
        assert_eq!(found[0].iter().collect::<HashSet<_>>().len(), 200);
        let read = paths.read();
        assert_eq!(read.len(), 401);
        for (place, path) in read.iter().enumerate().skip(1) {
            let above = read[..place].iter().any(|it| it.index == path.parent);
            assert!(above, "{} precedes its parent", path.label);
        }
        // A thread that comes second takes nothing of the bounds.
        let again = paths.insert(&paths.root(), &label(0)).unwrap();
        assert_eq!(again.index, paths.child(&paths.root(), &label(0)).index);
        assert_eq!(paths.0.count.load(Ordering::Relaxed), 401);
        assert_eq!(paths.0.root.children.load(Ordering::Relaxed), 200);
    }

    #[test]
    fn a_path_has_so_many_labels_below_it_and_then_one_for_all_others() {
        let paths = Paths::new(&label("root"));
        let root = paths.root();

        let indexes: HashSet<usize> = (0..2 * MAX_CHILDREN)
            .map(|number| paths.child(&root, &label(number)).index)
            .collect();

        assert_eq!(indexes.len(), MAX_CHILDREN + 1);
        let other = paths.child(&root, &label("one more"));
        assert_eq!(&*other.label, OTHER);
        assert_eq!(paths.child(&other, &label("below")).index, other.index);
        let known = paths.child(&root, &label(0));
        assert_eq!(
            (&*known.label, &*paths.child(&known, &label("new")).label),
            ("0", "new")
        );
    }

    /// Trees are 10,000 deep and more; nothing recurses over their paths.
    #[test]
    fn a_table_is_bounded_whatever_the_shape_of_the_tree() {
        let (wide, deep) = (Paths::new(&label("root")), Paths::new(&label("root")));

        for number in 0..3 * MAX_PATHS {
            let parent = wide.child(&wide.root(), &label(number % 500));
            wide.child(&parent, &label(number));
        }
        let mut at = deep.root();
        for _ in 0..3 * MAX_PATHS {
            at = deep.child(&at, &label("a"));
        }

        let count = wide.read().len();
        assert!((MAX_PATHS..=2 * MAX_PATHS).contains(&count), "{count}");
        assert_eq!(deep.read().len(), MAX_PATHS + 1);
        assert_eq!(&*at.label, OTHER);
    }
}
