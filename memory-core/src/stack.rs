//! Stacks: bare addresses, resolved to functions and lines only when they are printed. `debug` captures
//! them.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::panic::Location;
use std::path::Path;
use std::sync::Arc;

use crate::sync::ProcessLock;
use crate::sync::current::unscoped;
use crate::sync::process::Order;
use crate::sync::table::spread;

/// The maximum number of frames of a stack.
pub(crate) const FRAMES: usize = 16;

/// The stack of a creation: the addresses of the innermost 16 frames.
///
/// Capturing is cheap and resolving is not, so functions and lines are looked up only by
/// [`resolve`](Self::resolve) or [`resolve_all`](Self::resolve_all).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct StackTrace {
    pub(crate) addresses: [usize; FRAMES],
    pub(crate) count: usize,
}

/// One resolved frame of a [`StackTrace`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StackFrame {
    /// The function with its path, or the address if the function is unknown.
    pub function: String,
    /// The source file; `None` without debug information.
    pub file: Option<String>,
    /// The line in the file; `None` without debug information.
    pub line: Option<u32>,
}

impl StackTrace {
    /// Returns the addresses, innermost first.
    pub fn addresses(&self) -> &[usize] {
        &self.addresses[..self.count]
    }

    /// Returns all frames, innermost first, including those of this library and of std. Takes many
    /// microseconds per frame.
    pub fn resolve_all(&self) -> Vec<StackFrame> {
        // What is learnt of the program's symbols is kept for as long as it runs.
        unscoped(|| self.frames())
    }

    fn frames(&self) -> Vec<StackFrame> {
        let mut frames = Vec::new();
        for &address in self.addresses() {
            let before = frames.len();
            backtrace::resolve(std::ptr::without_provenance_mut(address), |symbol| {
                frames.push(StackFrame {
                    function: symbol
                        .name()
                        .map_or_else(|| format!("{address:#x}"), |name| format!("{name:#}")),
                    file: symbol
                        .filename()
                        .map(|file| file.to_string_lossy().into_owned()),
                    line: symbol.lineno(),
                });
            });
            if frames.len() == before {
                frames.push(StackFrame {
                    function: format!("{address:#x}"),
                    file: None,
                    line: None,
                });
            }
        }
        frames
    }

    /// Returns the frames of the user's code, innermost first: without those of this library and of std
    /// at the top, and without those that start a program or a thread at the bottom.
    ///
    /// Looking up a frame takes many microseconds, and a leak is often the same stack ten thousand times,
    /// so the latest results are kept, up to 256.
    pub fn resolve(&self) -> Vec<StackFrame> {
        /// A stack and its frames.
        type Known = Option<Arc<(StackTrace, Vec<StackFrame>)>>;
        const MAX_KNOWN: usize = 256;
        /// Results, at the index given by the hash of the stack. The lock is held while one is copied or
        /// replaced.
        static KNOWN: ProcessLock<[Known; MAX_KNOWN]> =
            ProcessLock::new(Order::Inner, [const { None }; MAX_KNOWN]);

        let mut hasher = WordHasher::default();
        self.hash(&mut hasher);
        let place = hasher.finish() as usize % MAX_KNOWN;
        let known = KNOWN.lock()[place].clone();
        if let Some(known) = known.filter(|known| known.0 == *self) {
            return known.1.clone();
        }
        let frames = self.resolve_anew();
        let found = unscoped(|| Some(Arc::new((*self, frames.clone()))));
        let replaced = std::mem::replace(&mut KNOWN.lock()[place], found);
        drop(replaced);
        frames
    }

    fn resolve_anew(&self) -> Vec<StackFrame> {
        let mut frames = self.resolve_all();
        let start = frames
            .iter()
            .position(|frame| frame.function.contains("__rust_begin_short_backtrace"));
        frames.truncate(start.unwrap_or(frames.len()));
        while frames.last().is_some_and(|frame| frame.is_std()) {
            frames.pop();
        }
        let user = frames
            .iter()
            .position(|frame| !frame.is_std() && !frame.is_ours());
        frames.drain(..user.unwrap_or(0));
        frames
    }
}

