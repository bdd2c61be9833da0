//! [`DeviceArray`]: an array whose buffers are on a device.

use std::sync::Arc;

use super::error::{At, CDataError};
use super::format::{Children, Layout, Part};
use super::schema::DeviceSchema;
use crate::allocator::DeviceAllocator;
use crate::any::AnyBuffer;
use crate::buf::DeviceBuf;
use crate::device::Device;
use crate::error::DeviceError;
use crate::event::Event;

/// An array, or a record batch, whose buffers are on one device: the numbers and types are here, the values are there.
///
/// The buffers are in the order of the C Data Interface for the format: the validity bits first, where the format has them.
/// An array of views (`vu`, `vz`) has its data buffers after the views; their lengths are not a buffer here. The builder
/// checks that the buffers are long enough for the rows. It reads no value: offsets, indices and run ends may still be wrong,
/// and who computes with them has to trust the producer.
///
/// A clone shares all buffers.
///
/// ```
/// use arrow_memory_device::c_data::{DeviceArray, DeviceSchema};
/// use arrow_memory_device::{DeviceRoot, SimDevice};
///
/// let root = DeviceRoot::builder().manager(SimDevice::new()).build()?;
/// let values = root.allocate(12)?.freeze();
/// let ids = DeviceArray::builder(DeviceSchema::new("i", [])?, root.device())
///     .length(3)
///     .null_count(0)
///     .buffers([None, Some(values.clone())])
///     .build()?;
/// assert_eq!((ids.len(), ids.device()), (3, root.device()));
///
/// let short = DeviceArray::builder(DeviceSchema::new("l", [])?, root.device())
///     .length(3)
///     .buffers([None, Some(values)])
///     .build();
/// assert!(short.unwrap_err().to_string().contains("12 bytes instead of 24"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct DeviceArray {
    schema: Arc<DeviceSchema>,
    device: Device,
    length: usize,
    offset: usize,
    null_count: Option<usize>,
    buffers: Vec<Option<DeviceBuf>>,
    children: Vec<DeviceArray>,
    dictionary: Option<Box<DeviceArray>>,
}

impl DeviceArray {
    /// Starts an array of a type, on a device: of no rows, with an unknown number of nulls, and without buffers.
    pub fn builder(schema: impl Into<Arc<DeviceSchema>>, device: Device) -> DeviceArrayBuilder {
        DeviceArrayBuilder {
            array: DeviceArray {
                schema: schema.into(),
                device,
                length: 0,
                offset: 0,
                null_count: None,
                buffers: Vec::new(),
                children: Vec::new(),
                dictionary: None,
            },
        }
    }

    /// Returns the type.
    pub fn schema(&self) -> &Arc<DeviceSchema> {
        &self.schema
    }

    /// Returns the device that all buffers are on, also those of children and dictionaries.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Returns the number of rows.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Returns whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Returns the row of the buffers that is the first one of the array.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Returns the number of nulls, if the producer said so.
    pub fn null_count(&self) -> Option<usize> {
        self.null_count
    }

    /// Returns the buffers, in the order of the C Data Interface. `None` stands for a missing one: validity bits of an array
    /// without nulls, or a buffer that no row needs.
    pub fn buffers(&self) -> &[Option<DeviceBuf>] {
        &self.buffers
    }

    /// Returns the children: the columns of a batch, the values of a list.
    pub fn children(&self) -> &[DeviceArray] {
        &self.children
    }

    /// Returns the values that this array's integers are indices of, if it has a dictionary.
    pub fn dictionary(&self) -> Option<&DeviceArray> {
        self.dictionary.as_deref()
    }

    /// Returns the same array with some of its rows, without a copy. The number of nulls becomes unknown, unless it is 0.
    ///
    /// # Panics
    ///
    /// If `offset + length` is more than the number of rows.
    #[must_use]
    pub fn slice(&self, offset: usize, length: usize) -> Self {
        assert!(
            offset
                .checked_add(length)
                .is_some_and(|end| end <= self.length),
            "{length} rows from row {offset} of an array of {}",
            self.length
        );
        let mut slice = self.clone();
        slice.offset += offset;
        slice.length = length;
        slice.null_count = self.null_count.filter(|&nulls| nulls == 0);
        slice
    }

    /// Waits until what writes the buffers is done, on all levels.
    ///
    /// # Errors
    ///
    /// [`DeviceError`] if the work on the device failed.
    pub fn synchronize(&self) -> Result<(), DeviceError> {
        self.events().iter().try_for_each(Event::wait)
    }

    /// Copies all buffers to `target`, which is charged for them, as [`AnyBuffer::copy_to`] does for one.
    ///
    /// # Errors
    ///
    /// [`DeviceError`] if `target` refuses the bytes, or a device failed. Nothing stays charged then.
    pub fn copy_to(&self, target: &DeviceAllocator) -> Result<Self, DeviceError> {
        self.map(target.device(), &mut |buffer| buffer.copy_to(target))
    }

