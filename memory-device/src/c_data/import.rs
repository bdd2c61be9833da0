//! Importing arrays: checking C structures, and charging for their buffers as foreign memory.
#![expect(unsafe_code, reason = "reads C structures and wraps what they lead to")]

use std::ffi::c_void;
use std::mem;
use std::ptr::NonNull;
use std::sync::Arc;

use super::array::{DeviceArray, Rows};
use super::error::{At, CDataError, unreadable};
use super::export::Exported;
use super::format::{Layout, Part};
use super::pointers::{MAX_ITEMS, checked, slice};
use super::raw::{ArrowArray, ArrowDeviceArray};
use super::schema::DeviceSchema;
use super::sync;
use crate::allocator::DeviceAllocator;
use crate::buf::DeviceBuf;
use crate::device::{DeviceAddress, DeviceKind};
use crate::error::DeviceError;
use crate::event::Event;

impl DeviceArray {
    /// Imports an array over the C Device Data Interface. Its buffers are charged to `allocator` as foreign memory, at their
    /// sizes, which follow from the type and the rows. Nothing is copied.
    ///
    /// The structure is released exactly once: when the last buffer was dropped, or here if the array is refused, or has no
    /// buffers that are charged here. That waits for the structure's event, unless this program exported it, or the array is
    /// refused for its device or its event, which is not understood then. A buffer that this program exported from the same tree is recognised, and shared instead of charged again.
    ///
    /// The buffers are [ready](DeviceBuf::ready) after the structure's event. Strings and binaries need their last offset
    /// to tell the size of their data: for each of them this waits for the event, and copies 4 or 8 bytes from the device.
    /// Other values are not read, and so not validated.
    ///
    /// # Errors
    ///
    /// * [`CDataError::Malformed`] if the structure cannot be right: released before, negative or overflowing numbers, null
    ///   pointers, wrong counts, children that are too short, levels nested more than 64 deep, an event of a kind that is
    ///   not known here.
    /// * [`CDataError::UnknownDevice`] or [`CDataError::WrongDevice`] if it is not on the allocator's device.
    /// * [`CDataError::Device`] if the allocator refuses the bytes, the device fails, or it is the CPU and its manager does not
    ///   see memory of the host at its address. Nothing stays charged.
    ///
    /// # Safety
    ///
    /// The structure fulfils the C Device Data Interface where that cannot be checked. Pointers that are not null lead to what
    /// it says they lead to: structures and the lengths of variadic buffers to memory of the CPU, buffers to memory of the
    /// device with as many bytes as lengths and offsets state, all of them initialised if the CPU may read them, padding and
    /// values of null rows included. The allocator's manager can copy from there. Nothing writes the
    /// buffers after the event and before the release. The release may be called on any thread.
    #[track_caller]
    #[doc(alias("ImportDeviceArray", "ImportDeviceRecordBatch"))]
    pub unsafe fn import(
        array: ArrowDeviceArray,
        schema: impl Into<Arc<DeviceSchema>>,
        allocator: &DeviceAllocator,
    ) -> Result<Self, CDataError> {
        let at = At::Top("array");
        if array.is_released() {
            return at.error("the array was released before");
        }
        let Some(found) = array.device() else {
            let (kind, id) = (array.device_type, array.device_id);
            return Err(CDataError::UnknownDevice { kind, id });
        };
        let expected = allocator.device();
        // The CPU has no number: producers write -1, 0 or what they like.
        if found != expected
            && (found.kind(), expected.kind()) != (DeviceKind::Cpu, DeviceKind::Cpu)
        {
            return Err(CDataError::WrongDevice { expected, found });
        }
        // SAFETY: the caller promises a structure as its producer made it.
        let (ready, writing) = match unsafe { Exported::of(&array.array) } {
            // Also if it is done: its work may have failed. The blocks of our own buffers wait for it themselves.
            Some(exported) => (exported.event().cloned(), None),
            None => {
                // SAFETY: the caller promises that the event is of the device's type, and alive until the release.
                let event = unsafe { sync::import(array.sync_event, allocator.manager(), &at) }?;
                (event.clone(), event)
            }
        };
        let source = Source {
            owner: Arc::new(Owner { array, writing }),
            ready,
            allocator,
        };
        // SAFETY: the caller's promise.
        unsafe { source.import(&source.owner.array.array, &schema.into(), &at) }
    }
}

