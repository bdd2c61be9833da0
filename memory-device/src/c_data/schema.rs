//! [`DeviceSchema`]: the type of an array, as Rust values.
#![expect(unsafe_code, reason = "reads and makes C structures")]

use std::ffi::{CStr, CString, c_char};
use std::ptr::{NonNull, null, null_mut};
use std::sync::Arc;

use super::error::{At, CDataError};
use super::format::{Children, Layout};
use super::pointers::{Owned, checked, slice};
use super::raw::ArrowSchema;

/// The type of an array: what `struct ArrowSchema` of the C Data Interface says, as Rust values.
///
/// The format is a string of the interface: `i` is an int32, `u` a string, `+s` a struct. A record batch is an array of
/// format `+s`; the schema's metadata are the batch's.
///
/// ```
/// use arrow_memory_device::c_data::DeviceSchema;
///
/// let id = DeviceSchema::new("l", [])?.with_name("id").with_nullable(false);
/// let text = DeviceSchema::new("u", [])?.with_name("text");
/// let batch = DeviceSchema::new("+s", [id, text])?;
///
/// // SAFETY: the structure was made just now.
/// let back = unsafe { DeviceSchema::from_c(&batch.to_c()?) }?;
/// assert_eq!(back, batch);
/// assert!(DeviceSchema::new("no format", []).is_err());
/// # Ok::<(), arrow_memory_device::c_data::CDataError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceSchema {
    format: String,
    name: String,
    metadata: Metadata,
    flags: i64,
    children: Vec<Arc<DeviceSchema>>,
    dictionary: Option<Arc<DeviceSchema>>,
}

impl DeviceSchema {
    /// Creates the type of a format string and its children, without a name, and nullable.
    ///
    /// # Errors
    ///
    /// [`CDataError::Malformed`] if the format is unknown, has another number of children, or is nested more than 64
    /// levels deep.
    pub fn new(
        format: &str,
        children: impl IntoIterator<Item = DeviceSchema>,
    ) -> Result<Self, CDataError> {
        let schema = Self {
            format: format.to_owned(),
            name: String::new(),
            metadata: Vec::new(),
            flags: NULLABLE,
            children: children.into_iter().map(Arc::new).collect(),
            dictionary: None,
        };
        schema.check(&At::Top("schema"))?;
        Ok(schema)
    }

    /// Sets the name. A name with a zero byte cannot be exported.
    #[must_use]
    pub fn with_name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Sets whether values may be null, which is a promise of the producer and not checked.
    #[must_use]
    pub fn with_nullable(mut self, nullable: bool) -> Self {
        self.flags = self.flags & !NULLABLE | if nullable { NULLABLE } else { 0 };
        self
    }

    /// Sets the metadata: keys and values, each of them bytes.
    #[must_use]
    pub fn with_metadata(
        mut self,
        pairs: impl IntoIterator<Item = (impl Into<Vec<u8>>, impl Into<Vec<u8>>)>,
    ) -> Self {
        self.metadata = (pairs.into_iter())
            .map(|(key, value)| (key.into(), value.into()))
            .collect();
        self
    }

    /// Makes this the type of indices into a dictionary of `values`.
    ///
    /// # Errors
    ///
    /// [`CDataError::Malformed`] if the format is no integer, or the values are nested more than 63 levels deep.
    pub fn with_dictionary(mut self, values: DeviceSchema) -> Result<Self, CDataError> {
        self.dictionary = Some(Arc::new(values));
        self.check(&At::Top("schema"))?;
        Ok(self)
    }

    /// Returns the format string.
    pub fn format(&self) -> &str {
        &self.format
    }

    /// Returns the name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns whether values may be null, as the producer says.
    pub fn is_nullable(&self) -> bool {
        self.flags & NULLABLE != 0
    }

    /// Returns the metadata: keys and values.
    pub fn metadata(&self) -> &[(Vec<u8>, Vec<u8>)] {
        &self.metadata
    }

    /// Returns the types of the children.
    pub fn children(&self) -> &[Arc<DeviceSchema>] {
        &self.children
    }

    /// Returns the type of the dictionary's values, if the array has indices into a dictionary.
    pub fn dictionary(&self) -> Option<&Arc<DeviceSchema>> {
        self.dictionary.as_ref()
    }

