"""Arrays from anywhere as the numbers that they are taken for. What would change its value on the way is refused, with
its place."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxweights.errors import UserError

LARGEST_WEIGHT = 1e15
"""Largest magnitude of a weight whose distances fit in float32."""
_LARGEST_FLOAT = float(np.finfo(np.float32).max)
_SHOWN = 5


def as_array(value: Any, what: str) -> np.ndarray:
    """A NumPy array of any array-like: NumPy, JAX, PyTorch on the CPU, nested lists.

    Args:
      value: the array-like.
      what: its name in messages, a subject in the singular.

    Raises:
      UserError: NumPy cannot read it, or it is text, a mapping, None, or an array with masked entries.
    """
    if value is None or isinstance(value, (str, bytes, dict, set)):
        kind = "None" if value is None else f"of type {type(value).__name__}"
        hint = " Read a file with numpy.load first." if isinstance(value, str) else ""
        raise UserError(f"{what} is {kind}; give an array of numbers.{hint}")
    if isinstance(value, np.ma.MaskedArray) and np.ma.getmaskarray(value).any():
        raise UserError(f"{what} has masked entries, which have no value. Fill or remove them.")
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{what} is of type {type(value).__name__}, which NumPy cannot read ({_first_line(error)}). Give a NumPy "
            "array; of a PyTorch tensor tensor.detach().cpu().float().numpy(), of lists some of equal length."
        ) from error


def float32(value: Any, name: str, largest: float = _LARGEST_FLOAT, what: str = "weights") -> np.ndarray:
    """Finite real numbers as float32.

    Args:
      value: any array-like.
      name: its name in messages.
      largest: largest magnitude.
      what: plural of what it holds, in messages.

    Raises:
      UserError: text, objects, truth values, complex numbers, numbers of an unknown format, NaN, infinity, or beyond
        `largest`; the message has the first rows.
    """
    array = real(value, name)
    if array.size and not _magnitude(array) <= largest:
        _refuse_numbers(array, name, largest, what)
    return array.astype(np.float32, copy=False)


def narrow(array: np.ndarray, what: str) -> np.ndarray:
    """Real numbers as float32, NaN and infinity as they are; raises `UserError` where others would become infinite."""
    with np.errstate(over="ignore"):
        found = array.astype(np.float32, copy=False)
    if found.dtype != array.dtype and np.isinf(found).any() and (np.isinf(found) & np.isfinite(array)).any():
        _refuse_numbers(np.where(np.isfinite(array), array, 0), what, _LARGEST_FLOAT, "weights")
    return found


def real(value: Any, what: str) -> np.ndarray:
    """Real numbers of any type, NaN and infinity among them; raises `UserError` for anything else."""
    array = as_array(value, what)
    if jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer):
        return array
    kinds = {
        "b": "truth values",
        "c": "complex numbers",
        "O": "Python objects, often vectors of different lengths",
        "U": "text",
        "S": "text",
        "M": "dates",
        "m": "durations",
    }
    if array.dtype.kind == "V" and array.dtype.names is None:
        # The type of bfloat16 is not part of NumPy, whose files keep its size alone.
        cure = (
            "Its type was lost in a file, as bfloat16 is: write array.astype(numpy.float32), or recover bfloat16 with "
            "array.view(ml_dtypes.bfloat16).astype(numpy.float32)."
        )
    else:
        cure = f"It holds {kinds.get(array.dtype.kind, 'records')}; give real numbers (float32)."
    raise UserError(f"{what} has the type {array.dtype}. {cure}")


def whole(value: Any, what: str, at_least: int = -1) -> np.ndarray:
    """Whole numbers as int64; numbers of a float type whose values are whole are taken.

    Raises:
      UserError: anything else, or a number below `at_least` or beyond int64; the message has the first rows.
    """
    array = real(value, what)
    if jnp.issubdtype(array.dtype, jnp.floating):
        numbers = array.astype(np.float64)
        wrong = ~((numbers == np.floor(numbers)) & (np.abs(numbers) < 2.0**53))
    else:
        wrong = array > np.iinfo(np.int64).max
    wrong = wrong | (array < at_least)
    if wrong.any():
        raise UserError(f"{what} has {_values(array, wrong)}; give whole numbers from {at_least}.")
    return array.astype(np.int64)


def text(value: Any, what: str, dtype: np.dtype) -> np.ndarray:
    """Text of a given type, e.g. `U16`; raises `UserError` for anything else, and for longer texts."""
    array = value if isinstance(value, str) else as_array(value, what)
    try:
        array = np.asarray(array, "U") if np.asarray(array).dtype.kind in "US" else None
    except UnicodeDecodeError:
        array = None
    length = dtype.itemsize // 4
    if array is None:
        raise UserError(f"{what} is not text; give words of at most {length} characters.")
    longer = np.char.str_len(array) > length
    if longer.any():
        raise UserError(f"{what} has {_values(array, longer)}; give words of at most {length} characters.")
    return array.astype(dtype)


def _magnitude(array: np.ndarray) -> float:
    """The largest magnitude; NaN where there is one."""
    return max(float(np.max(array)), -float(np.min(array)))


def _refuse_numbers(array: np.ndarray, name: str, largest: float, what: str) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        wrong = ~(np.abs(array.astype(np.float64)) <= largest)
        finite = np.isfinite(array.astype(np.float64)[wrong]).all()
    rows = array.ndim > 1
    bad = np.flatnonzero(wrong.reshape(len(wrong), -1).any(axis=1) if rows else wrong)
    kind, count = ("rows", len(array)) if rows else ("entries", array.size)
    problem = f"{what} beyond {largest:.2g}, too large for float32," if finite else f"NaN or infinite {what}"
    cure = "Remove them." if what != "weights" else "Remove these rows." if rows else "Take another checkpoint."
    raise UserError(f"{name} has {problem} in {bad.size} of {count} {kind} (first: {bad[:_SHOWN].tolist()}). {cure}")


def _values(array: np.ndarray, wrong: np.ndarray) -> str:
    """The first wrong values and their places."""
    if not array.ndim:
        return repr(array.item())
    rows = np.unique(np.nonzero(wrong)[0])[:_SHOWN]
    shown = ", ".join(repr(x) for x in np.asarray(array[wrong]).ravel()[:_SHOWN].tolist())
    return f"{shown} in {np.unique(np.nonzero(wrong)[0]).size} of {len(array)} rows (first: {rows.tolist()})"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