/// A structure, which is released once nobody holds it and nothing writes its buffers.
struct Owner {
    array: ArrowDeviceArray,
    /// The work of others that writes the buffers.
    writing: Option<Event>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        let writing = self.writing.as_ref();
        if writing.is_some_and(|event| event.outcome_in_drop().is_none()) {
            // The work may go on, and write what the release would free.
            mem::forget(mem::replace(&mut self.array, ArrowDeviceArray::empty()));
        }
    }
}

/// A structure that is imported.
struct Source<'a> {
    /// Each foreign buffer holds a clone, and the last one releases the structure.
    owner: Arc<Owner>,
    ready: Option<Event>,
    allocator: &'a DeviceAllocator,
}

impl Source<'_> {
    /// Imports one level, and those below it.
    ///
    /// # Safety
    ///
    /// The same as for [`DeviceArray::import`]; `array` is a level of the owner's structure.
    #[track_caller]
    unsafe fn import(
        &self,
        array: &ArrowArray,
        schema: &Arc<DeviceSchema>,
        at: &At<'_>,
    ) -> Result<DeviceArray, CDataError> {
        at.check_depth()?;
        if array.is_released() {
            return at.error("the array was released before");
        }
        let numbers = Numbers::of(array, at)?;
        // SAFETY: the caller's promise.
        let buffers = unsafe { self.buffers(array, schema, numbers, at) }?;
        // SAFETY: the caller's promise.
        let children = unsafe { self.children(array, schema, at) }?;
        let mut builder = DeviceArray::builder(Arc::clone(schema), self.allocator.device())
            .length(numbers.length)
            .offset(numbers.offset)
            .null_count(numbers.null_count)
            .buffers(buffers)
            .children(children);
        // SAFETY: the caller promises that the dictionary is valid or null.
        let dictionary = unsafe { checked(at, array.dictionary.cast_const()) }?;
        match (dictionary, schema.dictionary()) {
            (Some(values), Some(schema)) => {
                // SAFETY: the caller's promise holds for the dictionary, too.
                let values = unsafe { self.import(values, schema, &At::Dictionary(at)) }?;
                builder = builder.dictionary(values);
            }
            (Some(_), None) => return at.error("a dictionary, but the type has none"),
            (None, Some(_)) => return at.error("the dictionary is null"),
            (None, None) => {}
        }
        builder.build_at(at)
    }

    /// Imports the children, if there are as many as the type has.
    ///
    /// # Safety
    ///
    /// The same as for [`import`](Self::import).
    #[track_caller]
    unsafe fn children(
        &self,
        array: &ArrowArray,
        schema: &DeviceSchema,
        at: &At<'_>,
    ) -> Result<Vec<DeviceArray>, CDataError> {
        let expected = schema.children().len();
        if usize::try_from(array.n_children) != Ok(expected) {
            let found = array.n_children;
            return at.error(format!("{found} children instead of {expected}"));
        }
        // SAFETY: the caller promises as many pointers.
        let pointers = unsafe { slice(at, "children", array.children, array.n_children) }?;
        let mut children = Vec::with_capacity(expected);
        for (index, (&child, schema)) in pointers.iter().zip(schema.children()).enumerate() {
            let at = At::Child(at, index);
            // SAFETY: the caller promises that the pointer is valid if it is not null.
            let Some(child) = (unsafe { checked(&at, child.cast_const()) })? else {
                return at.error("the array is null");
            };
            // SAFETY: the caller's promise holds for the children, too.
            children.push(unsafe { self.import(child, schema, &at) }?);
        }
        Ok(children)
    }

    /// Wraps the buffers of one level.
    ///
    /// # Safety
    ///
    /// The same as for [`import`](Self::import).
    #[track_caller]
    unsafe fn buffers(
        &self,
        array: &ArrowArray,
        schema: &DeviceSchema,
        numbers: Numbers,
        at: &At<'_>,
    ) -> Result<Vec<Option<DeviceBuf>>, CDataError> {
        let layout = schema.layout(at)?;
        // SAFETY: the caller promises as many pointers.
        let pointers = unsafe { pointers(array, &layout, at) }?;
        // SAFETY: the caller promises a structure as its producer made it.
        let exported = unsafe { Exported::of(array) };
        let mut wrapped: Vec<Option<DeviceBuf>> = Vec::with_capacity(pointers.len());
        for (index, part) in layout.fixed().enumerate() {
            let needed = match (part, index.checked_sub(1).map(|index| layout.parts[index])) {
                (Part::Bytes, Some(Part::Offsets(width))) => {
                    let offsets = wrapped.last().and_then(Option::as_ref);
                    last_offset(offsets, width, numbers.rows.end, at)?
                }
                _ => numbers.rows.needed(part, at)?,
            };
            let known = exported.and_then(|exported| exported.buffer(index));
            let address = pointers[index];
            if address.is_null() {
                let nulls = numbers.null_count.unwrap_or(0);
                if needed > 0 && (part != Part::Validity || nulls > 0) {
                    return at.error(format!(
                        "the pointer to {needed} bytes of buffer {index} is null"
                    ));
                }
                wrapped.push(None);
                continue;
            }
            wrapped.push(self.wrap(address, needed, known, at)?);
        }
        if layout.is_variadic() {
            let fixed = wrapped.len();
            // SAFETY: the caller promises that the last pointer leads to the lengths of those after the fixed ones.
            let lengths = unsafe { lengths(&pointers[fixed..], at) }?;
            for (index, (&length, &address)) in lengths.iter().zip(&pointers[fixed..]).enumerate() {
                let known = exported.and_then(|exported| exported.buffer(fixed + index));
                wrapped.push(self.wrap(address, length, known, at)?);
            }
        }
        Ok(wrapped)
    }

    /// Charges for one buffer, or shares it if it is charged in this tree already. No buffer for no bytes.
    #[track_caller]
    fn wrap(
        &self,
        address: *const c_void,
        bytes: usize,
        known: Option<&DeviceBuf>,
        at: &At<'_>,
    ) -> Result<Option<DeviceBuf>, CDataError> {
        let number = address.expose_provenance() as u64;
        let Some(start) = DeviceAddress::new(number).filter(|_| bytes > 0) else {
            return Ok(None);
        };
        if start.checked_add(bytes).is_none() {
            return at.error(format!("{bytes} bytes at {number:#x} are too many"));
        }
        if let Some(known) = known
            && known.address() == number
            && known.len() >= bytes
            && known.allocator().accounting().root_allocator()
                == self.allocator.accounting().root_allocator()
        {
            let shared = known.retain_in(self.allocator);
            return Ok(Some(shared.map_err(DeviceError::from)?));
        }
        // The CPU as a device is one that reads at the addresses of the structure.
        if self.allocator.device().is_cpu() {
            let host = NonNull::new(address.cast_mut().cast());
            let seen = host.and_then(|host| self.allocator.manager().view_of_cpu(host, bytes));
            if seen != Some(start) {
                return Err(unreadable(&**self.allocator.manager()).into());
            }
        }
        let owner = Arc::clone(&self.owner);
        // SAFETY: the caller of `DeviceArray::import` promises memory of the device with as many bytes, which nothing
        // writes between the event and the release of the owner.
        let wrapped = unsafe {
            self.allocator
                .wrap_foreign(start, bytes, self.ready.clone(), move || drop(owner))
        };
        Ok(Some(wrapped?))
    }
}

