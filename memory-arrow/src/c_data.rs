//! The structures of the Arrow C Data Interface, checked before other code relies on them.
//!
//! arrow-rs' own import trusts its input: it asserts, unwraps, and computes addresses from unchecked counts.
//! The checks here find every number and pointer that cannot be right. What cannot be checked (that a buffer
//! has as many bytes as it should, that a pointer is valid) remains the caller's promise.
#![expect(unsafe_code, reason = "reads C structures through raw pointers")]

use std::ffi::{CStr, c_char, c_void};
use std::ptr::NonNull;

use crate::error::MemoryError;

/// `struct ArrowSchema`, as the C Data Interface lays it out.
#[repr(C)]
pub(crate) struct RawSchema {
    pub(crate) format: *const c_char,
    pub(crate) name: *const c_char,
    pub(crate) metadata: *const c_char,
    flags: i64,
    pub(crate) n_children: i64,
    pub(crate) children: *mut *mut RawSchema,
    pub(crate) dictionary: *mut RawSchema,
    pub(crate) release: Option<unsafe extern "C" fn(*mut RawSchema)>,
    private_data: *mut c_void,
}

/// `struct ArrowArray`, as the C Data Interface lays it out.
#[repr(C)]
pub(crate) struct RawArray {
    pub(crate) length: i64,
    pub(crate) null_count: i64,
    pub(crate) offset: i64,
    pub(crate) n_buffers: i64,
    pub(crate) n_children: i64,
    pub(crate) buffers: *const *const c_void,
    pub(crate) children: *mut *mut RawArray,
    pub(crate) dictionary: *mut RawArray,
    pub(crate) release: Option<unsafe extern "C" fn(*mut RawArray)>,
    private_data: *mut c_void,
}

/// The path from the top to a structure, for messages.
#[derive(Clone, Copy)]
pub(crate) enum At<'a> {
    Top(&'static str),
    Child(&'a At<'a>, usize),
    Dictionary(&'a At<'a>),
}

impl At<'_> {
    fn path(&self) -> String {
        match self {
            Self::Top(name) => (*name).to_owned(),
            Self::Child(above, index) => format!("{}.children[{index}]", above.path()),
            Self::Dictionary(above) => format!("{}.dictionary", above.path()),
        }
    }

    fn depth(&self) -> usize {
        match self {
            Self::Top(_) => 0,
            Self::Child(above, _) | Self::Dictionary(above) => 1 + above.depth(),
        }
    }

    #[cold]
    pub(crate) fn error<T>(&self, problem: impl Into<String>) -> Result<T, MemoryError> {
        Err(MemoryError::CData {
            path: self.path(),
            problem: problem.into(),
        })
    }

    fn check_depth(&self) -> Result<(), MemoryError> {
        if self.depth() > MAX_NESTED {
            return self.error(format!("nested more than {MAX_NESTED} deep"));
        }
        Ok(())
    }
}

impl RawSchema {
    /// Checks what can be seen of a schema.
    ///
    /// # Safety
    ///
    /// Pointers that are not null are valid for what the C Data Interface says they point at;
    /// `format`, `name` and `metadata` are as long as they say.
    pub(crate) unsafe fn check(&self, at: &At<'_>) -> Result<(), MemoryError> {
        at.check_depth()?;
        if self.release.is_none() {
            return at.error("the schema was released before");
        }
        if self.format.is_null() {
            return at.error("the format is null");
        }
        // SAFETY: the pointer is not null, so by the caller's promise it leads to a C string.
        let format = unsafe { CStr::from_ptr(self.format) };
        let Ok(format) = format.to_str() else {
            return at.error(format!("the format {format:?} is not UTF-8"));
        };
        if !self.name.is_null() {
            // SAFETY: the pointer is not null, so by the caller's promise it leads to a C string.
            let name = unsafe { CStr::from_ptr(self.name) };
            if name.to_str().is_err() {
                return at.error(format!("the name {name:?} is not UTF-8"));
            }
        }
        // SAFETY: the caller promises that the metadata is as long as it says.
        unsafe { self.check_metadata(at) }?;
        let children = match format {
            "+l" | "+L" | "+vl" | "+vL" | "+m" => Some(1),
            "+r" => Some(2),
            _ if format.starts_with("+w:") => Some(1),
            _ if format.starts_with('+') => None,
            _ => Some(0),
        };
        if let Some(children) = children
            && self.n_children != children
        {
            let found = self.n_children;
            return at.error(format!(
                "format `{format}` has {found} children instead of {children}"
            ));
        }
        // SAFETY: the caller promises as many pointers.
        let pointers = unsafe { slice(at, "children", self.children, self.n_children) }?;
        for (index, &child) in pointers.iter().enumerate() {
            let at = At::Child(at, index);
            // SAFETY: the caller promises that the pointer is valid if it is not null.
            let Some(child) = (unsafe { child.as_ref() }) else {
                return at.error("the schema is null");
            };
            // SAFETY: the caller's promise holds for the children, too.
            unsafe { child.check(&at) }?;
        }
        // SAFETY: the caller promises that the pointer is valid if it is not null.
        if let Some(dictionary) = unsafe { self.dictionary.as_ref() } {
            if !matches!(format, "c" | "C" | "s" | "S" | "i" | "I" | "l" | "L") {
                return at.error(format!("format `{format}` cannot index a dictionary"));
            }
            // SAFETY: the caller's promise holds for the dictionary, too.
            unsafe { dictionary.check(&At::Dictionary(at)) }?;
        }
        Ok(())
    }