impl Hash for StackTrace {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for address in self.addresses() {
            state.write_usize(*address);
        }
    }
}

impl fmt::Debug for StackTrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.addresses()).finish()
    }
}

impl StackFrame {
    fn is_std(&self) -> bool {
        const CRATES: [&str; 5] = ["std", "core", "alloc", "backtrace", "test"];
        CRATES.iter().any(|name| self.is_of(name))
            || self.function.starts_with("__rust")
            || self.function.starts_with("rust_")
            || ["main", "_start", "__libc_start_main", "clone"].contains(&&*self.function)
    }

    /// Returns whether the function belongs to the libraries of this workspace. Tests and examples are
    /// crates of their own; the unit tests of this crate are told apart by the module that they are in.
    fn is_ours(&self) -> bool {
        const CRATES: [&str; 10] = [
            "arrow_memory",
            "arrow_memory_manager",
            "arrow_memory_core",
            "arrow_memory_arrow",
            "arrow_memory_arena",
            "arrow_memory_system",
            "arrow_memory_jemalloc",
            "arrow_memory_mimalloc",
            "arrow_memory_profile",
            "arrow_memory_host",
        ];
        CRATES.iter().any(|name| self.is_of(name)) && !self.function.contains("tests::")
    }

    /// Returns whether the function's path starts in this crate. For a method of a trait, the path is
    /// that of the type, or that of the trait if the type does not tell whose the function is (see
    /// [`Method`]).
    fn is_of(&self, name: &str) -> bool {
        match Method::of(&self.function) {
            Some(method) if method.leaves_it_to_the_trait() => starts_in(method.of_trait, name),
            Some(method) => starts_in(method.of_type, name),
            None => starts_in(&self.function, name),
        }
    }
}

/// A method of a trait, as symbols name it: `<Type as Trait>::method` or `<impl Trait for Type>::method`.
struct Method<'a> {
    of_type: &'a str,
    of_trait: &'a str,
}

impl<'a> Method<'a> {
    fn of(function: &'a str) -> Option<Self> {
        let inner = enclosed(function.strip_prefix('<')?)?;
        if let Some(of_impl) = inner.strip_prefix("impl ") {
            let (of_trait, of_type) = split_outside(of_impl, " for ")?;
            return Some(Self { of_type, of_trait });
        }
        let (of_type, of_trait) = split_outside(inner, " as ")?;
        Some(Self { of_type, of_trait })
    }

    /// Returns whether the type does not tell in which crate the method is written: it is a type parameter
    /// of a blanket implementation, or a type of std or of arrow. Those crates do not know the traits of
    /// this workspace, so an implementation of such a trait for their types is in the crate of the trait.
    fn leaves_it_to_the_trait(&self) -> bool {
        const OTHERS: [&str; 5] = ["std", "core", "alloc", "arrow", "parquet"];
        let path = self.of_type.trim_start_matches(TYPE_SIGNS);
        let path = path.strip_prefix("dyn ").unwrap_or(path);
        let Some((first, _)) = path.split_once("::") else {
            return true;
        };
        let ours = first.starts_with("arrow_memory");
        let others = OTHERS.contains(&first) || first.starts_with("arrow_");
        let trait_of_std = ["std", "core", "alloc"]
            .iter()
            .any(|name| starts_in(self.of_trait, name));
        others && !ours && !trait_of_std
    }
}

/// The characters before the path of a type.
const TYPE_SIGNS: [char; 5] = ['<', '&', '*', '[', '('];

/// Returns whether a path, which may be that of a type, starts in the crate of this name.
fn starts_in(path: &str, name: &str) -> bool {
    let path = path.trim_start_matches(TYPE_SIGNS);
    let path = path.strip_prefix("dyn ").unwrap_or(path);
    path.strip_prefix(name)
        .is_some_and(|rest| rest.starts_with("::") || rest.starts_with('['))
}

/// Returns the text before the `>` that closes the bracket opened before `text`.
fn enclosed(text: &str) -> Option<&str> {
    let mut depth = 1_usize;
    let mut before = ' ';
    for (index, character) in text.char_indices() {
        match character {
            '<' => depth += 1,
            '>' if before != '-' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(&text[..index]);
        }
        before = character;
    }
    None
}