/// The numbers of a structure, checked.
#[derive(Clone, Copy)]
struct Numbers {
    length: usize,
    offset: usize,
    null_count: Option<usize>,
    rows: Rows,
}

impl Numbers {
    fn of(array: &ArrowArray, at: &At<'_>) -> Result<Self, CDataError> {
        let (length, offset) = (array.length, array.offset);
        let (Ok(length), Ok(offset)) = (usize::try_from(length), usize::try_from(offset)) else {
            return at.error(format!("length {length}, offset {offset}"));
        };
        let null_count = match array.null_count {
            -1 => None,
            nulls => match usize::try_from(nulls) {
                Ok(nulls) => Some(nulls),
                Err(_) => return at.error(format!("{nulls} nulls in {length} rows")),
            },
        };
        Ok(Self {
            length,
            offset,
            null_count,
            rows: Rows::new(length, offset, null_count, at)?,
        })
    }
}

/// The pointers to the buffers of a structure, if there are as many as the type has.
///
/// # Safety
///
/// `buffers`, if not null, leads to as many pointers as `n_buffers` says.
unsafe fn pointers<'a>(
    array: &'a ArrowArray,
    layout: &Layout,
    at: &At<'_>,
) -> Result<&'a [*const c_void], CDataError> {
    let fixed = layout
        .parts
        .iter()
        .filter(|part| **part != Part::Variadic)
        .count();
    let expected = match layout.is_variadic() {
        true => fixed..=MAX_ITEMS,
        false => fixed..=fixed,
    };
    if !usize::try_from(array.n_buffers).is_ok_and(|found| expected.contains(&found)) {
        let found = array.n_buffers;
        return at.error(format!("{found} buffers instead of {fixed}"));
    }
    // SAFETY: the caller promises as many pointers.
    unsafe { slice(at, "buffers", array.buffers, array.n_buffers) }
}