    /// Returns the buffers and children of arrays of this type.
    pub(super) fn layout(&self, at: &At<'_>) -> Result<Layout, CDataError> {
        Layout::of(&self.format, at)
    }

    /// Checks the format against the children and the dictionary, on all levels.
    fn check(&self, at: &At<'_>) -> Result<(), CDataError> {
        at.check_depth()?;
        let layout = self.layout(at)?;
        let found = self.children.len();
        let expected = match layout.children {
            Children::None => Some(0),
            Children::One | Children::Repeated(_) => Some(1),
            Children::Runs => Some(2),
            Children::Parallel | Children::Any => None,
        };
        if let Some(expected) = expected
            && found != expected
        {
            let format = &self.format;
            return at.error(format!(
                "format `{format}` has {found} children instead of {expected}"
            ));
        }
        for (index, child) in self.children.iter().enumerate() {
            child.check(&At::Child(at, index))?;
        }
        self.check_children(at)?;
        if let Some(dictionary) = &self.dictionary {
            if !layout.is_index {
                let format = &self.format;
                return at.error(format!("format `{format}` cannot index a dictionary"));
            }
            dictionary.check(&At::Dictionary(at))?;
        }
        Ok(())
    }

    /// Checks the types of children of which there are the right number: the entries of a map, the ends of runs.
    fn check_children(&self, at: &At<'_>) -> Result<(), CDataError> {
        let Some(first) = self.children.first() else {
            return Ok(());
        };
        let format = &first.format;
        match self.format.as_str() {
            "+m" if format != "+s" || first.children.len() != 2 => {
                let children = first.children.len();
                at.error(format!("a map of `{format}` with {children} children"))
            }
            "+r" if !matches!(format.as_str(), "s" | "i" | "l") => {
                at.error(format!("runs that end at a `{format}`"))
            }
            _ => Ok(()),
        }
    }

