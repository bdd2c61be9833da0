//! [`Device`]: where bytes lie, and [`DeviceAddress`]: where on it.

use std::fmt;
use std::num::NonZeroU64;

/// The kinds of devices, with the numbers that Arrow's C Device Data Interface gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(i32)]
#[non_exhaustive]
#[doc(alias("ArrowDeviceType", "DeviceAllocationType"))]
pub enum DeviceKind {
    /// The memory of the CPU.
    Cpu = 1,
    /// A GPU of NVIDIA.
    Cuda = 2,
    /// Pinned memory of the CPU, allocated by CUDA.
    CudaHost = 3,
    /// A device of OpenCL.
    OpenCl = 4,
    /// A buffer of Vulkan.
    Vulkan = 7,
    /// A GPU of Apple.
    Metal = 8,
    /// Verilog simulation.
    Vpi = 9,
    /// A GPU of AMD.
    Rocm = 10,
    /// Pinned memory of the CPU, allocated by ROCm.
    RocmHost = 11,
    /// A device that is none of the others; [`SimDevice`](crate::SimDevice) is one.
    ExtDev = 12,
    /// Memory that CUDA moves between CPU and GPU.
    CudaManaged = 13,
    /// A device of oneAPI, with unified shared memory.
    OneApi = 14,
    /// A buffer of WebGPU.
    WebGpu = 15,
    /// A DSP of Qualcomm.
    Hexagon = 16,
}

impl DeviceKind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 14] = [
        Self::Cpu,
        Self::Cuda,
        Self::CudaHost,
        Self::OpenCl,
        Self::Vulkan,
        Self::Metal,
        Self::Vpi,
        Self::Rocm,
        Self::RocmHost,
        Self::ExtDev,
        Self::CudaManaged,
        Self::OneApi,
        Self::WebGpu,
        Self::Hexagon,
    ];

    /// Returns the number of this kind in Arrow's C Device Data Interface.
    pub fn number(self) -> i32 {
        self as i32
    }

    /// Returns the kind with that number; `None` if this crate knows none.
    ///
    /// ```
    /// use arrow_memory_device::DeviceKind;
    ///
    /// assert_eq!(DeviceKind::from_number(2), Some(DeviceKind::Cuda));
    /// assert_eq!(DeviceKind::from_number(5), None);
    /// ```
    pub fn from_number(number: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.number() == number)
    }

    /// Returns whether the CPU may read memory of this kind by its address.
    ///
    /// Managed memory is not among it: the CPU may read that only while no kernel writes it, which this
    /// crate cannot know.
    pub fn is_cpu(self) -> bool {
        matches!(self, Self::Cpu | Self::CudaHost | Self::RocmHost)
    }

    /// Returns the name in lower case, as in `cuda:0`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::CudaHost => "cuda-host",
            Self::OpenCl => "opencl",
            Self::Vulkan => "vulkan",
            Self::Metal => "metal",
            Self::Vpi => "vpi",
            Self::Rocm => "rocm",
            Self::RocmHost => "rocm-host",
            Self::ExtDev => "ext-dev",
            Self::CudaManaged => "cuda-managed",
            Self::OneApi => "oneapi",
            Self::WebGpu => "webgpu",
            Self::Hexagon => "hexagon",
        }
    }
}

/// A device: its kind, and its number among those of its kind.
///
/// ```
/// use arrow_memory_device::{Device, DeviceKind};
///
/// let gpu = Device::new(DeviceKind::Cuda, 0);
/// assert_eq!((gpu.to_string().as_str(), gpu.is_cpu()), ("cuda:0", false));
/// assert_eq!((Device::CPU.id(), Device::CPU.is_cpu()), (-1, true));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Device {
    kind: DeviceKind,
    id: i64,
}

impl Device {
    /// The CPU, which has no number: its id is -1, as Arrow's C Device Data Interface has it.
    pub const CPU: Self = Self::new(DeviceKind::Cpu, -1);

    /// Creates the name of a device. Nothing is asked whether there is one.
    pub const fn new(kind: DeviceKind, id: i64) -> Self {
        Self { kind, id }
    }

    /// Returns the kind.
    pub fn kind(self) -> DeviceKind {
        self.kind
    }

    /// Returns the number among devices of this kind; -1 where there is only one.
    #[doc(alias = "device_id")]
    pub fn id(self) -> i64 {
        self.id
    }

    /// Returns whether the CPU may read memory of this device by its address.
    pub fn is_cpu(self) -> bool {
        self.kind.is_cpu()
    }
}

impl fmt::Display for Device {
    /// Writes the kind and the number, as in `cuda:0`; only the kind if the number is negative.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())?;
        if self.id >= 0 {
            write!(f, ":{}", self.id)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({self})")
    }
}

/// An address in the memory of a device: a number, which only the device's
/// [`DeviceManager`](crate::DeviceManager) gives a meaning.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceAddress(NonZeroU64);

impl DeviceAddress {
    /// Creates an address; `None` if it is 0.
    pub const fn new(address: u64) -> Option<Self> {
        match NonZeroU64::new(address) {
            Some(address) => Some(Self(address)),
            None => None,
        }
    }

    /// Returns the address as a number.
    pub const fn get(self) -> u64 {
        self.0.get()
    }

    /// Returns the address `bytes` further; `None` if that is beyond the largest one.
    pub fn checked_add(self, bytes: usize) -> Option<Self> {
        self.0.checked_add(u64::try_from(bytes).ok()?).map(Self)
    }
}

impl fmt::Debug for DeviceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::{Device, DeviceAddress, DeviceKind};

    #[test]
    fn the_numbers_of_kinds_are_those_of_the_c_interface() {
        let numbers: Vec<i32> = DeviceKind::ALL.map(DeviceKind::number).into();

        assert_eq!(numbers, [1, 2, 3, 4, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
        for kind in DeviceKind::ALL {
            assert_eq!(DeviceKind::from_number(kind.number()), Some(kind));
        }
    }

    #[test]
    fn numbers_without_a_kind_are_none() {
        for number in [i32::MIN, -1, 0, 5, 6, 17, i32::MAX] {
            assert_eq!(DeviceKind::from_number(number), None);
        }
    }

    #[test]
    fn only_memory_that_the_cpu_may_always_read_is_of_the_cpu() {
        let readable: Vec<DeviceKind> =
            DeviceKind::ALL.into_iter().filter(|k| k.is_cpu()).collect();

        assert_eq!(
            readable,
            [DeviceKind::Cpu, DeviceKind::CudaHost, DeviceKind::RocmHost]
        );
    }

    #[test]
    fn a_device_prints_its_kind_and_number() {
        assert_eq!(Device::CPU.to_string(), "cpu");
        assert_eq!(Device::new(DeviceKind::ExtDev, 3).to_string(), "ext-dev:3");
        assert_eq!(
            format!("{:?}", Device::new(DeviceKind::Cuda, 0)),
            "Device(cuda:0)"
        );
    }

    #[test]
    fn an_address_is_never_null_and_never_wraps() {
        let last = DeviceAddress::new(u64::MAX).unwrap();

        assert_eq!(DeviceAddress::new(0), None);
        assert_eq!(last.checked_add(0), Some(last));
        assert_eq!(last.checked_add(1), None);
    }
}