/// The offset at `end` of a string or binary array, which is read from the device. `width` is the size of an offset.
pub(super) fn last_offset(
    offsets: Option<&DeviceBuf>,
    width: usize,
    end: usize,
    at: &At<'_>,
) -> Result<usize, CDataError> {
    let Some(offsets) = offsets.filter(|_| end > 0) else {
        return Ok(0); // there are no rows, and there may be no offsets
    };
    let mut bytes = [0; 8];
    // The buffer has an offset more than there are rows.
    let start = end * width;
    offsets
        .slice(start..start + width)
        .copy_to_initialised(&mut bytes[..width])?;
    let last = match width {
        4 => i64::from(i32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])),
        _ => i64::from_ne_bytes(bytes),
    };
    match usize::try_from(last) {
        Ok(last) if last <= isize::MAX as usize / 2 => Ok(last),
        _ => at.error(format!("the last offset is {last}")),
    }
}

/// The lengths of the variadic buffers, which are all of `pointers` but the last one: that leads to the lengths.
///
/// # Safety
///
/// The last pointer, if it is not null, leads to as many lengths as there are other pointers.
unsafe fn lengths(pointers: &[*const c_void], at: &At<'_>) -> Result<Vec<usize>, CDataError> {
    let Some((&last, variadic)) = pointers.split_last() else {
        return at.error("the lengths of the variadic buffers are missing");
    };
    let count = variadic.len() as i64;
    let last = last.cast::<i64>().cast_mut();
    // SAFETY: the caller promises as many lengths.
    let lengths = unsafe { slice(at, "lengths of variadic buffers", last, count) }?;
    let check = |(index, (&length, address)): (usize, (&i64, &*const c_void))| match usize::try_from(
        length,
    ) {
        Ok(length) if length == 0 || (length <= isize::MAX as usize / 2 && !address.is_null()) => {
            Ok(length)
        }
        _ => {
            let is_null = address.is_null();
            at.error(format!(
                "variadic buffer {index} of {length} bytes, null: {is_null}"
            ))
        }
    };
    lengths
        .iter()
        .zip(variadic)
        .enumerate()
        .map(check)
        .collect()
}