    /// Whether arrays of both types have the same buffers and children: names, metadata and flags are not compared.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let dictionaries = match (&self.dictionary, &other.dictionary) {
            (Some(one), Some(other)) => one.is_like(other),
            (one, other) => one.is_none() && other.is_none(),
        };
        dictionaries
            && self.format == other.format
            && self.children.len() == other.children.len()
            && (self.children.iter().zip(&other.children)).all(|(one, other)| one.is_like(other))
    }

    /// Makes a C structure of this, which owns copies of all strings.
    ///
    /// # Errors
    ///
    /// [`CDataError::Malformed`] if the name has a zero byte, or the metadata do not fit the interface's lengths of 32 bits.
    pub fn to_c(&self) -> Result<ArrowSchema, CDataError> {
        self.export(&At::Top("schema"))
    }

    fn export(&self, at: &At<'_>) -> Result<ArrowSchema, CDataError> {
        let (Ok(format), Ok(name)) = (
            CString::new(self.format.as_str()),
            CString::new(self.name.as_str()),
        ) else {
            return at.error("the name has a zero byte");
        };
        let metadata = encode_metadata(&self.metadata, at)?;
        // From here on an error drops what was exported so far, which releases it.
        let mut children = Vec::with_capacity(self.children.len());
        for (index, child) in self.children.iter().enumerate() {
            children.push(Owned::new(child.export(&At::Child(at, index))?));
        }
        let dictionary = match &self.dictionary {
            Some(values) => Some(Owned::new(values.export(&At::Dictionary(at))?)),
            None => None,
        };
        let pointers = children.iter().map(Owned::as_ptr).collect();
        let mut exported = Box::new(Exported {
            format,
            name,
            metadata,
            pointers,
            _children: children,
            dictionary,
        });
        Ok(ArrowSchema {
            format: exported.format.as_ptr(),
            name: exported.name.as_ptr(),
            metadata: match exported.metadata.as_slice() {
                [] => null(),
                bytes => bytes.as_ptr().cast(),
            },
            flags: self.flags,
            // No more than `isize::MAX / 8`.
            n_children: exported.pointers.len() as i64,
            children: match exported.pointers.as_mut_slice() {
                [] => null_mut(),
                pointers => pointers.as_mut_ptr(),
            },
            dictionary: exported
                .dictionary
                .as_ref()
                .map_or(null_mut(), Owned::as_ptr),
            release: Some(release_schema),
            private_data: Box::into_raw(exported).cast(),
        })
    }

    /// Reads a C structure, and copies what it says. The structure is not released.
    ///
    /// # Errors
    ///
    /// [`CDataError::Malformed`] if the structure cannot be right: it was released, pointers are null or not aligned,
    /// counts are negative, strings are not UTF-8, the format is unknown or has other children, levels are nested more
    /// than 64 deep, there are more than 1,048,576 of them in all, or names, formats and metadata have more than 256 MiB in all.
    /// A structure that several pointers lead to counts for each of them.
    ///
    /// # Safety
    ///
    /// Pointers that are not null lead to what the C Data Interface says; `format` and `name` end with a zero, and
    /// `metadata` is as long as the lengths in it say.
    pub unsafe fn from_c(schema: &ArrowSchema) -> Result<Self, CDataError> {
        // SAFETY: the caller's promise.
        let read = unsafe { Self::read(schema, &At::Top("schema"), &mut Left::new()) }?;
        read.check(&At::Top("schema"))?;
        Ok(read)
    }

    /// Reads one level, and those below it, as far as what is `left` allows.
    ///
    /// # Safety
    ///
    /// The same as for [`from_c`](Self::from_c).
    unsafe fn read(schema: &ArrowSchema, at: &At<'_>, left: &mut Left) -> Result<Self, CDataError> {
        at.check_depth()?;
        left.take_node(at)?;
        if schema.is_released() {
            return at.error("the schema was released before");
        }
        if schema.format.is_null() {
            return at.error("the format is null");
        }
        // SAFETY: the pointer is not null, and the caller promises a C string.
        let format = unsafe { text(schema.format, "format", at, left) }?;
        let name = match schema.name.is_null() {
            true => String::new(),
            // SAFETY: the pointer is not null, and the caller promises a C string.
            false => unsafe { text(schema.name, "name", at, left) }?,
        };
        // SAFETY: the caller promises that the metadata is as long as it says.
        let metadata = unsafe { decode_metadata(schema.metadata, at, left) }?;
        // SAFETY: the caller promises as many pointers.
        let pointers = unsafe { slice(at, "children", schema.children, schema.n_children) }?;
        left.check_nodes(pointers.len(), at)?;
        let mut children = Vec::with_capacity(pointers.len());
        for (index, &child) in pointers.iter().enumerate() {
            let at = At::Child(at, index);
            // SAFETY: the caller promises that the pointer is valid if it is not null.
            let Some(child) = (unsafe { checked(&at, child.cast_const()) })? else {
                return at.error("the schema is null");
            };
            // SAFETY: the caller's promise holds for the children, too.
            children.push(Arc::new(unsafe { Self::read(child, &at, left) }?));
        }
        // SAFETY: the caller promises that the pointer is valid if it is not null.
        let dictionary = match unsafe { checked(at, schema.dictionary.cast_const()) }? {
            // SAFETY: the caller's promise holds for the dictionary, too.
            Some(values) => Some(Arc::new(unsafe {
                Self::read(values, &At::Dictionary(at), left)
            }?)),
            None => None,
        };
        Ok(Self {
            format,
            name,
            metadata,
            flags: schema.flags,
            children,
            dictionary,
        })
    }
}

/// What a schema that is read may still have.
struct Left {
    nodes: usize,
    bytes: usize,
}

impl Left {
    fn new() -> Self {
        Self {
            nodes: MAX_NODES,
            bytes: MAX_BYTES,
        }
    }

    /// Refuses more structures than are left.
    fn check_nodes(&self, nodes: usize, at: &At<'_>) -> Result<(), CDataError> {
        match nodes <= self.nodes {
            true => Ok(()),
            false => at.error(format!("more than {MAX_NODES} types in one")),
        }
    }

    fn take_node(&mut self, at: &At<'_>) -> Result<(), CDataError> {
        self.check_nodes(1, at)?;
        self.nodes -= 1;
        Ok(())
    }

    /// Takes the bytes of a string or of metadata, before they are copied.
    fn take_bytes(&mut self, bytes: usize, at: &At<'_>) -> Result<(), CDataError> {
        match self.bytes.checked_sub(bytes) {
            Some(fewer) => {
                self.bytes = fewer;
                Ok(())
            }
            None => at.error(format!("more than {MAX_BYTES} bytes of text in one type")),
        }
    }
}

