#!/usr/bin/env python3
"""Sends arrays of pyarrow through two trees of allocators and back, over the C Device Data Interface.

    pyarrow_round_trip.py LIBRARY

LIBRARY is the output of `cargo build -p arrow-memory-device --example c_device`. `.ci/pyarrow.sh` runs both. Each array
goes to Rust and back, and to a simulated device and back. Checks the values in both directions, and the accounting on the
Rust side. pyarrow knows no device but the CPU, so that is where its arrays are, and it has no streams of this interface:
`arrow_cpp.cc` has those."""

import ctypes
import gc
import sys

import pyarrow as pa

library = ctypes.CDLL(sys.argv[1])
POINTER, SIZE, BOOL = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_bool
for name, result, arguments in [
    ("trees_new", POINTER, [SIZE]),
    ("trees_allocated", SIZE, [POINTER, BOOL]),
    ("trees_set_limit", None, [POINTER, SIZE]),
    ("trees_close", BOOL, [POINTER]),
    ("import_array", POINTER, [POINTER, POINTER, POINTER, POINTER]),
    ("copy_to", POINTER, [POINTER, POINTER, BOOL, POINTER]),
    ("export_array", BOOL, [POINTER, SIZE, SIZE, POINTER, POINTER]),
    ("release", None, [POINTER]),
    ("free_message", None, [POINTER]),
]:
    function = getattr(library, name)
    function.restype, function.argtypes = result, arguments


class Refused(Exception):
    pass


class Structures:
    """Memory for an ArrowDeviceArray and an ArrowSchema."""

    def __init__(self):
        self.memory = ctypes.create_string_buffer(256)
        self.array = ctypes.addressof(self.memory)
        self.schema = self.array + 128


class Trees:
    def __init__(self, limit=1 << 30):
        self.pointer = library.trees_new(limit)
        assert self.pointer

    def cpu(self):
        return library.trees_allocated(self.pointer, False)

    def device(self):
        return library.trees_allocated(self.pointer, True)

    def set_limit(self, limit):
        library.trees_set_limit(self.pointer, limit)

    def take(self, array):
        """Imports an array or a batch, moving it."""
        structures = Structures()
        array._export_to_c_device(structures.array, structures.schema)
        return self.handle(library.import_array, structures.array, structures.schema)

    def copy(self, held, to_device):
        return self.handle(library.copy_to, held, to_device)

    def handle(self, function, *arguments):
        message = ctypes.c_void_p()
        held = function(self.pointer, *arguments, ctypes.byref(message))
        if not held:
            text = ctypes.string_at(message.value).decode()
            library.free_message(message)
            raise Refused(text)
        return held

    def close(self):
        assert library.trees_close(self.pointer), "outstanding"


def give(held, offset, length, of=pa.Array):
    structures = Structures()
    assert library.export_array(held, offset, length, structures.array, structures.schema)
    return of._import_from_c_device(structures.array, structures.schema)