    /// Gets the array to `target`: buffers that can be seen from there are viewed or shared, the others copied, as
    /// [`AnyBuffer::view_or_copy`] does for one.
    ///
    /// # Errors
    ///
    /// [`DeviceError`] if `target` refuses the bytes, or a device failed. Nothing stays charged then.
    pub fn view_or_copy(&self, target: &DeviceAllocator) -> Result<Self, DeviceError> {
        self.map(target.device(), &mut |buffer| buffer.view_or_copy(target))
    }

    /// The same array with other buffers, on another device.
    fn map(
        &self,
        device: Device,
        copy: &mut impl FnMut(&DeviceBuf) -> Result<DeviceBuf, DeviceError>,
    ) -> Result<Self, DeviceError> {
        let buffers = (self.buffers.iter())
            .map(|buffer| buffer.as_ref().map(&mut *copy).transpose())
            .collect::<Result<_, _>>()?;
        let children = (self.children.iter())
            .map(|child| child.map(device, copy))
            .collect::<Result<_, _>>()?;
        let dictionary = match &self.dictionary {
            Some(values) => Some(Box::new(values.map(device, copy)?)),
            None => None,
        };
        Ok(Self {
            schema: Arc::clone(&self.schema),
            device,
            buffers,
            children,
            dictionary,
            ..*self
        })
    }

    /// What may be replaced by the same values elsewhere.
    #[cfg(feature = "arrow")]
    pub(super) fn levels(&mut self) -> Levels<'_> {
        Levels {
            buffers: &mut self.buffers,
            children: &mut self.children,
            dictionary: self.dictionary.as_deref_mut(),
        }
    }

    /// The events of the work that wrote the buffers, on all levels: it may be unfinished, or have failed.
    pub(super) fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        self.collect_events(&mut events);
        events
    }

    fn collect_events(&self, events: &mut Vec<Event>) {
        let own = self.buffers.iter().flatten().filter_map(DeviceBuf::written);
        events.extend(own.flat_map(Event::parts).cloned());
        for below in self.children.iter().chain(self.dictionary.as_deref()) {
            below.collect_events(events);
        }
    }
}

/// The buffers of an array, and the levels below it.
#[cfg(feature = "arrow")]
pub(super) struct Levels<'a> {
    pub(super) buffers: &'a mut [Option<DeviceBuf>],
    pub(super) children: &'a mut [DeviceArray],
    pub(super) dictionary: Option<&'a mut DeviceArray>,
}

/// Sets up a [`DeviceArray`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct DeviceArrayBuilder {
    array: DeviceArray,
}

impl DeviceArrayBuilder {
    /// Sets the number of rows; 0 by default.
    pub fn length(mut self, length: usize) -> Self {
        self.array.length = length;
        self
    }

    /// Sets the row of the buffers that is the array's first one; 0 by default.
    pub fn offset(mut self, offset: usize) -> Self {
        self.array.offset = offset;
        self
    }

    /// Sets the number of nulls, which is unknown by default.
    pub fn null_count(mut self, nulls: impl Into<Option<usize>>) -> Self {
        self.array.null_count = nulls.into();
        self
    }

    /// Sets the buffers, in the order of the C Data Interface.
    pub fn buffers(mut self, buffers: impl IntoIterator<Item = Option<DeviceBuf>>) -> Self {
        self.array.buffers = buffers.into_iter().collect();
        self
    }

    /// Sets the children.
    pub fn children(mut self, children: impl IntoIterator<Item = DeviceArray>) -> Self {
        self.array.children = children.into_iter().collect();
        self
    }

    /// Sets the values that the array's integers are indices of.
    pub fn dictionary(mut self, values: DeviceArray) -> Self {
        self.array.dictionary = Some(Box::new(values));
        self
    }

    /// Checks the array, and creates it. Costs a walk over its levels; no value is read.
    ///
    /// # Errors
    ///
    /// * [`CDataError::Malformed`] if the buffers, the children or the dictionary are not those of the type, are too short
    ///   for the rows, or if there are more nulls than rows.
    /// * [`CDataError::WrongDevice`] if a buffer, a child or the dictionary is on another device.
    pub fn build(self) -> Result<DeviceArray, CDataError> {
        self.build_at(&At::Top("array"))
    }

    /// Does what [`build`](Self::build) does, for an array at some place of a structure.
    pub(super) fn build_at(self, at: &At<'_>) -> Result<DeviceArray, CDataError> {
        let array = self.array;
        let layout = array.schema.layout(at)?;
        let rows = Rows::new(array.length, array.offset, array.null_count, at)?;
        let devices = (array.buffers.iter().flatten().map(DeviceBuf::device))
            .chain(array.children.iter().map(DeviceArray::device))
            .chain(array.dictionary().map(DeviceArray::device));
        check_devices(array.device, devices)?;
        check_buffers(&array, &layout, rows, at)?;
        check_children(&array, &layout, rows, at)?;
        match (array.dictionary(), array.schema.dictionary()) {
            (Some(values), Some(schema)) if !values.schema.is_like(schema) => {
                At::Dictionary(at).error("the values are of another type than the schema says")
            }
            (Some(_), None) => at.error("a dictionary, but the type has none"),
            (None, Some(_)) => at.error("the dictionary is missing"),
            _ => Ok(()),
        }?;
        Ok(array)
    }
}

