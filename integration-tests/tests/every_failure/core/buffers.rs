//! Buffers of the tree's manager.

use std::io::Write;

use arrow_memory_core::{ArrowBuf, BooleanBufferBuilder, BufferBuilder, TypedBufferBuilder};

use crate::sweep::{Operation, op};
use crate::world::{World, done};

pub(crate) const OPERATIONS: &[Operation] = &[
    op("BufferAllocator::buffer", |w| {
        w.act(&mut (), |()| w.leaf.buffer(100));
    }),
    op("BufferAllocator::buffer beyond the reservation", |w| {
        w.act(&mut (), |()| w.leaf.buffer(100_000));
    }),
    op("BufferAllocator::buffer of nothing", |w| {
        w.act(&mut (), |()| w.leaf.buffer(0));
    }),
    op("BufferAllocator::buffer when memory is short", |w| {
        w.fill_cache();
        w.act(&mut (), |()| w.leaf.buffer(5000));
    }),
    op("BufferAllocator::buffer_zeroed", |w| {
        w.act(&mut (), |()| w.leaf.buffer_zeroed(5000));
    }),
    op("BufferAllocator::buffer_aligned", |w| {
        w.act(&mut (), |()| w.leaf.buffer_aligned(100, 4096));
    }),
    op("BufferAllocator::buffer_from_slice", |w| {
        w.act(&mut (), |()| w.leaf.buffer_from_slice(&[1; 300]));
    }),
    op("ArrowBufMut::resize", |w| {
        let mut buffer = w.leaf.buffer_zeroed(100).unwrap();
        w.act(&mut buffer, |buffer| buffer.resize(5000, 1));
    }),
    op("ArrowBufMut::resize when memory is short", |w| {
        let mut buffer = w.leaf.buffer_zeroed(100).unwrap();
        w.fill_cache();
        w.act(&mut buffer, |buffer| buffer.resize(5000, 1));
    }),
    op("ArrowBufMut::resize of an empty one", |w| {
        let mut buffer = w.leaf.buffer(0).unwrap();
        w.act(&mut buffer, |buffer| buffer.resize(5000, 1));
    }),
    op("ArrowBufMut::try_reserve", |w| {
        let mut buffer = w.leaf.buffer_zeroed(640).unwrap();
        w.act(&mut buffer, |buffer| buffer.try_reserve(64));
    }),
    op("ArrowBufMut::extend_from_slice", |w| {
        let mut buffer = w.leaf.buffer_zeroed(640).unwrap();
        w.act(&mut buffer, |buffer| buffer.extend_from_slice(&[1; 64]));
    }),
    op("ArrowBufMut::extend_from_slice of a half", |w| {
        let mut left = w.leaf.buffer_zeroed(256).unwrap();
        let right = left.split_off(128);
        w.act(&mut (left, right), |(left, _)| {
            left.extend_from_slice(&[1; 64])
        });
    }),
    op("ArrowBufMut::write", |w| {
        let mut buffer = w.leaf.buffer_zeroed(64).unwrap();
        w.act(&mut buffer, |buffer| buffer.write(&[1; 64]));
    }),
    op("ArrowBufMut::shrink_to_fit", |w| {
        let mut buffer = w.leaf.buffer_zeroed(5000).unwrap();
        buffer.truncate(10);
        w.act(&mut buffer, |buffer| buffer.shrink_to_fit());
    }),
    op("ArrowBufMut::shrink_to_fit to nothing", |w| {
        let mut buffer = w.leaf.buffer_zeroed(5000).unwrap();
        buffer.clear();
        w.act(&mut buffer, |buffer| buffer.shrink_to_fit());
    }),
    op("ArrowBufMut::split_off", |w| {
        let mut buffer = w.leaf.buffer_zeroed(256).unwrap();
        w.act(&mut buffer, |buffer| done(buffer.split_off(128)));
    }),
    op("ArrowBufMut::split_to", |w| {
        let mut buffer = w.leaf.buffer_zeroed(256).unwrap();
        w.act(&mut buffer, |buffer| done(buffer.split_to(128)));
    }),
    op("ArrowBufMut::freeze", |w| {
        let mut buffer = w.leaf.buffer_zeroed(100).ok();
        w.act(&mut buffer, |it| done(it.take().map(|it| it.freeze())));
    }),
    op("ArrowBufMut::transfer_ownership", |w| {
        let mut buffer = w.leaf.buffer_zeroed(100).unwrap();
        w.act(&mut buffer, |it| it.transfer_ownership(&w.right));
    }),
    op("ArrowBufMut::drop", |w| {
        let mut buffer = w.leaf.buffer_zeroed(100).ok();
        w.act_quietly(&mut buffer, |it| drop(it.take()));
    }),
    op("ArrowBuf::try_into_mut", |w| {
        let mut buffer = Some(w.buffer(&w.leaf, 100));
        w.act(&mut buffer, |it| {
            done(it.take().and_then(|it| it.try_into_mut().ok()))
        });
    }),
    op("ArrowBuf::slice", |w| {
        let mut buffer = w.buffer(&w.leaf, 100);
        w.act(&mut buffer, |it| done(it.slice(10..20)));
    }),
    op("ArrowBuf::try_slice", |w| {
        let mut buffer = w.buffer(&w.leaf, 100);
        w.act(&mut buffer, |it| it.try_slice(10, 20));
    }),
    op("ArrowBuf::clone", |w| {
        let mut buffer = w.buffer(&w.leaf, 100);
        w.act(&mut buffer, |it| done(it.clone()));
    }),
    op("ArrowBuf::compact", |w| {
        let mut buffer = w.buffer(&w.leaf, 1000).slice(10..20);
        w.act(&mut buffer, |it| it.compact());
    }),
    op("ArrowBuf::retain_in", |w| {
        let mut buffer = w.buffer(&w.leaf, 100);
        w.act(&mut buffer, |it| it.retain_in(&w.right));
    }),
    op("ArrowBuf::transfer_ownership", |w| {
        let mut buffer = w.buffer(&w.leaf, 100);
        w.act(&mut buffer, |it| it.transfer_ownership(&w.right));
    }),
    op("ArrowBuf::transfer_ownership over a limit", |w| {
        let mut buffer = w.buffer(&w.leaf, 100);
        w.right.set_limit(64);
        w.act(&mut buffer, |it| it.transfer_ownership(&w.right));
    }),
    op("ArrowBuf::try_transfer_ownership", |w| {
        let mut buffer = w.buffer(&w.leaf, 2000);
        w.act(&mut buffer, |it| it.try_transfer_ownership(&w.right));
    }),
    op("ArrowBuf::adopt", |w| {
        let mut buffer = Some(w.buffer(&w.leaf, 100));
        w.act(&mut buffer, |it| consume(it, |it| it.adopt(&w.right)));
    }),
    op("ArrowBuf::try_move_to", |w| {
        let mut buffer = Some(w.buffer(&w.leaf, 100));
        w.act(&mut buffer, |it| consume(it, |it| it.try_move_to(&w.right)));
    }),
    op("ArrowBuf::drop", |w| {
        let mut buffer = Some(w.buffer(&w.leaf, 100));
        w.act_quietly(&mut buffer, |it| drop(it.take()));
    }),
    op("ArrowBuf::drop of the owner", |w| {
        let buffer = w.buffer(&w.leaf, 100);
        let shared = buffer.retain_in(&w.right).unwrap();
        w.act_quietly(&mut (Some(buffer), shared), |it| drop(it.0.take()));
    }),
    op("ArrowBuf::drop of one that shares", |w| {
        let buffer = w.buffer(&w.leaf, 100);
        let shared = buffer.retain_in(&w.right).unwrap();
        w.act_quietly(&mut (buffer, Some(shared)), |it| drop(it.1.take()));
    }),
    op(
        "ArrowBuf::drop of the last one of a retired allocator",
        |w| {
            let child = w.leaf.child("child").build().unwrap();
            let mut buffer = Some(w.buffer(&child, 100));
            child.retire();
            drop(child);
            w.act_quietly(&mut buffer, |it| drop(it.take()));
        },
    ),
    op("BufferBuilder::append", |w| {
        let mut builder = BufferBuilder::new(&w.leaf);
        w.act(&mut builder, |it| it.append(1));
    }),
    op("BufferBuilder::append_n", |w| {
        let mut builder = filled(w);
        w.act(&mut builder, |it| it.append_n(100, 1));
    }),
    op("BufferBuilder::append_slice", |w| {
        let mut builder = filled(w);
        w.act(&mut builder, |it| it.append_slice(&[1; 100]));
    }),
    op("BufferBuilder::advance", |w| {
        let mut builder = filled(w);
        w.act(&mut builder, |it| it.advance(100));
    }),
    op("BufferBuilder::reserve", |w| {
        let mut builder = filled(w);
        w.act(&mut builder, |it| it.reserve(100));
    }),
    op("BufferBuilder::finish", |w| {
        let mut builder = filled(w);
        w.act(&mut builder, |it| done(it.finish()));
    }),
    op("TypedBufferBuilder::append", |w| {
        let mut builder = TypedBufferBuilder::<u64>::new(&w.leaf);
        w.act(&mut builder, |it| it.append(1));
    }),
    op("TypedBufferBuilder::append_n", |w| {
        let mut builder = typed(w);
        w.act(&mut builder, |it| it.append_n(100, 1));
    }),
    op("TypedBufferBuilder::append_slice", |w| {
        let mut builder = typed(w);
        w.act(&mut builder, |it| it.append_slice(&[1; 100]));
    }),
    op("TypedBufferBuilder::advance", |w| {
        let mut builder = typed(w);
        w.act(&mut builder, |it| it.advance(100));
    }),
    op("TypedBufferBuilder::reserve", |w| {
        let mut builder = typed(w);
        w.act(&mut builder, |it| it.reserve(100));
    }),
    op("TypedBufferBuilder::finish", |w| {
        let mut builder = typed(w);
        w.act(&mut builder, |it| done(it.finish()));
    }),
    op("BooleanBufferBuilder::append", |w| {
        let mut builder = BooleanBufferBuilder::new(&w.leaf);
        w.act(&mut builder, |it| it.append(true));
    }),
    op("BooleanBufferBuilder::append_n", |w| {
        let mut builder = bits(w);
        w.act(&mut builder, |it| it.append_n(1000, true));
    }),
    op("BooleanBufferBuilder::append_slice", |w| {
        let mut builder = bits(w);
        w.act(&mut builder, |it| it.append_slice(&[true; 1000]));
    }),
    op("BooleanBufferBuilder::advance", |w| {
        let mut builder = bits(w);
        w.act(&mut builder, |it| it.advance(1000));
    }),
    op("BooleanBufferBuilder::reserve", |w| {
        let mut builder = bits(w);
        w.act(&mut builder, |it| it.reserve(1000));
    }),
    op("BooleanBufferBuilder::finish", |w| {
        let mut builder = bits(w);
        w.act(&mut builder, |it| done(it.finish()));
    }),
];

fn filled(w: &World) -> BufferBuilder {
    let mut builder = BufferBuilder::new(&w.leaf);
    builder.append_slice(&[7; 60]).unwrap();
    builder
}

fn typed(w: &World) -> TypedBufferBuilder<u64> {
    let mut builder = TypedBufferBuilder::new(&w.leaf);
    builder.append_slice(&[7; 6]).unwrap();
    builder
}

fn bits(w: &World) -> BooleanBufferBuilder {
    let mut builder = BooleanBufferBuilder::new(&w.leaf);
    builder.append_n(500, true).unwrap();
    builder
}

/// Passes a buffer on by value, and puts it back if it was refused.
fn consume<E>(
    slot: &mut Option<ArrowBuf>,
    act: impl FnOnce(ArrowBuf) -> Result<ArrowBuf, arrow_memory_core::Refused<ArrowBuf, E>>,
) -> Result<ArrowBuf, E> {
    let buffer = slot.take().expect("it was put back");
    act(buffer).map_err(|refused| {
        *slot = Some(refused.value);
        refused.source
    })
}