def samples():
    ints = [1, None, 3, 4, None, 6]
    for data_type in [pa.int8(), pa.uint16(), pa.int32(), pa.float64(), pa.timestamp("ns", "UTC"), pa.date32()]:
        wide = pa.array(ints, pa.int32() if data_type.bit_width == 32 else pa.int64())
        yield str(data_type), wide.cast(data_type)
    yield "bool", pa.array([True, None, False, True])
    yield "null", pa.nulls(5)
    yield "decimal", pa.array([1, None], pa.int64()).cast(pa.decimal128(21, 2))
    yield "decimal256", pa.array([1, None], pa.int64()).cast(pa.decimal256(50, 2))
    yield "interval", pa.array([pa.MonthDayNano([1, 2, 3]), None])
    texts = ["one", None, "", "a text that is longer than twelve bytes", "zwölf"]
    for data_type in [pa.string(), pa.large_string(), pa.string_view()]:
        yield str(data_type), pa.array(texts, data_type)
    for data_type in [pa.binary(), pa.large_binary(), pa.binary_view()]:
        yield str(data_type), pa.array([t and t.encode() for t in texts], data_type)
    yield "fixed binary", pa.array([b"abc", None, b"def"], pa.binary(3))
    lists = [[1, 2], None, [], [3, None]]
    for data_type in [pa.list_(pa.int32()), pa.large_list(pa.int32()), pa.list_view(pa.int32())]:
        yield str(data_type), pa.array(lists, data_type)
    yield "fixed list", pa.array([[1, 2], None, [3, None]], pa.list_(pa.int32(), 2))
    yield "struct", pa.array([{"a": 1, "b": "x"}, None, {"a": None, "b": "y"}])
    yield "nested", pa.array([[{"a": [1, 2]}, None], None, [], [{"a": None}]])
    yield "map", pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int32()))
    yield "dictionary", pa.array(["a", None, "b", "a"]).dictionary_encode()
    yield "runs", pa.RunEndEncodedArray.from_arrays(pa.array([2, 5], pa.int32()), pa.array(["a", None]))
    ids = pa.array([0, 1, 0], pa.int8())
    yield "sparse union", pa.UnionArray.from_sparse(ids, [pa.array([1, 2, 3]), pa.array(["a", "b", None])])
    offsets = pa.array([0, 0, 1], pa.int32())
    yield "dense union", pa.UnionArray.from_dense(ids, offsets, [pa.array([1, 2]), pa.array(["a"])])


def check(name, back, array):
    back.validate(full=True)
    assert back.type == array.type and back.equals(array), f"{name}: {back} against {array}"


def round_trip(trees, name, array):
    held = trees.take(array)
    charged = trees.cpu()
    check(name, give(held, 0, len(array)), array)
    gc.collect()
    assert trees.cpu() == charged, f"{name}: an export charges nothing"
    if len(array) > 2:
        check(f"{name}, sliced", give(held, 1, len(array) - 2), array.slice(1, len(array) - 2))

    there = trees.copy(held, True)
    assert (trees.device() > 0) == (charged > 0), name
    library.release(held)
    gc.collect()
    assert trees.cpu() == 0, f"{name}: the copy does not hold the source"
    back = trees.copy(there, False)
    library.release(there)
    assert trees.device() == 0, name
    returned = give(back, 0, len(array))
    library.release(back)
    assert (trees.cpu() > 0) == (charged > 0), f"{name}: Python holds the buffers"
    check(f"{name}, by way of the device", returned, array)
    del returned
    gc.collect()
    assert trees.cpu() == 0, name


def limits(trees, python):
    """A refused import raises, and the source is released once."""
    large = pa.array(range(100_000), pa.int64())
    trees.set_limit(1000)
    before = pa.total_allocated_bytes()
    try:
        trees.take(large)
        raise AssertionError("not refused")
    except Refused as refused:
        assert "out of room" in str(refused), refused
    assert pa.total_allocated_bytes() == before
    trees.set_limit(800_000)
    held = trees.take(large)
    assert trees.cpu() == 800_000
    del large
    assert pa.total_allocated_bytes() >= 800_000, "we hold Python's memory"
    library.release(held)
    gc.collect()
    assert pa.total_allocated_bytes() - python < 800_000, "and gave it back"


def main():
    trees, python, count = Trees(), pa.total_allocated_bytes(), 0
    for name, array in samples():
        variants = [(name, array), (f"{name}, empty", array.slice(0, 0))]
        if len(array) > 2:
            variants.append((f"{name}, a slice", array.slice(1, len(array) - 2)))
        for variant, values in variants:
            round_trip(trees, variant, values)
            count += 1
        del array, variants, values
    batch = pa.record_batch([pa.array([1, 2]), pa.array(["a", None])], ["n", "t"])
    held = trees.take(batch)
    assert give(held, 0, 2, pa.RecordBatch) == batch
    library.release(held)
    limits(trees, python)
    gc.collect()
    assert (trees.cpu(), trees.device()) == (0, 0)
    trees.close()
    print(f"{count} arrays went to a simulated device and back; pyarrow {pa.__version__}")


main()
