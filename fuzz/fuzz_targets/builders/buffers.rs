//! Builders of buffers, and the vector of `memory-core`.

use arrow_memory_core::{
    AccountedVec, ArrowBuf, BooleanBufferBuilder, BufferAllocator, BufferBuilder,
    TypedBufferBuilder,
};
use arrow_memory_fuzz::Input;
use arrow_memory_fuzz::deps::arrow_array::ArrayRef;

use crate::Subject;

/// Buffers that were finished, beside their bytes.
type Finished = Vec<(ArrowBuf, Vec<u8>)>;

/// The maximum number of these.
const FINISHED: usize = 4;

fn keep(finished: &mut Finished, buffer: ArrowBuf, bytes: Vec<u8>) {
    finished.push((buffer, bytes));
    for (buffer, bytes) in finished.iter() {
        assert_eq!(buffer.as_slice(), bytes);
    }
    if finished.len() > FINISHED {
        finished.clear();
    }
}

/// `BufferBuilder`.
pub struct Bytes {
    builder: BufferBuilder,
    model: Vec<u8>,
    finished: Finished,
}

impl Bytes {
    pub fn new(allocator: &BufferAllocator) -> Self {
        Self {
            builder: BufferBuilder::new(allocator),
            model: Vec::new(),
            finished: Vec::new(),
        }
    }
}

impl Subject for Bytes {
    fn step(&mut self, input: &mut Input<'_>) {
        let (builder, model) = (&mut self.builder, &mut self.model);
        match input.byte() % 6 {
            0 => {
                let more = input.size();
                if builder.reserve(more).is_ok() {
                    assert!(builder.capacity() - builder.len() >= more);
                }
            }
            1 => {
                let byte = input.byte();
                if builder.append(byte).is_ok() {
                    model.push(byte);
                }
            }
            2 => {
                let (n, value) = (input.size(), input.byte());
                if builder.append_n(n, value).is_ok() {
                    model.resize(model.len() + n, value);
                }
            }
            3 => {
                let n = input.below(100);
                let more = input.bytes(n);
                if builder.append_slice(more).is_ok() {
                    model.extend_from_slice(more);
                }
            }
            4 => {
                let n = input.size();
                if builder.advance(n).is_ok() {
                    model.resize(model.len() + n, 0);
                }
            }
            _ => {
                let (at, value) = (input.below(model.len()), input.byte());
                if let Some(byte) = model.get_mut(at) {
                    *byte = value;
                    builder.as_mut_slice()[at] = value;
                }
            }
        }
    }

    fn check(&self) {
        assert_eq!(self.builder.as_slice(), self.model);
        assert_eq!(self.builder.len(), self.model.len());
    }

    fn finish(&mut self) -> Option<(ArrayRef, ArrayRef)> {
        let bytes = std::mem::take(&mut self.model);
        keep(&mut self.finished, self.builder.finish(), bytes);
        None
    }
}

/// `TypedBufferBuilder`.
pub struct Typed {
    builder: TypedBufferBuilder<[u16; 3]>,
    model: Vec<[u16; 3]>,
    finished: Finished,
}

impl Typed {
    pub fn new(allocator: &BufferAllocator) -> Self {
        Self {
            builder: TypedBufferBuilder::new(allocator),
            model: Vec::new(),
            finished: Vec::new(),
        }
    }
}

impl Subject for Typed {
    fn step(&mut self, input: &mut Input<'_>) {
        let (builder, model) = (&mut self.builder, &mut self.model);
        let value = [input.byte().into(), 7, 9];
        match input.byte() % 5 {
            0 => {
                let more = input.size();
                if builder.reserve(more).is_ok() {
                    assert!(builder.capacity() - builder.len() >= more);
                }
            }
            1 => {
                if builder.append(value).is_ok() {
                    model.push(value);
                }
            }
            2 => {
                let n = input.size();
                if builder.append_n(n, value).is_ok() {
                    model.resize(model.len() + n, value);
                }
            }
            3 => {
                let more = vec![value; input.below(100)];
                if builder.append_slice(&more).is_ok() {
                    model.extend_from_slice(&more);
                }
            }
            _ => {
                let n = input.size();
                if builder.advance(n).is_ok() {
                    model.resize(model.len() + n, [0; 3]);
                }
            }
        }
    }

    fn check(&self) {
        assert_eq!(self.builder.as_slice(), self.model);
        assert_eq!(self.builder.len(), self.model.len());
    }

