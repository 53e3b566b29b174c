"""`make mutants`: deliberate faults in the runtime, one at a time, each of which the operation's own tests must see.

    python -m tests.runtime.mutants [OPERATION ...] [--processes N]

Faults come from the FAULTS of the test files, and for every operation from here: each optional parameter ignored, and a
result that is off by a hundredth (or reversed, or one more). Exit code 1 if a fault went unseen.
"""

import argparse
import importlib
import inspect
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, settings

from milbuild.runtime import engine
from milbuild.runtime.registry import OPERATIONS, Kernel

settings.register_profile(
    "mutants",
    phases=(Phase.explicit, Phase.generate),
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def test_files() -> list[ModuleType]:
    names = sorted(path.stem for path in Path(__file__).parent.glob("test_*.py"))
    return [importlib.import_module(f"tests.runtime.{name}") for name in names]


def unseen_by_nature() -> dict[str, dict[str, str]]:
    """Faults that change nothing that can be seen, with the reason, by operation."""
    found: dict[str, dict[str, str]] = {}
    for file in test_files():
        for name, reasons in getattr(file, "UNSEEN", {}).items():
            found.setdefault(name, {}).update(reasons)
    return found


def faults() -> dict[str, list[tuple[str, str]]]:
    """The deliberate faults of every test file, by operation."""
    found: dict[str, list[tuple[str, str]]] = {}
    for file in test_files():
        for name, passages in getattr(file, "FAULTS", {}).items():
            found.setdefault(name, []).extend(passages)
    return found


def mutated(operation: str, old: str, new: str) -> str:
    """The source of the module of an operation with a passage replaced: in the operation's function, or anywhere in the file.

    Operations that the engine runs itself (states, branches) have theirs in engine.py.
    """
    kernel = OPERATIONS.get(operation)
    module = sys.modules[kernel.function.__module__] if kernel else engine
    whole = inspect.getsource(module)
    if kernel:
        own = inspect.getsource(kernel.function)
        if own.count(old) == 1:
            return whole.replace(own, own.replace(old, new))
    if whole.count(old) != 1:
        raise LookupError(f"{operation}: {whole.count(old)} passages of {module.__name__} read {old!r}")
    return whole.replace(old, new)


@contextmanager
def broken(operation: str, old: str, new: str) -> Iterator[None]:
    kernel = OPERATIONS.get(operation)
    module = sys.modules[kernel.function.__module__] if kernel else engine
    source, before, names = mutated(operation, old, new), dict(OPERATIONS), dict(vars(module))
    try:
        exec(compile(source, str(module.__file__), "exec"), vars(module))
        yield
    finally:
        OPERATIONS.clear()
        OPERATIONS.update(before)
        vars(module).clear()
        vars(module).update(names)


@contextmanager
def replaced(operation: str, **changes: Any) -> Iterator[None]:
    before = OPERATIONS[operation]
    OPERATIONS[operation] = Kernel(**(vars(before) | changes))
    try:
        yield
    finally:
        OPERATIONS[operation] = before


def off(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(off(one) for one in value)
    if isinstance(value, list):
        return [off(one) for one in value]
    if isinstance(value, dict):
        return {key: off(one) for key, one in value.items()}
    if isinstance(value, float):
        return value * 1.01 + 0.01
    if not isinstance(value, torch.Tensor):
        return value
    if value.dtype == torch.bool:
        return ~value
    return value * 1.01 + 0.01 if value.is_floating_point() else value + 1


def everywhere(operation: str) -> Iterator[tuple[str, Any]]:
    """Faults that every operation can have: a name, and a context in which it is there."""
    kernel = OPERATIONS.get(operation)
    if kernel is None:
        return
    function = kernel.function
    yield "wrong values", replaced(operation, function=lambda **arguments: off(function(**arguments)))
    for name, parameter in kernel.parameters.items():
        if parameter.optional:
            yield f"{name} ignored", replaced(operation, function=_without(function, parameter.name))


def _without(function: Callable[..., Any], dropped: str) -> Callable[..., Any]:
    return lambda **arguments: function(**{key: value for key, value in arguments.items() if key != dropped})


def seen(operation: str) -> bool:
    from tests.runtime.harness import COVERED_BY

    for test in COVERED_BY.get(operation, []):
        try:
            test()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            return True
    return False


def tried(name: str) -> tuple[str, int, list[str]]:
    """Plays every fault of an operation: its name, the number of faults, those that its tests did not see."""
    written, known = faults().get(name, []), unseen_by_nature().get(name, {})
    unseen, count = [], 0
    for fault, context in [
        *everywhere(name),
        *((f"{old!r} -> {new!r}", broken(name, old, new)) for old, new in written),
    ]:
        if fault in known:
            continue
        count += 1
        with context:
            if not seen(name):
                unseen.append(fault)
    if seen(name):
        unseen.append("its tests fail without a fault")
    return name, count, unseen


def begin() -> None:
    """What a process needs before its first test: few examples, always the same, one thread."""
    os.environ["MILBUILD_HYPOTHESIS"] = "mutants"
    settings.load_profile("mutants")
    torch.set_num_threads(1)
    faults()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.runtime.mutants")
    parser.add_argument("operations", nargs="*", metavar="OPERATION")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), metavar="N")
    options = parser.parse_args(arguments)
    known = sorted({*OPERATIONS, *faults()})
    if unknown := set(options.operations) - set(known):
        parser.error(f"no operation {', '.join(sorted(unknown))}; it must be one of {', '.join(known)}")
    names = options.operations or known
    unseen, count, start = 0, 0, time.perf_counter()
    with ProcessPoolExecutor(options.processes, get_context("spawn"), begin) as pool:
        for number, (name, own, missed) in enumerate(pool.map(tried, names), 1):
            count += own
            unseen += len(missed)
            print(f"[{number}/{len(names)}] {name}: {own} faults, {own - len(missed)} seen", flush=True)
            for fault in missed:
                print(f"    not seen: {fault}", flush=True)
    print(f"{count} faults in {len(names)} operations, {unseen} not seen, {time.perf_counter() - start:.0f} s")
    return 1 if unseen else 0


if __name__ == "__main__":
    sys.exit(main())
