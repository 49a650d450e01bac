"""Pickles from elsewhere, read as data: nothing that the file names is ever imported or called.

`pickletools.genops` takes the file apart; a small stack machine puts containers, strings, numbers
and numpy arrays together again. Everything else is refused by name. The standard unpickler with a
restricted `find_class` would still hand numpy a forged dtype state and, for one changed byte in a
memo index, reserve tens of gigabytes.
"""

import collections
import math
import os
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from utils.paths import require_file

REMEDY = "get or make the file again"
PLAIN_DTYPE = re.compile(r"[<>=|]?[biufcSUO][0-9]{0,9}")  # neither structured nor time types
DAMAGE = (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError, MemoryError)


def load_foreign(path: str | Path) -> Any:
    """The content of a pickle of lists, tuples, dicts, sets, strings, numbers and numpy arrays.

    Any protocol; strings of Python 2 come as latin-1 text, arrays are writable copies. ValueError,
    naming the file, when it is truncated, damaged, longer than its pickle or refers to anything
    else (which is refused without being imported); FileNotFoundError when there is no such file.
    """
    path = require_file(path, "give the path of a pickle file")
    with open(path, "rb") as file:
        reader = _BoundedReader(file)
        try:
            value = _StackMachine().run(reader)
        except _RefusedError as error:
            raise ValueError(
                f"{path} refers to {error}, but only containers, strings, numbers and numpy "
                "arrays are admitted; store plain data instead"
            ) from error
        except DAMAGE as error:
            raise ValueError(
                f"{path} is not a whole pickle (near byte {reader.tell()} of {reader.size}: "
                f"{error or type(error).__name__}); {REMEDY}"
            ) from error
    return value


class _RefusedError(Exception):
    """The pickle asks for something which is not plain data."""


class _BoundedReader:
    """A file whose reads never reserve more memory than the file has bytes left."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.size = os.fstat(file.fileno()).st_size
        self.readline = file.readline
        self.tell = file.tell

    def read(self, count: int) -> bytes:
        if count > self.size - self.file.tell():
            raise ValueError(f"{count} bytes are announced, the file ends before")
        return self.file.read(count)


class _Name:
    """A global which the pickle refers to: text, never an object."""

    def __init__(self, module: str, name: str) -> None:
        self.text = f"{module}.{name}"


class _Dtype:
    """A dtype under construction: first its code, then (BUILD) its byte order."""

    def __init__(self, code: Any, *_: Any) -> None:
        code = _as_text(code)
        if not PLAIN_DTYPE.fullmatch(code):
            raise _RefusedError(f"an array of type {code!r}")
        self.dtype = np.dtype(code)

    def build(self, state: tuple) -> None:
        """`state`: (version, byte order, subarray, names, fields, item size, alignment, flags)."""
        if any(part is not None for part in state[2:5]):
            raise _RefusedError("a structured array")
        if self.dtype.kind in "iufcU":
            self.dtype = self.dtype.newbyteorder(_as_text(state[1]))


def _as_text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if not isinstance(value, str):
        raise TypeError(f"text expected, not {type(value).__name__}")
    return value


def _as_bytes(value: Any) -> bytes | bytearray:
    """Array data; those written by Python 2 come as latin-1 text."""
    if isinstance(value, str):
        return value.encode("latin-1")
    if not isinstance(value, bytes | bytearray):
        raise TypeError(f"array data expected, not {type(value).__name__}")
    return value


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Protocols 0 to 2 write bytes as text and `_codecs.encode(text, 'latin1')`."""
    if encoding not in ("latin1", "latin-1"):
        raise _RefusedError(f"the codec {encoding!r}")
    return text.encode("latin-1")


def _check_array(shape: tuple, dtype: np.dtype, count: int) -> None:
    """ValueError unless `count` items or bytes are what `shape` and `dtype` need."""
    if not all(isinstance(size, int) and size >= 0 for size in shape):
        raise ValueError(f"an array of shape {shape}")
    item = 1 if dtype.kind == "O" else dtype.itemsize
    if item == 0 or math.prod(shape) * item != count:
        raise ValueError(f"an array of shape {shape} and type {dtype} with {count} bytes of data")


