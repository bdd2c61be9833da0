#!/usr/bin/env python3
"""Sends arrays of pyarrow through a tree of allocators and back, over the C Data Interface.

    pyarrow_round_trip.py LIBRARY

LIBRARY is the output of `cargo build -p arrow-memory-arrow --example c_data`. `.ci/pyarrow.sh` runs both.
Checks the values in both directions, and the accounting on the Rust side."""

import ctypes
import datetime
import decimal
import gc
import sys

import pyarrow as pa

library = ctypes.CDLL(sys.argv[1])
POINTER, SIZE = ctypes.c_void_p, ctypes.c_size_t
for name, result, arguments in [
    ("tree_new", POINTER, [SIZE]),
    ("tree_allocated", SIZE, [POINTER]),
    ("tree_set_limit", None, [POINTER, SIZE]),
    ("tree_close", ctypes.c_bool, [POINTER]),
    ("import_from_c", POINTER, [POINTER, POINTER, POINTER, POINTER]),
    ("export_to_c", ctypes.c_bool, [POINTER, SIZE, SIZE, POINTER, POINTER]),
    ("accounted_size", SIZE, [POINTER]),
    ("release", None, [POINTER]),
    ("free_message", None, [POINTER]),
]:
    function = getattr(library, name)
    function.restype, function.argtypes = result, arguments


class Refused(Exception):
    pass


class Structures:
    """Memory for an ArrowArray and an ArrowSchema."""

    def __init__(self):
        self.memory = ctypes.create_string_buffer(256)
        self.array = ctypes.addressof(self.memory)
        self.schema = self.array + 128


class Tree:
    def __init__(self, limit=1 << 30):
        self.pointer = library.tree_new(limit)

    def allocated(self):
        return library.tree_allocated(self.pointer)

    def set_limit(self, limit):
        library.tree_set_limit(self.pointer, limit)

    def take(self, array):
        """Imports an array, moving it."""
        structures = Structures()
        array._export_to_c(structures.array, structures.schema)
        message = ctypes.c_void_p()
        held = library.import_from_c(
            self.pointer, structures.array, structures.schema, ctypes.byref(message)
        )
        if not held:
            text = ctypes.string_at(message.value).decode()
            library.free_message(message)
            raise Refused(text)
        return Held(held, len(array))

    def close(self):
        assert library.tree_close(self.pointer), "outstanding"


class Held:
    def __init__(self, pointer, length):
        self.pointer, self.length = pointer, length

    def give(self, offset=0, length=None):
        structures = Structures()
        length = self.length - offset if length is None else length
        assert library.export_to_c(
            self.pointer, offset, length, structures.array, structures.schema
        )
        return pa.Array._import_from_c(structures.array, structures.schema)

    def accounted_size(self):
        return library.accounted_size(self.pointer)

    def release(self):
        library.release(self.pointer)


def dense_union():
    ids = pa.array([0, 1, 0, 1], pa.int8())
    offsets = pa.array([0, 0, 1, 1], pa.int32())
    return pa.UnionArray.from_dense(ids, offsets, [pa.array([1, 2]), pa.array(["a", None])])


def sparse_union():
    ids = pa.array([0, 1, 0], pa.int8())
    return pa.UnionArray.from_sparse(ids, [pa.array([1, 2, 3]), pa.array(["a", "b", None])])