    fn finish(&mut self) -> Option<(ArrayRef, ArrayRef)> {
        let values = std::mem::take(&mut self.model).into_iter().flatten();
        let bytes = values.flat_map(u16::to_ne_bytes).collect();
        keep(&mut self.finished, self.builder.finish(), bytes);
        None
    }
}

/// `BooleanBufferBuilder`.
pub struct Bits {
    builder: BooleanBufferBuilder,
    model: Vec<bool>,
    finished: Finished,
}

impl Bits {
    pub fn new(allocator: &BufferAllocator) -> Self {
        Self {
            builder: BooleanBufferBuilder::new(allocator),
            model: Vec::new(),
            finished: Vec::new(),
        }
    }
}

impl Subject for Bits {
    fn step(&mut self, input: &mut Input<'_>) {
        let (builder, model) = (&mut self.builder, &mut self.model);
        let bit = input.flag();
        match input.byte() % 6 {
            0 => {
                let more = input.size();
                if builder.reserve(more).is_ok() {
                    assert!(builder.capacity() - builder.len() >= more);
                }
            }
            1 => {
                if builder.append(bit).is_ok() {
                    model.push(bit);
                }
            }
            2 => {
                let n = input.size();
                if builder.append_n(n, bit).is_ok() {
                    model.resize(model.len() + n, bit);
                }
            }
            3 => {
                let n = input.below(40);
                let more: Vec<bool> = input.bytes(n).iter().map(|it| it % 2 == 0).collect();
                if builder.append_slice(&more).is_ok() {
                    model.extend_from_slice(&more);
                }
            }
            4 => {
                if builder.push_within_capacity(bit) {
                    model.push(bit);
                }
            }
            _ => {
                let n = input.size();
                if builder.advance(n).is_ok() {
                    model.resize(model.len() + n, false);
                }
            }
        }
    }

    fn check(&self) {
        assert_eq!(self.builder.len(), self.model.len());
        assert_eq!(self.builder.as_slice(), packed(&self.model));
        let same = |(at, &bit): (usize, &bool)| self.builder.bit(at) == bit;
        assert!(self.model.iter().enumerate().rev().take(20).all(same));
    }

    fn finish(&mut self) -> Option<(ArrayRef, ArrayRef)> {
        let bytes = packed(&std::mem::take(&mut self.model));
        keep(&mut self.finished, self.builder.finish(), bytes);
        None
    }
}

/// The bits as bytes, the unused ones zero.
fn packed(bits: &[bool]) -> Vec<u8> {
    let byte = |bits: &[bool]| {
        let bits = bits.iter().enumerate();
        bits.fold(0, |byte, (at, &bit)| byte | u8::from(bit) << at)
    };
    bits.chunks(8).map(byte).collect()
}

/// `AccountedVec`, of items that own memory.
pub struct Items {
    items: AccountedVec<Box<u8>>,
    model: Vec<Box<u8>>,
    allocator: BufferAllocator,
}

impl Items {
    pub fn new(allocator: &BufferAllocator) -> Self {
        Self {
            items: AccountedVec::new(allocator),
            model: Vec::new(),
            allocator: allocator.clone(),
        }
    }
}

impl Subject for Items {
    fn step(&mut self, input: &mut Input<'_>) {
        let (items, model) = (&mut self.items, &mut self.model);
        let more = vec![Box::new(input.byte()); input.below(60)];
        match input.byte() % 8 {
            0 => drop(items.reserve(input.size())),
            1 => drop(items.reserve_exact(input.size())),
            2 => {
                let item = Box::new(input.byte());
                if items.push(item.clone()).is_ok() {
                    model.push(item);
                }
            }
            3 => {
                if items.extend_from_slice(&more).is_ok() {
                    model.extend(more);
                }
            }
            4 => {
                // The items before the one that is refused stay.
                let complete = items.try_extend(more.iter().cloned()).is_ok();
                let added = items.len() - model.len();
                assert!(added <= more.len() && (!complete || added == more.len()));
                model.extend(more.into_iter().take(added));
            }
            5 => assert_eq!(items.pop(), model.pop()),
            6 => {
                let len = input.size();
                items.truncate(len);
                model.truncate(len);
            }
            _ => {
                items.clear();
                model.clear();
            }
        }
    }

    fn check(&self) {
        assert_eq!(self.items[..], self.model[..]);
        assert!(self.items.capacity() >= self.items.len());
    }

    fn finish(&mut self) -> Option<(ArrayRef, ArrayRef)> {
        let items = std::mem::replace(&mut self.items, AccountedVec::new(&self.allocator));
        let model = std::mem::take(&mut self.model);
        assert!(items.into_iter().eq(model));
        None
    }
}