def _fill_array(array: np.ndarray, state: tuple) -> None:
    """BUILD of an array; `state`: (version, shape, dtype, Fortran order, bytes or list)."""
    _, shape, dtype, fortran, data = state
    if not isinstance(dtype, _Dtype):
        raise TypeError("an array without a type")
    if dtype.dtype.kind != "O":
        data = bytes(_as_bytes(data))
    elif not isinstance(data, list):
        raise TypeError("an array of objects without a list")
    _check_array(shape, dtype.dtype, len(data))
    cast(Any, array).__setstate__((1, shape, dtype.dtype, bool(fortran), data))


def _array_from_buffer(data: Any, dtype: _Dtype, shape: tuple, order: str) -> np.ndarray:
    data = _as_bytes(data)
    _check_array(shape, dtype.dtype, len(data))
    flat = np.frombuffer(data, dtype.dtype) if data else np.empty(0, dtype.dtype)
    return flat.reshape(shape, order="F" if order == "F" else "C").copy(order="K")


def _scalar(dtype: _Dtype, data: Any) -> Any:
    data = _as_bytes(data)
    _check_array((), dtype.dtype, len(data))
    return np.frombuffer(data, dtype.dtype)[0]


def _empty_array(subtype: Any, *_: Any) -> np.ndarray:
    if not isinstance(subtype, _Name) or subtype.text != "numpy.ndarray":
        raise _RefusedError(getattr(subtype, "text", repr(subtype)))
    return np.empty(0)


def _plain_key(key: Any) -> Any:
    """A key of a dict or set; nested tuples could take exponential time to hash."""
    parts = key if isinstance(key, tuple) else (key,)
    if any(isinstance(part, tuple | frozenset) for part in parts):
        raise _RefusedError("a nested tuple as a key")
    return key


CONSTRUCTORS: dict[str, Callable[..., Any]] = {
    "numpy.dtype": _Dtype,
    "numpy.core.multiarray._reconstruct": _empty_array,
    "numpy._core.multiarray._reconstruct": _empty_array,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _array_from_buffer,
    "numpy._core.numeric._frombuffer": _array_from_buffer,
    "_codecs.encode": _encode,
    "collections.OrderedDict": lambda items=(): collections.OrderedDict(
        (_plain_key(key), value) for key, value in items
    ),
}
for _module in ("builtins", "__builtin__"):  # of Python 3 and Python 2
    CONSTRUCTORS[f"{_module}.set"] = lambda items=(): set(map(_plain_key, items))
    CONSTRUCTORS[f"{_module}.frozenset"] = lambda items=(): frozenset(map(_plain_key, items))
    CONSTRUCTORS[f"{_module}.bytearray"] = lambda data=b"", *_: bytearray(_as_bytes(data))
    CONSTRUCTORS[f"{_module}.bytes"] = lambda: b""
    CONSTRUCTORS[f"{_module}.complex"] = complex
REFERENCES = {*CONSTRUCTORS, "numpy.ndarray"}


