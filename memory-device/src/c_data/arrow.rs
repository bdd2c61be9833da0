//! Arrays of arrow-rs in the memory of the CPU, from and to arrays on the CPU as a device.
#![expect(unsafe_code, reason = "takes and hands out C structures")]

use arrow_array::ffi::{self, FFI_ArrowArray, FFI_ArrowSchema};
use arrow_array::{Array, ArrayRef, make_array};
use arrow_data::ArrayData;

use super::array::DeviceArray;
use super::error::{At, CDataError};
use super::format::Part;
use super::import::last_offset;
use super::raw::{ArrowArray, ArrowDeviceArray, ArrowSchema};
use super::schema::DeviceSchema;
use crate::allocator::DeviceAllocator;
use crate::any::AnyBuffer;
use crate::buf::DeviceBuf;
use crate::device::Device;

impl DeviceArray {
    /// Makes an array on the CPU, as a device, of an array of arrow-rs. No buffer is copied, except for null masks that do
    /// not start at a whole byte, which arrow-rs copies. The buffers are charged to `allocator` as foreign memory.
    ///
    /// # Errors
    ///
    /// * [`CDataError::WrongDevice`] if `allocator` is not one of the CPU.
    /// * [`CDataError::Arrow`] if the type has no C format.
    /// * [`CDataError::Device`] if the allocator refuses the bytes, or its manager does not see memory of the host at its
    ///   address.
    ///
    /// ```
    /// use arrow_array::{Array, Int32Array};
    /// use arrow_memory_device::c_data::DeviceArray;
    /// use arrow_memory_device::{DeviceRoot, SimDevice};
    /// use arrow_memory_system as _;
    ///
    /// let cpu = DeviceRoot::builder().build()?;
    /// let gpu = DeviceRoot::builder().manager(SimDevice::new()).build()?;
    /// let ids = Int32Array::from(vec![Some(7), None, Some(9)]);
    /// let on_device = DeviceArray::from_arrow(&ids, &cpu)?.copy_to(&gpu)?;
    /// assert_eq!((cpu.allocated_memory(), gpu.allocated_memory()), (0, 128));
    ///
    /// let back = on_device.copy_to(&cpu)?.to_arrow()?;
    /// assert_eq!(back.to_data(), ids.to_data());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn from_arrow(array: &dyn Array, allocator: &DeviceAllocator) -> Result<Self, CDataError> {
        check_cpu(allocator.device())?;
        let (array, schema) = ffi::to_ffi(&array.to_data()).map_err(arrow)?;
        let (array, schema) = (ArrowArray::from(array), ArrowSchema::from(schema));
        // SAFETY: arrow-rs made the schema.
        let schema = unsafe { DeviceSchema::from_c(&schema) }?;
        let array = ArrowDeviceArray::new(array, allocator.device());
        // SAFETY: arrow-rs made the structure of a valid array, whose buffers it keeps and does not write.
        unsafe { Self::import(array, schema, allocator) }
    }

    /// Makes an array of arrow-rs of this one, which must be on the CPU. No buffer is copied, unless it is less aligned than
    /// arrow-rs needs it: copied offsets of strings and binaries are charged to their buffer's allocator, other copies are
    /// arrow-rs' own. The buffers stay charged while the result has them.
    ///
    /// Waits for the work that writes the buffers, then validates all values, which reads them once.
    ///
    /// # Errors
    ///
    /// * [`CDataError::WrongDevice`] if it is on another device: [copy it](Self::copy_to) to the CPU first.
    /// * [`CDataError::Device`] if the work failed, an allocator refuses the copy of offsets, or a buffer's manager does not
    ///   let the CPU read it at its address.
    /// * [`CDataError::Malformed`] or [`CDataError::Arrow`] if the values are not valid for the type.
    pub fn to_arrow(&self) -> Result<ArrayRef, CDataError> {
        check_cpu(self.device())?;
        self.synchronize()?;
        let aligned = self.with_aligned_offsets(&At::Top("array"))?;
        let schema = FFI_ArrowSchema::from(self.schema().to_c()?);
        let array = FFI_ArrowArray::from(std::mem::replace(
            &mut aligned.export()?.array,
            ArrowArray::empty(),
        ));
        // SAFETY: the structure is one of ours, on the CPU, which reads the buffers at their addresses, as the export has
        // checked. Buffers are long enough for the rows and, as checked above, for the last offsets, which are aligned: they
        // are read here. Other buffers need no alignment before `align_buffers`.
        let mut data: ArrayData = unsafe { ffi::from_ffi(array, &schema) }.map_err(arrow)?;
        data.align_buffers();
        data.validate_full().map_err(arrow)?;
        Ok(make_array(data))
    }

    /// The same array, in which the offsets of strings and binaries are aligned, on all levels. Checks that the data are as
    /// long as the last offsets say.
    fn with_aligned_offsets(&self, at: &At<'_>) -> Result<Self, CDataError> {
        let mut aligned = self.clone();
        aligned.align_offsets(at)?;
        Ok(aligned)
    }

    fn align_offsets(&mut self, at: &At<'_>) -> Result<(), CDataError> {
        let layout = self.schema().layout(at)?;
        let end = self.offset() + self.len();
        let levels = self.levels();
        if end == 0 {
            // An array without rows may have any offset, as a slice has, or none. arrow-rs would look for the data before
            // it, or for the rows of the child.
            for (buffer, part) in levels.buffers.iter_mut().zip(&layout.parts) {
                if let Part::Offsets(_) = part {
                    *buffer = None;
                }
            }
        }
        if let [.., Part::Offsets(width), Part::Bytes] = layout.parts[..]
            && let [.., offsets, bytes] = levels.buffers
        {
            let found = bytes.as_ref().map_or(0, DeviceBuf::len);
            let needed = last_offset(offsets.as_ref(), width, end, at)?;
            if found < needed {
                return at.error(format!("{found} bytes of data instead of {needed}"));
            }
            if let Some(offsets) = offsets
                && !offsets.address().is_multiple_of(width as u64)
            {
                // A copy is a block of its own, which is aligned.
                *offsets = offsets.copy_to(&offsets.allocator())?;
            }
        }
        for (index, child) in levels.children.iter_mut().enumerate() {
            child.align_offsets(&At::Child(at, index))?;
        }
        match levels.dictionary {
            Some(values) => values.align_offsets(&At::Dictionary(at)),
            None => Ok(()),
        }
    }
}

