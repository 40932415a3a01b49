"""Files of flax: every kind of leaf, and files that are damaged or mean harm."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flax_writer import nest, pack_array, pack_chunks, write_tree
from goldens import GOLDEN
from vidreward.convert.flax_file import read_flax, read_parameters

CHECKPOINT = GOLDEN / "hold_checkpoint_resnet" / "holdr_r14_f5_12ch_sgd.msgpack"
CHUNKED = GOLDEN / "hold_checkpoint_vivit" / "vivit_fe_h24_64px_sgd_chunked.msgpack"


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "int64", "uint8", "uint32", "float16", "float32", "float64", "complex64"]
)
def test_arrays_of_every_dtype(tmp_path: Path, dtype: str) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    read = read_flax(write_tree(tmp_path / "file", nest({"a/b": array, "empty": array[:0]})))
    assert read["a/b"].dtype == array.dtype
    np.testing.assert_array_equal(read["a/b"], array)
    assert read["empty"].shape == (0, 3, 4)


def test_every_kind_of_leaf(tmp_path: Path) -> None:
    wide = np.random.default_rng(0).normal(size=(3, 5, 2)).astype(np.float32)
    numbers = np.array([1, -2.5, 3e38, 0], np.float32)
    halves = (numbers.view(np.uint32) >> 16).astype(np.uint16)
    tree = {
        "step": 3,
        "time": 1.5,
        "count": pack_array(np.asarray(7, np.int32)),
        "scalar": pack_array(np.asarray(2.5, np.float64), code=3),
        "complex": msgpack.ExtType(2, msgpack.packb((1.0, -2.0))),
        "momentum": pack_array(halves, dtype="bfloat16"),
        "wide": pack_chunks(wide, 7),
        "/old/style": {"a//b": pack_array(wide)},
        "pre_logits": {},
        "nothing": None,
    }
    read = read_flax(write_tree(tmp_path / "file", tree))
    assert set(read) == {"step", "time", "count", "scalar", "complex", "momentum", "wide", "old/style/a/b"}
    assert (read["step"], read["time"]) == (3, 1.5)
    assert read["count"].shape == () and int(read["count"]) == 7
    assert float(read["scalar"]) == 2.5
    assert complex(read["complex"]) == 1 - 2j
    assert read["momentum"].dtype == np.float32
    np.testing.assert_allclose(read["momentum"], numbers, rtol=2**-7)  # bfloat16 keeps 8 bits
    np.testing.assert_array_equal(read["wide"], wide)
    np.testing.assert_array_equal(read["old/style/a/b"], wide)


def test_only_what_is_asked_for_is_decoded(tmp_path: Path) -> None:
    broken = msgpack.ExtType(1, b"broken")
    path = write_tree(tmp_path / "file", {"params": {"a": pack_array(np.ones(2))}, "state": {"a": broken}})
    assert list(read_flax(path, under=("params/",))) == ["params/a"]
    with pytest.raises(ValueError, match="state/a: "):
        read_flax(path)


def test_old_trees_get_the_names_of_today(tmp_path: Path) -> None:
    """Before Linen, unnamed modules of all kinds were counted together."""
    one = np.ones(1, np.float32)
    old = {
        "/Conv_0/kernel": one,
        "/Norm_1/scale": one * 2,
        "/Conv_2/kernel": one * 3,
        "/Block_10/Dense_3/bias": one * 5,
    }
    old |= {"/Block_9/Dense_1/bias": one * 4, "/head/bias": one * 6}
    tree = {"optimizer": {"target": {"params": {name: pack_array(leaf) for name, leaf in old.items()}}}}
    tree["model_state"] = {"/Norm_1/mean": pack_array(one)}
    params, stats, step = read_parameters(write_tree(tmp_path / "file", tree))
    assert {name: float(np.asarray(leaf)[0]) for name, leaf in params.items()} == {
        "Conv_0/kernel": 1,
        "Norm_0/scale": 2,
        "Conv_1/kernel": 3,
        "Block_0/Dense_0/bias": 4,
        "Block_1/Dense_0/bias": 5,
        "head/bias": 6,
    }
    assert list(stats) == ["Norm_0/mean"]
    assert step == 0


def test_todays_scenic_trees_are_read(tmp_path: Path) -> None:
    tree = nest({"params/head/bias": np.ones(1, np.float32), "global_step": np.asarray(5, np.int32)})
    params, stats, step = read_parameters(write_tree(tmp_path / "file", tree))
    assert (list(params), stats, step) == (["head/bias"], {}, 5)


def array_of(*record: object) -> msgpack.ExtType:
    return msgpack.ExtType(1, msgpack.packb(record))


ONE = pack_array(np.ones(4, np.float32))
WRONG = {
    "object dtype": (array_of([1], "object", bytes(8)), "dtype 'object'"),
    "unknown dtype": (array_of([1], "float33", bytes(4)), "dtype 'float33'"),
    "structured dtype": (array_of([1], "f4,O", bytes(8)), "dtype 'f4,O'"),
    "dtype is a number": (array_of([1], 5, bytes(4)), "dtype '5'"),
    "too few bytes": (array_of([3], "float32", bytes(8)), "8 bytes; float32 (3,) takes 12"),
    "too many bytes": (array_of([1], "float32", bytes(8)), "8 bytes; float32 (1,) takes 4"),
    "bytes are text": (array_of([1], "float32", 7), "int; float32 (1,) takes 4"),
    "negative side": (array_of([-1, -1], "float32", bytes(4)), "shape [-1, -1]"),
    "enormous side": (array_of([0, 2**60], "float32", b""), "shape [0, 1152921504606846976]"),
    "side is text": (array_of(["3"], "float32", bytes(12)), "shape"),
    "shape is no list": (array_of(3, "float32", bytes(12)), "no array of shape, dtype and bytes"),
    "shape of 33 sides": (array_of([1] * 33, "float32", bytes(4)), "max_array_len"),
    "record of two": (array_of([1], "float32"), "no array of shape, dtype and bytes"),
    "record is a number": (msgpack.ExtType(1, msgpack.packb(3)), "no array of shape, dtype and bytes"),
    "record is empty": (msgpack.ExtType(1, b""), "incomplete"),
    "other extension": (msgpack.ExtType(9, b"x"), "extension type 9"),
    "half a complex": (msgpack.ExtType(2, msgpack.packb((1.0,))), "no complex number"),
    "text": ("text", "holds str"),
    "bytes": (b"bytes", "holds bytes"),
    "list": ([1, 2], "holds list"),
    "chunks without shape": ({"__msgpack_chunked_array__": True, "chunks": {"0": ONE}}, "numbered from 0"),
    "chunks of a list": ({"__msgpack_chunked_array__": True, "shape": {"0": 4}, "chunks": [ONE]}, "numbered from 0"),
    "chunks with a hole": (
        {"__msgpack_chunked_array__": True, "shape": {"0": 8}, "chunks": {"0": ONE, "2": ONE}},
        "numbered from 0",
    ),
    "chunks too short": (
        {"__msgpack_chunked_array__": True, "shape": {"0": 8}, "chunks": {"0": ONE}},
        "4 values for (8,)",
    ),
    "chunks of two dtypes": (
        {
            "__msgpack_chunked_array__": True,
            "shape": {"0": 8},
            "chunks": {"0": ONE, "1": pack_array(np.ones(4, np.int32))},
        },
        "not flat arrays of one dtype",
    ),
    "chunks in chunks": (
        {"__msgpack_chunked_array__": True, "shape": {"0": 4}, "chunks": {"0": {"__msgpack_chunked_array__": True}}},
        "numbered from 0",
    ),
    "no chunks": ({"__msgpack_chunked_array__": True, "shape": {"0": 0}, "chunks": {}}, "not flat arrays"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_leaf_is_named(tmp_path: Path, name: str) -> None:
    leaf, part = WRONG[name]
    path = write_tree(tmp_path / "wrong.msgpack", {"tree": {"leaf": leaf}})
    with pytest.raises(ValueError, match=r"wrong\.msgpack") as caught:
        read_flax(path)
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "empty"),
        (b"\x80\x00", "extra"),
        (b"\x81\xa1a\xc1", "begins nothing known"),
        (b"PK\x03\x04 a zip file", "extra"),
        (msgpack.packb([1, 2]), "holds list"),
        (msgpack.packb({1: 2}), "int is not allowed for map key"),
        (msgpack.packb({b"bytes": 2}), "is no text"),
        (msgpack.packb({"a": {"b": 1}, "a/b": 2}), "a/b is there twice"),
        (b"\xdd\xff\xff\xff\xff", "max_array_len"),
        (b"\x81\xa1a\xdf\xff\xff\xff\xff", "max_map_len"),
        (b"\x81\xa1a\xc6\xff\xff\xff\xff", "incomplete"),
        (b"\x81\xa1a\xc9\xff\xff\xff\xff\x01", "max_ext_len"),
        (b"\x81\xdb\xff\xff\xff\xff", "incomplete"),
        (b"\x81\xa1a" * 100_000, "too many maps"),
        (b"\x81\xa1a" * 200 + b"\x01", "more than 64 maps"),
        (b"\xdc\x00\x20" * 100_000, "too many maps"),
        (b"\x81\xa1a\xd7\xff" + bytes(8), "holds Timestamp"),
    ],
)
def test_a_file_that_is_no_tree_is_refused_without_much_memory(tmp_path: Path, content: bytes, part: str) -> None:
    path = tmp_path / "wrong.msgpack"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"wrong\.msgpack") as caught:
            read_flax(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert part in str(caught.value)
    assert peak < 20e6


def test_a_path_that_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"absent is not there; give the checkpoint file"):
        read_flax(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"is a folder; give the checkpoint file"):
        read_flax(tmp_path)


@given(where=st.floats(0, 1, exclude_max=True), chunked=st.booleans())
def test_a_truncated_file_is_refused(tmp_path_factory: pytest.TempPathFactory, where: float, chunked: bool) -> None:
    content = (CHUNKED if chunked else CHECKPOINT).read_bytes()
    path = tmp_path_factory.getbasetemp() / "cut.msgpack"
    path.write_bytes(content[: int(where * len(content))])
    with pytest.raises(ValueError, match=r"cut\.msgpack"):
        read_flax(path)


@given(
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=20), st.booleans()
)
def test_flipped_bytes_give_an_error_or_other_numbers(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[float, int]], chunked: bool
) -> None:
    content = bytearray((CHUNKED if chunked else CHECKPOINT).read_bytes())
    for where, byte in flips:
        # half of the flips hit the names, lengths and codes, which lie thickest at the file's end
        content[int(-(where**4) * len(content)) - 1 if byte % 2 else int(where * len(content))] = byte
    path = tmp_path_factory.getbasetemp() / "flipped.msgpack"
    path.write_bytes(content)
    said = ""
    try:
        read_flax(path)
    except ValueError as error:
        said = str(error)
    assert not said or "flipped.msgpack" in said
