"""Import torch's compiler only where something uses it.

torch's optimisers, DistributedDataParallel and process groups import `torch._dynamo` to except parts of themselves from
compilation. Nothing here is compiled, and the package with what it needs is 900 files, and two thirds of the time of
the rest of torch, at the start of every rank.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch

COMPILER = "torch._dynamo"


def postpone_compiler() -> None:
    """Answer what torch asks of its compiler while nothing is compiled; any other use imports the compiler."""
    if COMPILER not in sys.modules:
        sys.modules[COMPILER] = torch._dynamo = PostponedCompiler()
        sys.meta_path.insert(0, PostponedModules())


class NoDirectories(list[str]):
    """The directories of the package while it is postponed, by which `PostponedModules` knows it."""


class PostponedCompiler(ModuleType):
    """The package `torch._dynamo` until it is imported."""

    def __init__(self) -> None:
        super().__init__(COMPILER)
        self.__spec__ = ModuleSpec(COMPILER, None, is_package=True)
        self.__path__ = NoDirectories()
        self.disable = _not_compiled
        self.graph_break = _nothing
        self.utils = PostponedPart("utils", get_optimize_ddp_mode=lambda: "ddp_optimizer")  # the default
        self.trace_rules = PostponedPart("trace_rules", clear_lru_cache=_nothing)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked of all modules, by `inspect` for instance
            raise AttributeError(name)
        return getattr(_import_compiler(), name)


class PostponedPart:
    """A module of the package until it is imported."""

    def __init__(self, part: str, **answers: Callable[[], object]) -> None:
        self._part = part
        self.__dict__ |= answers

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(getattr(_import_compiler(), self._part), name)


class PostponedModules(MetaPathFinder, Loader):
    """Import the compiler when one of its modules is imported, and so that there is one of each."""

    def find_spec(self, name: str, path: Sequence[str] | None, _target: ModuleType | None = None) -> ModuleSpec | None:
        """Return a specification of the imported module `name` if it is one of the postponed package."""
        if not isinstance(path, NoDirectories):
            return None
        _import_compiler()
        importlib.import_module(name)
        return ModuleSpec(name, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module that `find_spec` imported."""
        return sys.modules[spec.name]

    def exec_module(self, _module: ModuleType) -> None:
        """Do nothing: the module has been executed."""


def _import_compiler() -> ModuleType:
    if isinstance(sys.modules[COMPILER], PostponedCompiler):
        del sys.modules[COMPILER]
    return importlib.import_module(COMPILER)


def _not_compiled(function: Callable[..., Any] | None = None, *_args: object, **_options: object) -> Callable[..., Any]:
    return _not_compiled if function is None else function  # `disable(recursive=False)` is a decorator


def _nothing() -> None:
    pass