/// What an exported schema owns until it is released. The C structure points into it.
struct Exported {
    format: CString,
    name: CString,
    metadata: Vec<u8>,
    pointers: Vec<*mut ArrowSchema>,
    /// What `pointers` leads to. A consumer may move a child out, which then counts as released.
    _children: Vec<Owned<ArrowSchema>>,
    dictionary: Option<Owned<ArrowSchema>>,
}

/// Releases a schema that `export` made.
unsafe extern "C" fn release_schema(schema: *mut ArrowSchema) {
    // SAFETY: the interface calls this with a valid structure that was not released.
    let schema = unsafe { &mut *schema };
    schema.release = None;
    let exported = schema.private_data.cast::<Exported>();
    schema.private_data = null_mut();
    // SAFETY: `export` made the box, and the structure is released once.
    drop(unsafe { Box::from_raw(exported) });
}

/// Reads a C string.
///
/// # Safety
///
/// `text` leads to a C string.
unsafe fn text(
    text: *const c_char,
    what: &str,
    at: &At<'_>,
    left: &mut Left,
) -> Result<String, CDataError> {
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(text) };
    left.take_bytes(text.count_bytes(), at)?;
    match text.to_str() {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => at.error(format!("the {what} {text:?} is not UTF-8")),
    }
}

/// Reads metadata: a count, then for each pair a length and the key, a length and the value. No metadata are a null pointer.
///
/// # Safety
///
/// The bytes at `start`, if that is not null, are as long as the lengths in them say.
unsafe fn decode_metadata(
    start: *const c_char,
    at: &At<'_>,
    left: &mut Left,
) -> Result<Metadata, CDataError> {
    let Some(mut next) = NonNull::new(start.cast_mut().cast::<u8>()) else {
        return Ok(Vec::new());
    };
    let length = |next: &mut NonNull<u8>, what: &str| {
        // SAFETY: the next number is there, by the caller's promise; the read needs no alignment.
        let length = unsafe { next.cast::<i32>().read_unaligned() };
        // SAFETY: the number that was read takes these four bytes.
        *next = unsafe { next.add(4) };
        match usize::try_from(length) {
            Ok(length) => Ok(length),
            Err(_) => at.error(format!("{what} of the metadata is {length}")),
        }
    };
    let mut bytes = |next: &mut NonNull<u8>, what: &str| {
        let length = length(next, what)?;
        // With the vector of its own that the copy has.
        left.take_bytes(length.saturating_add(size_of::<Vec<u8>>()), at)?;
        // SAFETY: the caller promises as many bytes as the length says.
        let bytes = unsafe { std::slice::from_raw_parts(next.as_ptr(), length) }.to_vec();
        // SAFETY: these bytes were there.
        *next = unsafe { next.add(length) };
        Ok::<_, CDataError>(bytes)
    };
    let pairs = length(&mut next, "the number")?;
    let mut metadata = Vec::new();
    for _ in 0..pairs {
        let key = bytes(&mut next, "the length of a key")?;
        metadata.push((key, bytes(&mut next, "the length of a value")?));
    }
    Ok(metadata)
}

/// Writes metadata as the interface wants them; nothing at all if there are none.
fn encode_metadata(metadata: &[(Vec<u8>, Vec<u8>)], at: &At<'_>) -> Result<Vec<u8>, CDataError> {
    if metadata.is_empty() {
        return Ok(Vec::new());
    }
    let mut encoded = Vec::new();
    let number = |encoded: &mut Vec<u8>, number: usize| match i32::try_from(number) {
        Ok(number) => {
            encoded.extend(number.to_ne_bytes());
            Ok(())
        }
        Err(_) => at.error(format!("metadata of {number} bytes are too long")),
    };
    number(&mut encoded, metadata.len())?;
    for bytes in metadata.iter().flat_map(|(key, value)| [key, value]) {
        number(&mut encoded, bytes.len())?;
        encoded.extend(bytes);
    }
    Ok(encoded)
}

/// Keys and values.
type Metadata = Vec<(Vec<u8>, Vec<u8>)>;

/// The maximum of structures in a schema: more than any producer makes. Without one, a few structures whose children are the
/// same ones would be read more often than any program can.
const MAX_NODES: usize = 1 << 20;

/// The maximum of bytes that all names, formats and metadata of a schema have together, with 24 bytes more for each key and
/// each value. Structures that several pointers lead to count for each of them, as above.
const MAX_BYTES: usize = 1 << 28;

/// `ARROW_FLAG_NULLABLE`.
const NULLABLE: i64 = 2;