    /// Checks the lengths in the metadata.
    ///
    /// # Safety
    ///
    /// The metadata, if not null, are as long as the lengths in them say.
    unsafe fn check_metadata(&self, at: &At<'_>) -> Result<(), MemoryError> {
        let Some(mut next) = NonNull::new(self.metadata.cast_mut().cast::<u8>()) else {
            return Ok(());
        };
        let mut length = |what: &str, skip: i32| {
            // SAFETY: the caller promises as many bytes as the lengths read so far say.
            next = unsafe { next.add(skip as usize) };
            // SAFETY: the next number is there, by the caller's promise; the read needs no alignment.
            let length = unsafe { next.cast::<i32>().read_unaligned() };
            if length < 0 {
                return at.error(format!("{what} of the metadata is {length}"));
            }
            // SAFETY: the number that was read takes these four bytes.
            next = unsafe { next.add(4) };
            Ok(length)
        };
        let pairs = length("the number", 0)?;
        let mut skip = 0;
        for _ in 0..pairs {
            skip = length("the length of a key", skip)?;
            skip = length("the length of a value", skip)?;
        }
        Ok(())
    }
}

impl RawArray {
    /// Checks the numbers that have the same meaning for all types. Returns the rows.
    pub(crate) fn check_numbers(&self, at: &At<'_>) -> Result<Rows, MemoryError> {
        at.check_depth()?;
        if self.release.is_none() {
            return at.error("the array was released before");
        }
        let (Ok(length), Ok(offset)) = (usize::try_from(self.length), usize::try_from(self.offset))
        else {
            let (length, offset) = (self.length, self.offset);
            return at.error(format!("length {length}, offset {offset}"));
        };
        let Some(end) = length.checked_add(offset).filter(|&end| end < MAX_ROWS) else {
            return at.error(format!("length {length} and offset {offset} are too large"));
        };
        if self.null_count < -1 || self.null_count > self.length {
            let nulls = self.null_count;
            return at.error(format!("{nulls} nulls in {length} rows"));
        }
        Ok(Rows { offset, end })
    }

    /// The pointers of the buffers, if there are `expected` of them.
    ///
    /// # Safety
    ///
    /// `buffers`, if not null, points to as many pointers as `n_buffers` says.
    pub(crate) unsafe fn buffers(
        &self,
        at: &At<'_>,
        expected: std::ops::RangeInclusive<i64>,
    ) -> Result<&[*const c_void], MemoryError> {
        if !expected.contains(&self.n_buffers) {
            let (found, least) = (self.n_buffers, expected.start());
            return at.error(format!("{found} buffers instead of {least}"));
        }
        // SAFETY: the caller promises as many pointers.
        unsafe { slice(at, "buffers", self.buffers, self.n_buffers) }
    }

    /// The children, if there are `expected` of them.
    ///
    /// # Safety
    ///
    /// `children` and what it points at, if not null, are as the C Data Interface says.
    pub(crate) unsafe fn children(
        &self,
        at: &At<'_>,
        expected: usize,
    ) -> Result<Vec<&RawArray>, MemoryError> {
        if usize::try_from(self.n_children) != Ok(expected) {
            let found = self.n_children;
            return at.error(format!("{found} children instead of {expected}"));
        }
        // SAFETY: the caller promises as many pointers.
        let pointers = unsafe { slice(at, "children", self.children, self.n_children) }?;
        let mut children = Vec::with_capacity(expected);
        for (index, &child) in pointers.iter().enumerate() {
            // SAFETY: the caller promises that the pointer is valid if it is not null.
            let Some(child) = (unsafe { child.as_ref() }) else {
                return At::Child(at, index).error("the array is null");
            };
            children.push(child);
        }
        Ok(children)
    }

    /// The dictionary, if there is one.
    ///
    /// # Safety
    ///
    /// `dictionary` is valid or null.
    pub(crate) unsafe fn dictionary(&self) -> Option<&RawArray> {
        // SAFETY: the caller promises that the pointer is valid or null.
        unsafe { self.dictionary.as_ref() }
    }
}

/// The rows of its buffers that an array shows: from `offset` up to `end`.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    pub(crate) offset: usize,
    pub(crate) end: usize,
}

/// The `count` items at `pointer`. Refuses counts and pointers that cannot be right.
///
/// # Safety
///
/// `pointer`, if not null, points to `count` items, if that is not negative.
unsafe fn slice<'a, T>(
    at: &At<'_>,
    what: &str,
    pointer: *const T,
    count: i64,
) -> Result<&'a [T], MemoryError> {
    let Ok(len) = usize::try_from(count) else {
        return at.error(format!("{count} {what}"));
    };
    if len == 0 {
        return Ok(&[]);
    }
    if len > MAX_ITEMS {
        return at.error(format!("{count} {what} are too many"));
    }
    if pointer.is_null() {
        return at.error(format!("the pointer to {count} {what} is null"));
    }
    if !pointer.is_aligned() {
        return at.error(format!("the pointer to the {what} is not aligned"));
    }
    // SAFETY: the pointer is not null and is aligned, and the caller promises as many items.
    Ok(unsafe { std::slice::from_raw_parts(pointer, len) })
}

/// The maximum of levels of children and dictionaries: more than any producer makes, and few enough for the
/// recursion.
const MAX_NESTED: usize = 64;

/// A number that is greater than that of the children of any struct.
const MAX_ITEMS: usize = 1 << 24;

/// This many rows of 32 bytes fill the address space.
const MAX_ROWS: usize = 1 << 57;
