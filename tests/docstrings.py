"""What a public docstring owes its reader, read from the signature and the source: shapes, dtypes, parameters, errors."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import sys
import textwrap
from collections.abc import Callable
from itertools import pairwise
from types import ModuleType
from typing import Any

TENSORS = re.compile(r"\b(Tensor|ndarray|Counts)\b")
SHAPE = re.compile(r"\[(?:\.\.|[A-Z]|\d)[\w., *]*\]|any shape")
DTYPE = re.compile(r"\b(dtypes?|fp32|fp16|bf16|e4m3|u?int\d+|float\d+|bfloat16)\b")
OURS = ("fastlift", "test")
ERRORS = ("UserError", "ValueError", "TypeError", "RuntimeError", "OutOfMemory")


def names(module: ModuleType) -> list[str]:
    """The public names of a module: those that it lists; else its own, and those that it imports ``as`` themselves."""
    if hasattr(module, "__all__"):
        return [name for name in module.__all__ if name != "__version__"]
    tree = ast.parse(inspect.getsource(module))
    imports = [alias for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    again = [alias.asname for alias in imports if alias.asname == alias.name]
    types = [name for name in _assigned(tree) if re.match(r"[A-Z]+[a-z]", name)]
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
    return [name for name in dict.fromkeys((*own, *again, *types)) if not name.startswith("_")]


def told_of(module: ModuleType, name: str) -> str | None:
    """The text below the assignment of a type (``Impl = Literal[...]``), wherever in fastlift it is."""
    value = getattr(module, name)
    homes = [home for other, home in list(sys.modules.items()) if other.startswith("fastlift")]
    trees = [ast.parse(inspect.getsource(home)) for home in homes if vars(home).get(name) is value]
    return next((text for tree in trees if (text := _assigned(tree).get(name))), None)


def _assigned(tree: ast.Module) -> dict[str, str | None]:
    """Names that a module assigns, also where it asks for something first, with the text below each."""
    asked = [node for node in tree.body if isinstance(node, ast.If)]
    bodies = [tree.body, *(body for node in asked for body in (node.body, node.orelse))]
    pairs = [pair for body in bodies for pair in pairwise([*body, None])]
    return {ast.unparse(line.targets[0]): _text(below) for line, below in pairs if isinstance(line, ast.Assign)}


def _text(line: ast.stmt | None) -> str | None:
    is_text = isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)
    return line.value.value if is_text else None  # type: ignore[union-attr]


def lacks(value: Any, called: str = "") -> list[str]:
    """What the docstrings of a function, or of a class and its public methods, do not say."""
    called = called or value.__name__
    if inspect.isclass(value):
        found = _lacks(called, inspect.getdoc(value) or "", _heads(value), _fields_without_text(value))
        methods = {name: v for name, v in vars(value).items() if not name.startswith("_") and name != "forward"}
        for name, method in methods.items():
            method = getattr(method, "fget", getattr(method, "__func__", method))
            if inspect.isfunction(method) and not _is_told_above(value, name):
                found += lacks(method, f"{called}.{name}")
        return found
    return _lacks(called, inspect.getdoc(value) or "", [value], None)


def _is_told_above(kind: type, name: str) -> bool:
    """Whether a method only does what the docstring of a base class's method says of it."""
    return not vars(kind)[name].__doc__ and any(name in vars(base) for base in kind.__mro__[1:])


def _heads(kind: type) -> list[Callable[..., Any]]:
    """What a class's docstring speaks of: how it is made, where it says so itself, and what a module computes."""
    names: tuple[str, ...] = ("__init__", "forward")
    if dataclasses.is_dataclass(kind):
        names = ("__post_init__",) if inspect.get_annotations(kind) else ()
    found = [getattr(kind, name, None) for name in names]
    return [one for one in found if inspect.isfunction(one) and one.__module__.startswith(OURS)]


def _fields_without_text(kind: type) -> list[str] | None:
    """A dataclass's own fields with neither text below nor a comment beside them; None for other classes."""
    if not dataclasses.is_dataclass(kind):
        return None
    source = textwrap.dedent(inspect.getsource(kind))
    lines, [tree] = source.splitlines(), ast.parse(source).body
    bare = []
    for line, below in pairwise([*getattr(tree, "body", []), None]):
        if not isinstance(line, ast.AnnAssign) or "ClassVar" in ast.unparse(line.annotation):
            continue
        if not _text(below) and "#" not in lines[line.lineno - 1]:
            bare.append(ast.unparse(line.target))
    return bare


def _lacks(called: str, told: str, functions: list[Callable[..., Any]], fields: list[str] | None) -> list[str]:
    if not told:
        return [f"{called}: no docstring"]
    for function in functions:
        told += _referred(told, inspect.unwrap(function).__globals__)
    found = []
    hints = " ".join(str(hint) for function in functions for hint in inspect.get_annotations(function).values())
    if untyped := [name for one in functions for name in _named(one) if name not in inspect.get_annotations(one)]:
        found.append(f"{called}: no type of {', '.join(untyped)}")
    if TENSORS.search(hints):
        found += [f"{called}: no shape"] * (not SHAPE.search(told)) + [f"{called}: no dtype"] * (not DTYPE.search(told))
    if "Raises:" not in told and (raised := [error for function in functions for error in _raised(function, 1)]):
        found.append(f"{called}: no Raises: ({', '.join(dict.fromkeys(raised))})")
    arguments = [name for one in functions if one.__name__ != "forward" for name in _named(one)]
    named = arguments if fields is None else fields
    missing = [name for name in dict.fromkeys(named) if not re.search(rf"(?<![\w-]){name}(?!\w)", told)]
    return found + [f"{called}: nothing of {', '.join(missing)}"] * bool(missing)


def _referred(told: str, known: dict[str, Any]) -> str:
    """The docstrings of what a docstring refers to: "errors as ``LongTailLoss``", "arguments as in :func:`quick_gelu`"."""
    found = ""
    for path in re.findall(r"\bas (?:in )?(?::\w+:)?`+([\w.]+)`+", told):
        first, *rest = path.split(".")
        value = known.get(first)
        for name in rest:
            value = getattr(value, name, None)
        found += f"\n{inspect.getdoc(value)}" if inspect.isclass(value) or inspect.isfunction(value) else ""
    return found


def _named(function: Callable[..., Any]) -> list[str]:
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind not in variable and p.name not in ("self", "cls")]


def _raised(function: Callable[..., Any], deeper: int) -> list[str]:
    """Errors that a function raises, or one that it calls by name."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, SyntaxError):
        return []
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and node.exc is not None:
            name = ast.unparse(node.exc).partition("(")[0]
            found += [name] * (name in ERRORS)
        elif isinstance(node, ast.Call) and deeper:
            for one in _callees(node.func, function):
                found += _raised(one, deeper - 1)
    return found


def _callees(node: ast.expr, function: Callable[..., Any]) -> list[Callable[..., Any]]:
    """What a call by name calls: a function of fastlift's, or the constructor of a class."""
    names = ast.unparse(node).split(".")
    value: Any = inspect.unwrap(function).__globals__.get(names[0])
    if names[0] == "self":
        value = sys.modules[function.__module__]
        names = [*function.__qualname__.split(".")[:-1], *names[1:]]
        value = vars(value).get(names[0])
    for name in names[1:]:
        value = getattr(value, name, None)
    if inspect.isclass(value):
        return _heads(value)[:1] if value.__module__.startswith(OURS) else []
    return [value] if inspect.isfunction(value) and value.__module__.startswith(OURS) else []
