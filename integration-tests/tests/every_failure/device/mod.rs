//! The operations of `memory-device`, over the simulated device.

use std::sync::Arc;

use arrow_memory_device::{DeviceAllocator, DeviceBuf, DeviceBufMut, DeviceRoot, SimDevice};

use self::manager::HostileDevice;
use crate::state::{Charges, State};
use crate::sweep::Operation;
use crate::world::{LIMIT, World};

mod arrays;
mod buffers;
mod copies;
mod manager;

pub(crate) const ALL: &[(&str, &[Operation])] = &[
    ("device, buffers", buffers::OPERATIONS),
    ("device, copies", copies::OPERATIONS),
    ("device, arrays", arrays::OPERATIONS),
];

/// A device, and a tree of its memory that has a child.
pub(crate) struct Gpu {
    pub(crate) root: DeviceRoot,
    pub(crate) query: DeviceAllocator,
    pub(crate) sim: Arc<SimDevice>,
}

impl Gpu {
    /// One whose work is over when it was started.
    pub(crate) fn new(w: &World) -> Self {
        Self::over(w, SimDevice::new())
    }

    /// One whose work is done when somebody waits for it.
    pub(crate) fn late(w: &World) -> Self {
        Self::over(w, SimDevice::builder().late(true).build())
    }

    fn over(w: &World, sim: Arc<SimDevice>) -> Self {
        let manager = Arc::new(HostileDevice {
            inner: Arc::clone(&sim),
        });
        let builder = DeviceRoot::builder().limit(LIMIT).manager(manager);
        let builder = builder.options(|root| w.config.apply(root));
        let root = builder.build().unwrap();
        let query = root.child("query").build().unwrap();
        w.watch(root.accounting());
        let watched = Arc::clone(&sim);
        w.at_end(move || {
            assert_eq!(watched.hazards(), []);
            assert_eq!(watched.used_bytes(), 0);
        });
        Self { root, query, sim }
    }

    /// A frozen buffer of 1,000 sevens.
    pub(crate) fn buffer(&self) -> DeviceBuf {
        let mut buffer = self.query.allocate(1000).unwrap();
        buffer.write_at(0, &[7; 1000]).unwrap();
        buffer.freeze()
    }
}

impl State for DeviceBuf {
    fn charges(&self, charges: &mut Charges) {
        let root = self.allocator().accounting().root_allocator();
        charges.add_at(&root, self.address() as usize, self.accounted_size());
    }

    fn describe(&self) -> String {
        format!(
            "{} {} {} {}",
            self.len(),
            self.capacity(),
            self.accounted_size(),
            self.ref_count()
        )
    }
}

impl State for DeviceBufMut {
    fn charges(&self, charges: &mut Charges) {
        let root = self.allocator().accounting().root_allocator();
        charges.add_at(&root, self.address() as usize, self.capacity());
    }

    fn describe(&self) -> String {
        format!("{} {}", self.len(), self.capacity())
    }
}