/// Returns both sides of the first `separator` that is not inside angle brackets.
fn split_outside<'a>(text: &'a str, separator: &str) -> Option<(&'a str, &'a str)> {
    text.match_indices(separator).find_map(|(index, _)| {
        let before = &text[..index];
        let arrows = before.matches("->").count();
        let balanced = before.matches('<').count() == before.matches('>').count() - arrows;
        balanced.then(|| (before, &text[index + separator.len()..]))
    })
}

/// The frame that a report names first, and its callers.
pub(crate) struct Site {
    /// `file:line in function`.
    pub(crate) first: String,
    /// The callers in the same format, innermost first.
    pub(crate) callers: Vec<String>,
}

impl Site {
    /// Combines a stack and the caller's location. The function's name comes from the stack. The file and
    /// the line come from the stack too if there is debug information, unless the caller's location,
    /// which is exact, is in the same file. Without debug information only the caller's location is left,
    /// if it is in the user's code.
    pub(crate) fn of(stack: &StackTrace, caller: Option<&Location<'_>>) -> Self {
        let mut frames = stack.resolve();
        let caller = caller.filter(|caller| is_users(caller.file()));
        // A stack has a fixed number of frames. If all of them are this library's, the user's lie beyond them,
        // and only the caller's location tells where that is.
        let is_users_own = |frame: &StackFrame| !frame.is_std() && !frame.is_ours();
        if caller.is_some() && !frames.iter().any(is_users_own) {
            frames.clear();
        }
        // Locations are relative to the directory where the compiler ran; frames are absolute.
        let root = frames.first().zip(caller).and_then(|(frame, caller)| {
            let file = frame.file.as_deref()?;
            Some(file.strip_suffix(caller.file())?.to_owned())
        });
        for frame in &mut frames {
            if let Some(file) = &mut frame.file {
                *file = shorten(file, root.as_deref());
            }
        }
        if let (Some(frame), Some(caller)) = (frames.first_mut(), caller)
            && frame
                .file
                .as_deref()
                .is_none_or(|file| file == caller.file())
        {
            frame.file = Some(caller.file().to_owned());
            frame.line = Some(caller.line());
        }
        let mut lines = frames.iter().map(StackFrame::to_string);
        let first = lines.next().unwrap_or_else(|| match caller {
            Some(caller) => format!("{}:{}", caller.file(), caller.line()),
            None => "an unknown place".to_owned(),
        });
        Self {
            first,
            callers: lines.collect(),
        }
    }
}

impl fmt::Display for StackFrame {
    /// Writes `file:line in function`, or the known parts of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.file, self.line) {
            (Some(file), Some(line)) => write!(f, "{file}:{line} in {}", self.function),
            (Some(file), None) => write!(f, "{file} in {}", self.function),
            (None, _) => f.write_str(&self.function),
        }
    }
}

/// Returns whether a caller's file belongs neither to std nor to a library of this workspace.
pub(crate) fn is_users(file: &str) -> bool {
    const LIBRARIES: [&str; 8] = [
        "manager", "core", "arrow", "arena", "system", "jemalloc", "mimalloc", "profile",
    ];
    const THIS: &str = file!();
    let std = file.starts_with("/rustc/") || file.contains("/library/");
    // The path is `memory-core/src/…` in the workspace and `…/arrow-memory-core-0.1.0/src/…` in the
    // registry; the other libraries are in directories beside it.
    let beside = THIS
        .split_once("memory-core")
        .map_or(THIS, |(before, _)| before);
    let library = file.strip_prefix(beside).and_then(|file| {
        let (library, _) = file.strip_prefix("memory-")?.split_once("/src/")?;
        library.split('-').next()
    });
    let ours = library.is_some_and(|name| LIBRARIES.contains(&name)) && !file.ends_with("tests.rs");
    !(std || ours)
}

