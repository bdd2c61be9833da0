//! [`DeviceError`]: why something about device memory was refused or failed.

use std::error::Error;
use std::fmt;
use std::io;

use arrow_memory_core::__private::write_sources;
use arrow_memory_core::{
    AllocError, AllocatorInfo, BufferAllocator, ManagerError, TransferError, WaitError,
};

use crate::device::Device;

/// Why an operation on device memory was refused or failed. Nothing stays charged after this error.
///
/// `{}` is one line. `{:#}` adds what the source knows: the levels of a refusal, the driver's error.
/// `{:?}` is the text of `{:#}`, and `{:#?}` shows the fields.
#[non_exhaustive]
pub enum DeviceError {
    /// The *accounting* refused the bytes: a limit, a listener, or a closed allocator.
    Refused(AllocError),
    /// The bytes were waited for, and not granted.
    Wait(WaitError),
    /// A buffer was not shared with another allocator, or not moved there.
    Transfer(TransferError),
    /// The *device's* fault: its manager could not do something.
    #[non_exhaustive]
    Failed {
        /// The device.
        device: Device,
        /// What failed, as in `allocation` or `copy from the host`.
        operation: &'static str,
        /// The manager's error.
        source: ManagerError,
    },
    /// The *environment's* fault: there is no such device, or no driver for it.
    #[non_exhaustive]
    Unavailable {
        /// What is missing, and what to do.
        reason: String,
    },
    /// The *caller's* fault: a stream or a buffer of one device was given to another one.
    #[non_exhaustive]
    WrongDevice {
        /// The device that was asked.
        expected: Device,
        /// The device of what it was given.
        found: Device,
    },
    /// The *caller's* fault: a reservation of one tree was given to an allocator of another one.
    #[non_exhaustive]
    WrongTree {
        /// The allocator that was asked.
        allocator: AllocatorInfo,
        /// The allocator of what it was given.
        found: AllocatorInfo,
    },
    /// The *caller's* fault: the size, with its rounding, is above `isize::MAX`.
    #[non_exhaustive]
    SizeOverflow {
        /// The requested bytes.
        requested: usize,
    },
    /// A structure from elsewhere breaks the rules of Arrow's C Device Data Interface.
    #[non_exhaustive]
    Malformed {
        /// Which rule, and where.
        reason: String,
    },
}

impl DeviceError {
    /// Creates the error of a manager whose `operation` failed.
    pub fn failed(device: Device, operation: &'static str, source: ManagerError) -> Self {
        Self::Failed {
            device,
            operation,
            source,
        }
    }

    /// Creates the error of a device or a driver that is not there.
    pub fn unavailable(reason: impl Into<String>) -> Self {
        Self::Unavailable {
            reason: reason.into(),
        }
    }

    /// Creates the error of what belongs to `found` and was given to `expected`.
    pub fn wrong_device(expected: Device, found: Device) -> Self {
        Self::WrongDevice { expected, found }
    }

    /// Creates the error of what belongs to the tree of `found` and was given to `allocator`.
    pub(crate) fn wrong_tree(allocator: &BufferAllocator, found: &BufferAllocator) -> Self {
        Self::WrongTree {
            allocator: allocator.info().clone(),
            found: found.info().clone(),
        }
    }

    /// Creates the error of a structure that breaks a rule.
    pub fn malformed(reason: impl Into<String>) -> Self {
        Self::Malformed {
            reason: reason.into(),
        }
    }

    /// Returns whether memory was short: a limit left too little room, or the device had no block.
    pub fn is_out_of_memory(&self) -> bool {
        match self {
            Self::Refused(error) => error.is_out_of_memory(),
            Self::Wait(WaitError::Refused(error)) => error.is_out_of_memory(),
            Self::Wait(_) => true,
            Self::Transfer(error) => matches!(error, TransferError::DoesNotFit { .. }),
            Self::Failed { source, .. } => source.is_out_of_memory(),
            _ => false,
        }
    }
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => error.fmt(f),
            Self::Wait(error) => error.fmt(f),
            Self::Transfer(error) => error.fmt(f),
            Self::Failed {
                device, operation, ..
            } => {
                write!(f, "device `{device}`: {operation} failed")?;
                write_sources(f, self)
            }
            Self::Unavailable { reason } => f.write_str(reason),
            Self::WrongDevice { expected, found } => {
                write!(f, "device `{expected}` was given something of `{found}`")
            }
            Self::WrongTree { allocator, found } => {
                write!(
                    f,
                    "allocators `{allocator}` and `{found}` belong to different roots"
                )
            }
            Self::SizeOverflow { requested } => {
                write!(
                    f,
                    "{requested} bytes of a device do not fit in a signed size"
                )
            }
            Self::Malformed { reason } => write!(f, "malformed device data: {reason}"),
        }
    }
}

impl Error for DeviceError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Refused(error) => error.source(),
            Self::Wait(error) => error.source(),
            Self::Failed { source, .. } => Some(source),
            _ => None,
        }
    }
}

arrow_memory_core::__debug_as_display!(enum DeviceError {
    Refused(error),
    Wait(error),
    Transfer(error),
    Failed { device, operation, source },
    Unavailable { reason },
    WrongDevice { expected, found },
    WrongTree { allocator, found },
    SizeOverflow { requested },
    Malformed { reason },
});

impl From<AllocError> for DeviceError {
    fn from(error: AllocError) -> Self {
        Self::Refused(error)
    }
}

impl From<WaitError> for DeviceError {
    /// A wait that was refused at once becomes [`DeviceError::Refused`].
    fn from(error: WaitError) -> Self {
        match error {
            WaitError::Refused(error) => Self::Refused(error),
            other => Self::Wait(other),
        }
    }
}

impl From<TransferError> for DeviceError {
    fn from(error: TransferError) -> Self {
        Self::Transfer(error)
    }
}

impl From<DeviceError> for io::Error {
    fn from(error: DeviceError) -> Self {
        let kind = match &error {
            error if error.is_out_of_memory() => io::ErrorKind::OutOfMemory,
            DeviceError::WrongDevice { .. }
            | DeviceError::WrongTree { .. }
            | DeviceError::SizeOverflow { .. } => io::ErrorKind::InvalidInput,
            DeviceError::Malformed { .. } => io::ErrorKind::InvalidData,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}
