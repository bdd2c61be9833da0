#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod allocate;
mod allocator;
mod any;
mod block;
mod buf;
mod buf_mut;
pub mod c_data;
mod copy;
mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod device;
mod error;
mod event;
mod io;
mod manager;
mod root;
mod sim;
#[cfg(feature = "testing")]
pub mod testing;
mod twin;
mod twins;
mod view;
mod wait;

pub use allocator::{DeviceAllocator, DeviceChildBuilder};
pub use any::{AnyAllocator, AnyBuffer, AnyBufferMut};
pub use buf::{DeviceBuf, DeviceTransferResult};
pub use buf_mut::DeviceBufMut;
pub use cpu::CpuManager;
pub use device::{Device, DeviceAddress, DeviceKind};
pub use error::DeviceError;
pub use event::{DeviceEvent, DeviceStream, Event, Stream};
pub use io::{Reader, Writer};
pub use manager::DeviceManager;
pub use root::{DeviceRoot, DeviceRootBuilder};
pub use sim::{Hazard, SimDevice, SimDeviceBuilder, SimOperation};
pub use twin::TwinExt;
pub use wait::DeviceWait;