fn shorten(file: &str, root: Option<&str>) -> String {
    if let Some(short) = root.and_then(|root| file.strip_prefix(root)) {
        return short.to_owned();
    }
    let here = std::env::current_dir().ok();
    here.and_then(|here| {
        let short = Path::new(file).strip_prefix(here).ok()?;
        Some(short.to_string_lossy().into_owned())
    })
    .unwrap_or_else(|| file.to_owned())
}

/// Hashes addresses: those of slots, which differ by multiples of 8, and those of a stack.
#[derive(Default)]
pub(crate) struct WordHasher(u64);

impl Hasher for WordHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_usize(usize::from(*byte));
        }
    }

    fn write_usize(&mut self, address: usize) {
        self.0 = spread(self.0.rotate_left(5) as usize ^ address);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn frame(function: &str) -> StackFrame {
        StackFrame {
            function: function.to_owned(),
            file: None,
            line: None,
        }
    }

    #[test]
    fn methods_of_foreign_types_belong_to_the_crate_of_the_type() {
        assert!(frame("<alloc::vec::Vec<T,A> as core::clone::Clone>::clone").is_std());
        assert!(frame("<arrow_memory_core::ArrowBuf as core::clone::Clone>::clone").is_ours());
        assert!(frame("arrow_memory_core::buffer::allocate").is_ours());
        assert!(frame("arrow_memory_manager::wrappers::proxy").is_ours());
        assert!(!frame("arrow_memory_core_extras::run").is_ours());
        assert!(!frame("standard::run").is_std());
        assert!(!frame("leak::main").is_std());
    }

    /// Once only the text before ` as ` was checked, and a blanket implementation in this workspace was
    /// taken for the user's code.
    #[test]
    fn methods_of_traits_belong_to_the_trait_where_the_type_says_nothing() {
        let ours = [
            "<T as arrow_memory_arrow::arrow_60::source::accounted::Accounted>::adopt",
            "<arrow_array::record_batch::RecordBatch as arrow_memory_arrow::Accounted>::adopt",
            "<alloc::sync::Arc<dyn arrow_array::array::Array> as arrow_memory_arrow::A>::adopt",
            "<impl arrow_memory_arrow::Accounted for T>::adopt",
            "<impl core::convert::From<T> for arrow_memory_core::ArrowBuf>::from",
            "<arrow_memory_core::ArrowBuf as core::fmt::Debug>::fmt::{{closure}}",
            "<&[u8] as arrow_memory_core::Bytes>::get",
            "<F as arrow_memory_core::Run<fn() -> T>>::run",
        ];
        for function in ours {
            assert!(frame(function).is_ours(), "{function}");
            assert!(!frame(function).is_std(), "{function}");
        }
        let theirs = [
            "<server::Listener as arrow_memory_core::listener::AllocationListener>::on_release",
            "<server::Map<arrow_memory_core::ArrowBuf> as core::ops::Drop>::drop",
            "<impl arrow_memory_core::AllocationListener for server::Listener>::on_release",
            "<T as server::Scan>::run",
            "server::run::<impl Fn() as arrow_memory_core::X>",
        ];
        for function in theirs {
            assert!(!frame(function).is_ours(), "{function}");
            assert!(!frame(function).is_std(), "{function}");
        }
        assert!(frame("<T as core::convert::Into<U>>::into").is_std());
        assert!(frame("<alloc::vec::Vec<T> as core::iter::Extend<T>>::extend").is_std());
        assert!(frame("<alloc::boxed::Box<F,A> as core::ops::FnOnce<Args>>::call_once").is_std());
    }

    #[test]
    fn files_of_the_workspaces_libraries_are_no_users() {
        assert!(!is_users("memory-core/src/buffer/allocate.rs"));
        assert!(!is_users("memory-manager/src/wrappers/proxy.rs"));
        assert!(!is_users("memory-arrow/src/versioned/builder/primitive.rs"));
        assert!(is_users("memory-arrow/tests/frames.rs"));
        assert!(is_users("memory-arrow/src/versioned/builder/tests.rs"));
        assert!(is_users("memory-cli/src/main.rs"));
        assert!(is_users("src/main.rs"));
        assert!(!is_users("/rustc/abc/library/alloc/src/vec/mod.rs"));
    }
}