class _StackMachine:
    """Carries out the opcodes of plain data (see the comments in `pickletools`)."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []  # the stacks below each open MARK
        self.memo: dict[int, Any] = {}

    def run(self, reader: _BoundedReader) -> Any:
        for opcode, argument, _ in pickletools.genops(cast(BinaryIO, reader)):
            if opcode.name == "STOP":
                break
            step = STEPS.get(opcode.name)
            if step is None:
                raise _RefusedError(f"an object (opcode {opcode.name})")
            step(self, argument)
        if len(self.stack) != 1 or self.marks:
            raise ValueError("the pickle ends too early")
        if reader.tell() != reader.size:
            raise ValueError("further bytes follow the end of the pickle")
        _refuse_leftover_names(self.stack[0])
        return self.stack[0]

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        return self.stack.pop()

    def pop_several(self, count: int) -> tuple:
        values = [self.stack.pop() for _ in range(count)]
        return tuple(reversed(values))

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        values, self.stack = self.stack, self.marks.pop()
        return values

    def memoize(self, index: int | None) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def name(self, module: str, name: str) -> None:
        reference = _Name(module, name)
        if reference.text not in REFERENCES:
            raise _RefusedError(reference.text)
        self.push(reference)

    def reduce(self) -> None:
        function, arguments = self.pop_several(2)
        if not isinstance(function, _Name) or function.text not in CONSTRUCTORS:
            raise _RefusedError(f"a call of {getattr(function, 'text', function)!r}")
        self.push(CONSTRUCTORS[function.text](*arguments))

    def build(self) -> None:
        state, target = self.pop(), self.stack[-1]
        if isinstance(target, np.ndarray):
            _fill_array(target, state)
        elif isinstance(target, _Dtype):
            target.build(state)
        else:
            raise _RefusedError(f"a state for {type(target).__name__}")

    def append(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise TypeError("items for something that is no list")
        self.stack[-1].extend(values)

    def set_items(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict) or len(values) % 2:
            raise TypeError("pairs for something that is no dict")
        for key, value in zip(values[::2], values[1::2], strict=True):
            self.stack[-1][_plain_key(key)] = value

    def add_items(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], set):
            raise TypeError("items for something that is no set")
        self.stack[-1].update(map(_plain_key, values))


def _refuse_leftover_names(value: Any) -> None:
    """A function or a type may only occur as part of an array, not as a value."""
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, _Name | _Dtype):
            raise _RefusedError(f"{getattr(item, 'text', 'numpy.dtype')} as a value")
        if isinstance(item, np.ndarray):
            item = item.ravel().tolist() if item.dtype.kind == "O" else ()
        elif isinstance(item, dict):
            item = [*item, *item.values()]
        elif not isinstance(item, list | tuple | set | frozenset):
            continue
        if id(item) not in seen:
            seen.add(id(item))
            waiting.extend(item)


Step = Callable[[_StackMachine, Any], Any]
PUSHED = (
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 STRING BINSTRING SHORT_BINSTRING BINBYTES "
    "SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 "
    "FLOAT BINFLOAT"
).split()
STEPS: dict[str, Step] = {
    **{name: lambda machine, argument: machine.push(argument) for name in PUSHED},
    **{name: lambda *_: None for name in ("PROTO", "FRAME")},
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_SET": lambda machine, _: machine.push(set()),
    "MARK": lambda machine, _: machine.mark(),
    "POP": lambda machine, _: machine.pop(),
    "POP_MARK": lambda machine, _: machine.pop_mark(),
    "DUP": lambda machine, _: machine.push(machine.stack[-1]),
    "LIST": lambda machine, _: machine.push(machine.pop_mark()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_mark())),
    "TUPLE1": lambda machine, _: machine.push(machine.pop_several(1)),
    "TUPLE2": lambda machine, _: machine.push(machine.pop_several(2)),
    "TUPLE3": lambda machine, _: machine.push(machine.pop_several(3)),
    "FROZENSET": lambda m, _: m.push(frozenset(map(_plain_key, m.pop_mark()))),
    "APPEND": lambda machine, _: machine.append([machine.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.pop_mark()),
    "SETITEM": lambda machine, _: machine.set_items(list(machine.pop_several(2))),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_mark()),
    "ADDITEMS": lambda machine, _: machine.add_items(machine.pop_mark()),
    "PUT": lambda machine, index: machine.memoize(index),
    "BINPUT": lambda machine, index: machine.memoize(index),
    "LONG_BINPUT": lambda machine, index: machine.memoize(index),
    "MEMOIZE": lambda machine, _: machine.memoize(None),
    "GET": lambda machine, index: machine.push(machine.memo[index]),
    "BINGET": lambda machine, index: machine.push(machine.memo[index]),
    "LONG_BINGET": lambda machine, index: machine.push(machine.memo[index]),
    "GLOBAL": lambda machine, text: machine.name(*text.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.name(*machine.pop_several(2)),
    "REDUCE": lambda machine, _: machine.reduce(),
    "BUILD": lambda machine, _: machine.build(),
}


def _make_dict(machine: _StackMachine, _: Any) -> None:
    values = machine.pop_mark()
    machine.push({})
    machine.set_items(values)


STEPS["DICT"] = _make_dict