fn check_cpu(found: Device) -> Result<(), CDataError> {
    match found.is_cpu() {
        true => Ok(()),
        false => Err(CDataError::WrongDevice {
            expected: Device::CPU,
            found,
        }),
    }
}

fn arrow(error: impl std::error::Error + Send + Sync + 'static) -> CDataError {
    CDataError::Arrow(Box::new(error))
}

/// Conversions between two declarations of one C structure. The value moves, and is released once.
macro_rules! same_structure {
    ($Ours:ident, $Arrow:ident) => {
        const _: () = assert!(size_of::<$Ours>() == size_of::<$Arrow>());
        const _: () = assert!(align_of::<$Ours>() == align_of::<$Arrow>());

        impl From<$Arrow> for $Ours {
            fn from(structure: $Arrow) -> Self {
                // SAFETY: both types have the layout that the C Data Interface defines, and release themselves once.
                unsafe { std::mem::transmute::<$Arrow, $Ours>(structure) }
            }
        }

        impl From<$Ours> for $Arrow {
            fn from(structure: $Ours) -> Self {
                // SAFETY: both types have the layout that the C Data Interface defines, and release themselves once.
                unsafe { std::mem::transmute::<$Ours, $Arrow>(structure) }
            }
        }
    };
}

same_structure!(ArrowArray, FFI_ArrowArray);
same_structure!(ArrowSchema, FFI_ArrowSchema);
