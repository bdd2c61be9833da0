//! The error of all operations on C structures, and where in a structure it was found.

use std::error::Error;
use std::ffi::c_int;

use crate::device::Device;
use crate::error::DeviceError;
use crate::manager::DeviceManager;

/// Why an array was not exported, imported or built. An operation that fails has changed nothing, except that a structure
/// that it consumed was released.
///
/// The error prints in one line, `{:#}` and `{:?}` add what the error of a device knows, and `{:#?}` prints the fields.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum CDataError {
    /// The *producer's* fault, or the caller's if the caller built the array: this cannot be an array.
    #[error("not a valid array at {path}: {problem}")]
    Malformed {
        /// The path from the top to the structure: `array.children[1].dictionary`, for instance.
        path: String,
        /// What is wrong, with the numbers.
        problem: String,
    },
    /// The *caller's* fault: the buffers are on another device than the allocator charges for.
    #[error("the array is on {found}, but the allocator charges for {expected}")]
    WrongDevice {
        /// The device of the allocator, or of the array's first buffer.
        expected: Device,
        /// The device of the structure, or of another buffer.
        found: Device,
    },
    /// The *producer's* fault, or that of a newer version of the interface: the structure names a kind of device that
    /// does not exist here.
    #[error("the array is on a device of the unknown kind {kind}, number {id}")]
    UnknownDevice {
        /// The number of the kind.
        kind: i32,
        /// The number of the device.
        id: i64,
    },
    /// A stream's callback reported an error.
    #[error("the stream failed with code {code}: {message}")]
    Stream {
        /// What the callback returned, a value of `errno` as a rule.
        code: c_int,
        /// The stream's own text; "no description" if it has none.
        message: String,
    },
    /// An allocator refused the bytes, or a device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// An error of the arrow crates.
    #[error("arrow: {0}")]
    Arrow(Box<dyn Error + Send + Sync>),
}

arrow_memory_core::__debug_as_display!(enum CDataError {
    Malformed { path, problem },
    WrongDevice { expected, found },
    UnknownDevice { kind, id },
    Stream { code, message },
    Device(error),
    Arrow(error),
});

impl CDataError {
    /// Returns whether memory was short, so that the operation may succeed with less, or later.
    pub fn is_out_of_memory(&self) -> bool {
        match self {
            Self::Device(error) => error.is_out_of_memory(),
            _ => false,
        }
    }
}

/// The error of a manager of the CPU whose addresses are not the CPU's.
#[cold]
pub(super) fn unreadable(manager: &dyn DeviceManager) -> DeviceError {
    DeviceError::unavailable(format!(
        "the CPU does not read memory of `{}` at the addresses that the manager has for it",
        manager.name()
    ))
}

/// The path from the top to a structure, for messages.
#[derive(Clone, Copy)]
pub(super) enum At<'a> {
    /// The structure itself, by a name such as `array`.
    Top(&'static str),
    /// A child of the structure, by its index.
    Child(&'a At<'a>, usize),
    /// The dictionary of the structure.
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

    /// The error for a problem at this place.
    #[cold]
    pub(super) fn error<T>(&self, problem: impl Into<String>) -> Result<T, CDataError> {
        Err(CDataError::Malformed {
            path: self.path(),
            problem: problem.into(),
        })
    }

    /// Refuses what is nested deeper than the recursion should go.
    pub(super) fn check_depth(&self) -> Result<(), CDataError> {
        if self.depth() > MAX_NESTED {
            return self.error(format!("nested more than {MAX_NESTED} deep"));
        }
        Ok(())
    }
}

/// The maximum of levels of children and dictionaries: more than any producer makes, and few enough for the recursion.
const MAX_NESTED: usize = 64;