def samples():
    ints = [1, None, 3, 4, None, 6]
    for data_type in [
        pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(),
        pa.uint64(), pa.float32(), pa.float64(), pa.date32(), pa.date64(), pa.time32("s"),
        pa.time32("ms"), pa.time64("us"), pa.time64("ns"), pa.timestamp("s"),
        pa.timestamp("ms", "UTC"), pa.timestamp("us"), pa.timestamp("ns", "Europe/Berlin"),
        pa.duration("s"), pa.duration("ns"),
    ]:  # fmt: skip
        plain = pa.array(ints, pa.int64())
        if pa.types.is_date64(data_type):
            plain = pa.array([None if n is None else n * 86_400_000 for n in ints], pa.int64())
        yield str(data_type), plain.cast(pa.int32()).cast(data_type) if data_type.bit_width == 32 and (
            pa.types.is_temporal(data_type)
        ) else plain.cast(data_type)
    yield "half", pa.array([1.5, None, 2.0], pa.float32()).cast(pa.float16())
    yield "bool", pa.array([True, None, False, True])
    yield "null", pa.nulls(5)
    decimals = [decimal.Decimal("1.25"), None, decimal.Decimal("-9.75")]
    yield "decimal128", pa.array(decimals, pa.decimal128(20, 2))
    yield "decimal256", pa.array(decimals, pa.decimal256(50, 2))
    if hasattr(pa, "decimal32"):
        yield "decimal32", pa.array(decimals, pa.decimal32(7, 2))
        yield "decimal64", pa.array(decimals, pa.decimal64(12, 2))
    yield "interval", pa.array([pa.MonthDayNano([1, 2, 3]), None])
    texts = ["one", None, "", "a text that is longer than twelve bytes", "zwölf"]
    for data_type in [pa.string(), pa.large_string(), pa.string_view()]:
        yield str(data_type), pa.array(texts, data_type)
    for data_type in [pa.binary(), pa.large_binary(), pa.binary_view()]:
        yield str(data_type), pa.array([t and t.encode() for t in texts], data_type)
    yield "fixed binary", pa.array([b"abc", None, b"def"], pa.binary(3))
    lists = [[1, 2], None, [], [3, None]]
    yield "list", pa.array(lists, pa.list_(pa.int32()))
    yield "large list", pa.array(lists, pa.large_list(pa.int32()))
    yield "list view", pa.array(lists, pa.list_view(pa.int32()))
    yield "fixed list", pa.array([[1, 2], None, [3, None]], pa.list_(pa.int32(), 2))
    structs = [{"a": 1, "b": "x"}, None, {"a": None, "b": "y"}]
    yield "struct", pa.array(structs)
    yield "nested", pa.array([[{"a": [1, 2]}, None], None, [], [{"a": None}]])
    yield "map", pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int32()))
    yield "dictionary", pa.array(["a", None, "b", "a"]).dictionary_encode()
    yield "dictionary of lists", pa.DictionaryArray.from_arrays(
        pa.array([1, 0, None], pa.int8()), pa.array([[1], [2, 3]])
    )
    yield "runs", pa.RunEndEncodedArray.from_arrays(pa.array([2, 5], pa.int32()), pa.array(["a", None]))
    yield "dense union", dense_union()
    yield "sparse union", sparse_union()


def round_trip(tree, name, array):
    before = tree.allocated()
    held = tree.take(array)
    charged = tree.allocated() - before
    # The size does not include masks without nulls, which some arrays keep but arrow-rs does not return.
    shown = held.accounted_size()
    assert 0 <= charged - shown <= 8, name
    back = held.give()
    back.validate(full=True)
    assert back.type == array.type and back.equals(array), f"{name}: {back} against {array}"

    # An exported slice is charged for shifted null masks at most.
    if len(array) > 2 and not pa.types.is_run_end_encoded(array.type):
        sliced = held.give(1, len(array) - 2)
        sliced.validate(full=True)
        assert sliced.equals(array.slice(1, len(array) - 2)), f"{name} sliced: {sliced}"
        assert 0 <= tree.allocated() - before - charged <= 4 * 64, name
        del sliced

    # The array that Python holds keeps the charge after the release on the Rust side, until it is dropped.
    held.release()
    assert tree.allocated() - before >= (shown if len(array) else 0), name
    unread = back
    del back, unread
    gc.collect()
    assert tree.allocated() == before, name
    return charged


def main():
    tree, python = Tree(), pa.total_allocated_bytes()
    count = 0
    for name, array in samples():
        variants = [(name, array), (f"{name}, empty", array.slice(0, 0))]
        if len(array) > 2:
            variants.append((f"{name}, a slice", array.slice(1, len(array) - 2)))
        if array.type not in (pa.null(),) and not pa.types.is_union(array.type):
            try:
                variants.append((f"{name}, all null", pa.nulls(3, array.type)))
            except pa.ArrowNotImplementedError:
                pass
        for variant, values in variants:
            round_trip(tree, variant, values)
            count += 1
        del array, variants, values

    # The import is refused: it raises an error, and the source is released once.
    large = pa.array(range(100_000), pa.int64())
    tree.set_limit(1000)
    before = pa.total_allocated_bytes()
    try:
        tree.take(large)
        raise AssertionError("not refused")
    except Refused as refused:
        assert "out of room" in str(refused), refused
    assert pa.total_allocated_bytes() == before
    tree.set_limit(800_000)
    held = tree.take(large)
    assert held.accounted_size() == 800_000
    del large
    assert pa.total_allocated_bytes() >= 800_000, "we hold Python's memory"
    held.release()
    gc.collect()
    assert pa.total_allocated_bytes() - python < 800_000, "and gave it back"

    assert tree.allocated() == 0
    tree.close()
    print(f"{count} arrays went to Rust and back; pyarrow {pa.__version__}")


main()