fn check_devices(
    expected: Device,
    mut devices: impl Iterator<Item = Device>,
) -> Result<(), CDataError> {
    match devices.find(|&device| device != expected) {
        Some(found) => Err(CDataError::WrongDevice { expected, found }),
        None => Ok(()),
    }
}

/// Checks the number of buffers, and those sizes that follow from the rows.
fn check_buffers(
    array: &DeviceArray,
    layout: &Layout,
    rows: Rows,
    at: &At<'_>,
) -> Result<(), CDataError> {
    let (found, expected) = (array.buffers.len(), layout.fixed().count());
    if found < expected || (found > expected && !layout.is_variadic()) {
        return at.error(format!("{found} buffers instead of {expected}"));
    }
    for (index, (part, buffer)) in layout.fixed().zip(&array.buffers).enumerate() {
        let needed = rows.needed(part, at)?;
        let missing = match part {
            Part::Validity => array.null_count.is_some_and(|nulls| nulls > 0),
            _ => needed > 0,
        };
        match buffer {
            None if missing => {
                return at.error(format!("buffer {index} of {needed} bytes is missing"));
            }
            Some(buffer) if buffer.len() < needed => {
                let found = buffer.len();
                return at.error(format!(
                    "buffer {index} has {found} bytes instead of {needed}"
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Checks the types of the children, and that they have the rows that the array needs.
fn check_children(
    array: &DeviceArray,
    layout: &Layout,
    rows: Rows,
    at: &At<'_>,
) -> Result<(), CDataError> {
    let schemas = array.schema.children();
    let (found, expected) = (array.children.len(), schemas.len());
    if found != expected {
        return at.error(format!("{found} children instead of {expected}"));
    }
    for (index, (child, schema)) in array.children.iter().zip(schemas).enumerate() {
        if !child.schema.is_like(schema) {
            let at = At::Child(at, index);
            return at.error("the child is of another type than the schema says");
        }
    }
    let lengths: Vec<usize> = array.children.iter().map(DeviceArray::len).collect();
    rows.check_children(layout.children, &lengths, at)
}

/// The rows that the buffers of an array have: as many as its offset and its length together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows {
    pub(super) end: usize,
}

impl Rows {
    /// Checks the numbers of an array.
    pub(super) fn new(
        length: usize,
        offset: usize,
        null_count: Option<usize>,
        at: &At<'_>,
    ) -> Result<Self, CDataError> {
        let nulls = null_count.unwrap_or(0);
        if nulls > length {
            return at.error(format!("{nulls} nulls in {length} rows"));
        }
        match length.checked_add(offset).filter(|&end| end < MAX_ROWS) {
            Some(end) => Ok(Self { end }),
            None => at.error(format!("length {length} and offset {offset} are too large")),
        }
    }

    /// The bytes that the rows need of a buffer. Those of data behind offsets are not known here, and count as 0.
    pub(super) fn needed(self, part: Part, at: &At<'_>) -> Result<usize, CDataError> {
        let bytes = match part {
            Part::Validity | Part::Bits => Some(self.end.div_ceil(8)),
            Part::Fixed(width) => self.end.checked_mul(width),
            Part::Offsets(_) if self.end == 0 => Some(0),
            Part::Offsets(width) => (self.end + 1).checked_mul(width),
            Part::Bytes | Part::Variadic | Part::Lengths => Some(0),
        };
        match bytes.filter(|&bytes| bytes <= isize::MAX as usize) {
            Some(bytes) => Ok(bytes),
            None => at.error(format!("{} rows of that size are too large", self.end)),
        }
    }

    /// Checks the lengths of children against the rows, where they follow from them.
    pub(super) fn check_children(
        self,
        children: Children,
        lengths: &[usize],
        at: &At<'_>,
    ) -> Result<(), CDataError> {
        let needed = match children {
            Children::Parallel => Some(self.end),
            Children::Repeated(times) => self.end.checked_mul(times),
            // The values of a run need one row for each end.
            Children::Runs => lengths.first().copied(),
            Children::None | Children::One | Children::Any => Some(0),
        };
        let Some(needed) = needed else {
            return at.error(format!("{} rows of that size are too large", self.end));
        };
        match lengths.iter().position(|&length| length < needed) {
            Some(index) => {
                let found = lengths[index];
                At::Child(at, index).error(format!("{found} rows instead of {needed}"))
            }
            None => Ok(()),
        }
    }
}

/// More rows than any address space has room for, where each of them takes bytes.
const MAX_ROWS: usize = isize::MAX as usize / 8;
