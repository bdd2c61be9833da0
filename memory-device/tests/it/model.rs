//! Random operations on a tree of the host and one of a device, beside a naive model of both: charges, limits,
//! references and bytes agree after each.

mod naive;

use std::io::Read;
use std::sync::Arc;

use arrow_memory_core::{ArrowBuf, BufferAllocator, RootAllocator};
use arrow_memory_device::{
    AnyAllocator, AnyBuffer, CpuManager, DeviceAllocator, DeviceBuf, DeviceError, DeviceManager,
    DeviceRoot, SimDevice, Stream,
};
use proptest::prelude::*;

use self::naive::{ALLOCATORS, At, Handle, Model, is_host, root_of};

#[derive(Clone, Debug)]
enum Operation {
    Allocate {
        at: At,
        len: usize,
    },
    Clone {
        buffer: usize,
    },
    Slice {
        buffer: usize,
        from: usize,
        len: usize,
    },
    Drop {
        buffer: usize,
    },
    Transfer {
        buffer: usize,
        at: At,
        forced: bool,
    },
    View {
        buffer: usize,
        at: At,
    },
    Copy {
        buffer: usize,
        at: At,
        on_stream: bool,
    },
    ViewOrCopy {
        buffer: usize,
        at: At,
    },
    /// A copy on a stream whose result is dropped at once.
    Abandon {
        buffer: usize,
        at: At,
    },
    SetLimit {
        at: At,
        limit: usize,
    },
}

fn operation() -> impl Strategy<Value = Operation> {
    let (at, buffer) = (|| 0..ALLOCATORS, || 0..64_usize);
    let limit = prop_oneof![0..20_000_usize, Just(usize::MAX)];
    prop_oneof![
        4 => (at(), 1..5000_usize).prop_map(|(at, len)| Operation::Allocate { at, len }),
        2 => buffer().prop_map(|buffer| Operation::Clone { buffer }),
        2 => (buffer(), 0..5000_usize, 1..5000_usize)
            .prop_map(|(buffer, from, len)| Operation::Slice { buffer, from, len }),
        5 => buffer().prop_map(|buffer| Operation::Drop { buffer }),
        3 => (buffer(), at(), any::<bool>())
            .prop_map(|(buffer, at, forced)| Operation::Transfer { buffer, at, forced }),
        3 => (buffer(), at()).prop_map(|(buffer, at)| Operation::View { buffer, at }),
        3 => (buffer(), at(), any::<bool>())
            .prop_map(|(buffer, at, on_stream)| Operation::Copy { buffer, at, on_stream }),
        2 => (buffer(), at()).prop_map(|(buffer, at)| Operation::ViewOrCopy { buffer, at }),
        1 => (buffer(), at()).prop_map(|(buffer, at)| Operation::Abandon { buffer, at }),
        2 => (at(), limit).prop_map(|(at, limit)| Operation::SetLimit { at, limit }),
    ]
}

#[derive(Clone, Debug)]
enum Any {
    Host(ArrowBuf),
    Device(DeviceBuf),
}

/// A buffer, and what the model knows of it.
struct Held {
    buffer: Any,
    handle: Handle,
    bytes: Vec<u8>,
}

struct World {
    host: Vec<BufferAllocator>,
    device: Vec<DeviceAllocator>,
    stream: Stream,
    /// Whether the host and the device see each other's memory.
    sees: bool,
    model: Model,
    held: Vec<Held>,
    seed: u8,
}

/// Calls a method of `AnyBuffer` with the allocator of that number as its target.
macro_rules! on {
    ($world:expr, $at:expr, $buffer:expr, $method:ident $(, $stream:expr)?) => {{
        let at: At = $at;
        match (&$buffer, is_host(at)) {
            (Any::Host(b), true) => b.$method(&$world.host[at] $(, $stream)?).map(wrap),
            (Any::Device(b), true) => b.$method(&$world.host[at] $(, $stream)?).map(wrap),
            (Any::Host(b), false) => b.$method(&$world.device[at - 3] $(, $stream)?).map(wrap),
            (Any::Device(b), false) => b.$method(&$world.device[at - 3] $(, $stream)?).map(wrap),
        }
    }};
}

/// What a method of `AnyBuffer` returns, as one type.
fn wrap<T: Wrap>(result: T) -> T::Wrapped {
    result.wrapped()
}

trait Wrap {
    type Wrapped;
    fn wrapped(self) -> Self::Wrapped;
}

impl Wrap for ArrowBuf {
    type Wrapped = Any;
    fn wrapped(self) -> Any {
        Any::Host(self)
    }
}

impl Wrap for DeviceBuf {
    type Wrapped = Any;
    fn wrapped(self) -> Any {
        Any::Device(self)
    }
}

impl<T: Wrap> Wrap for Option<T> {
    type Wrapped = Option<T::Wrapped>;
    fn wrapped(self) -> Self::Wrapped {
        self.map(Wrap::wrapped)
    }
}

impl World {
    fn new(manager: Arc<dyn DeviceManager>, sees: bool) -> Self {
        let root = RootAllocator::builder().credit(1000).build().unwrap();
        let host: BufferAllocator = root.into();
        let device = DeviceRoot::builder().manager(manager).build().unwrap();
        let stream = device.stream().unwrap();
        let children = |name| {
            (
                host.child(name).build().unwrap(),
                device.child(name).build().unwrap(),
            )
        };
        let ((a, x), (b, y)) = (children("a"), children("b"));
        Self {
            host: vec![host, a, b],
            device: vec![device.to_allocator(), x, y],
            stream,
            sees,
            model: Model::new(),
            held: Vec::new(),
            seed: 0,
        }
    }

    fn allocate(&self, at: At, bytes: &[u8]) -> Result<Any, DeviceError> {
        if is_host(at) {
            return Ok(Any::Host(self.host[at].buffer_from_slice(bytes)?));
        }
        let mut buffer = self.device[at - 3].allocate(bytes.len())?;
        buffer.write_at(0, bytes)?;
        Ok(Any::Device(buffer.freeze()))
    }

    /// Compares a result with the model's, and keeps the buffer that both have.
    fn keep(&mut self, result: Result<Any, DeviceError>, handle: Option<Handle>, bytes: Vec<u8>) {
        match (result, handle) {
            (Ok(buffer), Some(handle)) => self.held.push(Held {
                buffer,
                handle,
                bytes,
            }),
            (Err(error), None) => assert!(error.is_out_of_memory(), "{error}"),
            (result, handle) => panic!("{result:?} where the model has {handle:?}"),
        }
    }

    fn apply(&mut self, operation: Operation) {
        let (buffer, at) = match operation {
            Operation::Allocate { at, len } => {
                self.seed = self.seed.wrapping_add(1);
                let bytes: Vec<u8> = (0..len).map(|i| (i as u8) ^ self.seed).collect();
                let result = self.allocate(at, &bytes);
                let handle = self.model.allocate(at, len);
                return self.keep(result, handle, bytes);
            }
            Operation::SetLimit { at, limit } => {
                self.model.limits[at] = limit;
                match is_host(at) {
                    true => self.host[at].set_limit(limit),
                    false => self.device[at - 3].set_limit(limit),
                }
                return;
            }
            Operation::Clone { buffer }
            | Operation::Slice { buffer, .. }
            | Operation::Drop { buffer } => (buffer, 0),
            Operation::Transfer { buffer, at, .. }
            | Operation::View { buffer, at }
            | Operation::Copy { buffer, at, .. }
            | Operation::ViewOrCopy { buffer, at }
            | Operation::Abandon { buffer, at } => (buffer, at),
        };
        if self.held.is_empty() {
            return;
        }
        self.use_buffer(operation, buffer % self.held.len(), at);
    }

    fn use_buffer(&mut self, operation: Operation, index: usize, at: At) {
        let Held {
            buffer,
            handle,
            bytes,
        } = &self.held[index];
        let (handle, len) = (*handle, bytes.len());
        match operation {
            Operation::Drop { .. } => {
                drop(self.held.swap_remove(index));
                self.model.release(handle);
            }
            Operation::Clone { .. } => {
                let (buffer, bytes) = (buffer.clone(), bytes.clone());
                let handle = self.model.clone_handle(handle);
                self.held.push(Held {
                    buffer,
                    handle,
                    bytes,
                });
            }
            Operation::Slice {
                from, len: most, ..
            } => {
                let from = from % len;
                let range = from..from + most.min(len - from);
                let bytes = bytes[range.clone()].to_vec();
                let buffer = match buffer {
                    Any::Host(buffer) => Any::Host(buffer.slice(range)),
                    Any::Device(buffer) => Any::Device(buffer.slice(range)),
                };
                let handle = self.model.clone_handle(handle);
                self.held.push(Held {
                    buffer,
                    handle,
                    bytes,
                });
            }
            Operation::Transfer { forced, .. } => self.transfer(index, at, forced),
            Operation::View { .. } => {
                let (bytes, seen) = (bytes.clone(), on!(self, at, buffer, view_on));
                let result = match seen {
                    Ok(None) => return assert!(!self.sees && is_host(at) != is_host(handle.1)),
                    Ok(Some(view)) => Ok(view),
                    Err(error) => Err(error),
                };
                let handle = self.model_view(handle, at);
                self.keep(result, handle, bytes);
            }
            Operation::ViewOrCopy { .. } => {
                let (bytes, result) = (bytes.clone(), on!(self, at, buffer, view_or_copy));
                let same = root_of(at) == root_of(handle.1);
                let handle = match same || self.sees {
                    true => self.model_view(handle, at),
                    false => self.model.allocate(at, len),
                };
                self.keep(result, handle, bytes);
            }
            Operation::Copy { on_stream, .. } => {
                let bytes = bytes.clone();
                let result = match on_stream && !is_host(at) {
                    true => on!(self, at, buffer, copy_to_on, &self.stream),
                    false => on!(self, at, buffer, copy_to),
                };
                if let Ok(Any::Device(copy)) = &result {
                    copy.synchronize().unwrap(); // the copy gives its source back
                }
                let handle = self.model.allocate(at, len);
                self.keep(result, handle, bytes);
            }
            Operation::Abandon { .. } if is_host(at) => {}
            Operation::Abandon { .. } => drop(on!(self, at, buffer, copy_to_on, &self.stream)),
            Operation::Allocate { .. } | Operation::SetLimit { .. } => {}
        }
    }

    fn model_view(&mut self, handle: Handle, at: At) -> Option<Handle> {
        match root_of(at) == root_of(handle.1) {
            true => Some(self.model.retain(handle, at)),
            false => self.model.view(handle, at),
        }
    }

    fn transfer(&mut self, index: usize, at: At, forced: bool) {
        let Held {
            buffer,
            handle,
            bytes,
        } = &self.held[index];
        if root_of(at) != root_of(handle.1) {
            return;
        }
        let moved = match buffer {
            Any::Host(buffer) if forced => {
                let moved = buffer.transfer_ownership(&self.host[at]).unwrap();
                Ok((Any::Host(moved.buffer), moved.allocation_fit))
            }
            Any::Host(buffer) => {
                let moved = buffer.try_transfer_ownership(&self.host[at]);
                moved.map(|buffer| (Any::Host(buffer), true))
            }
            Any::Device(buffer) if forced => {
                let moved = buffer.transfer_ownership(&self.device[at - 3]).unwrap();
                Ok((Any::Device(moved.buffer), moved.allocation_fit))
            }
            Any::Device(buffer) => {
                let moved = buffer.try_transfer_ownership(&self.device[at - 3]);
                moved.map(|buffer| (Any::Device(buffer), true))
            }
        };
        let (bytes, expected) = (bytes.clone(), self.model.transfer(*handle, at, forced));
        match (moved, expected) {
            (Ok((buffer, fit)), Some((handle, fits))) => {
                assert!(!forced || fit == fits, "fits: {fit}, in the model: {fits}");
                self.held.push(Held {
                    buffer,
                    handle,
                    bytes,
                });
            }
            (Err(_), None) => {}
            (moved, expected) => panic!("{moved:?} where the model has {expected:?}"),
        }
    }

    fn check(&self) {
        for at in 0..ALLOCATORS {
            let allocated = match is_host(at) {
                true => self.host[at].allocated_memory(),
                false => self.device[at - 3].allocated_memory(),
            };
            assert_eq!(allocated, self.model.allocated(at), "allocator {at}");
        }
        self.host[0].verify().unwrap();
        self.device[0].accounting().verify().unwrap();
        // The bytes of one, and the references of all.
        if let Some(held) = self.held.get(self.seed as usize % self.held.len().max(1)) {
            let mut bytes = Vec::new();
            let mut reader = match &held.buffer {
                Any::Host(buffer) => buffer.reader(),
                Any::Device(buffer) => buffer.reader(),
            };
            reader.read_to_end(&mut bytes).unwrap();
            assert!(bytes == held.bytes, "other bytes in {:?}", held.buffer);
        }
        for held in &self.held {
            let count = match &held.buffer {
                Any::Host(buffer) => buffer.ref_count(),
                Any::Device(buffer) => buffer.ref_count(),
            };
            assert_eq!(
                count,
                self.model.ref_count(held.handle),
                "{:?}",
                held.buffer
            );
        }
    }
}

fn run(manager: Arc<dyn DeviceManager>, sees: bool, operations: Vec<Operation>) {
    let mut world = World::new(manager, sees);
    for operation in operations {
        world.apply(operation);
        world.check();
    }
    world.held.clear();
    world.stream.synchronize().unwrap();
    for allocator in &world.host {
        assert_eq!(
            (
                allocator.allocated_memory(),
                AnyAllocator::device(allocator).is_cpu()
            ),
            (0, true)
        );
    }
    assert_eq!(world.device[0].allocated_memory(), 0);
}

proptest! {
    #[test]
    fn a_device_that_the_host_sees_agrees_with_the_model(
        operations in prop::collection::vec(operation(), 1..80),
    ) {
        run(CpuManager::new().unwrap(), true, operations);
    }

    #[test]
    fn a_device_that_nobody_sees_agrees_with_the_model(
        operations in prop::collection::vec(operation(), 1..80),
        late in any::<bool>(),
    ) {
        let sim = SimDevice::builder().late(late).build();
        run(sim.clone(), false, operations);
        prop_assert_eq!(sim.hazards(), vec![]);
        prop_assert_eq!(sim.used_bytes(), 0);
    }
}
