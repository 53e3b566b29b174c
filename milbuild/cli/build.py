"""`milbuild build`."""

import inspect
import json
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer

from milbuild.cli.arguments import Json, Source
from milbuild.cli.console import note
from milbuild.cli.output import checked_output, save
from milbuild.errors import Error
from milbuild.program.options import Option, Output, table
from milbuild.program.plan import Plan


def _parameter(name: str, hint: Any, option: Option) -> inspect.Parameter:
    """An option of `milbuild.build` as the command line has it: lengths and sizes are words, dictionaries NAME=NEW."""
    kind, default = hint, option.default
    if option.flag:
        kind, default = bool, False
    elif Mapping in [get_origin(each) for each in get_args(hint)]:
        kind = list[str] | None
    elif option.parse:
        kind = str | None
    said = f"{option.help[0].upper()}{option.help[1:]}."
    if option.flag:
        said = f"Leave out {option.help}."
    elif default is None:
        said += f" (default: {option.otherwise})"
    repeated = "; repeatable" if kind == list[str] | None else ""
    chosen = typer.Option(
        *([option.flag] if option.flag else []),
        metavar=None if option.flag else option.metavar,
        help=said.replace(". (default", f"{repeated}. (default"),
        show_default=default is not None and not option.flag,
    )
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, chosen])


def _value(name: str, option: Option, given: Any) -> Any:
    """What `milbuild.build` is given for what the command line says."""
    if option.flag:
        return not given
    if name == "inputs":
        return _pairs(given, "--inputs")
    if name == "outputs":
        return {name: _changed(text) for name, text in _pairs(given, "--outputs").items()}
    return option.parse(given, name) if option.parse and given is not None else given


OPTIONS = {name: each for name, each in table().items() if not each[1].python}


def build(
    source: Source,
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Where the package goes: out.mlpackage.")],
    *,
    force: Annotated[bool, typer.Option("--force", help="Replace what is at OUTPUT.")] = False,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Build a Core ML package from a checkpoint.

    A GPT-2 that decodes token by token with its cache in a state, and takes its prompt 64 tokens at a time:

    \b
      milbuild build openai-community/gpt2 gpt2.mlpackage --cache state --prefill-length 64
    """
    target_path = checked_output(output, force, source)
    from milbuild.cli import imports

    start = time.perf_counter()
    imports.prepare(configurations=True)
    import milbuild

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", milbuild.BuildWarning)
        warnings.simplefilter("ignore", milbuild.LintWarning)  # said below, with the package's name
        model = milbuild.build(
            source, **{name: _value(name, option, options[name]) for name, (_, option) in OPTIONS.items()}
        )
    for each in caught:
        note(f"warning: {each.message}")
    save(model, target_path, force)
    seconds = time.perf_counter() - start
    report = model.lint_report
    if as_json:
        from milbuild.inspection import inspect as describe

        # What a call of flexible shapes costs takes PyTorch: only who asks for figures waits for it.
        found = describe(target_path)
        warned = [] if report is None else [f.as_dict() for f in report.findings if f.rule.severity == "warning"]
        built = {"package": str(target_path), "seconds": round(seconds, 3), "warnings": warned}
        built["unread_fields"] = list(model.unread_fields)
        print(json.dumps({**built, **found.as_dict()}, indent=2))
        return
    if report is not None and (said := report.counted("warning")):
        note(f"{said}; milbuild lint {target_path} says more")
        for line in report.said("warning"):
            note(f"  {line}")
    if model.unread_fields:
        note(f"config.json has fields that transformers' model does not read: {', '.join(model.unread_fields)}")
    counted = ", ".join(f"{name} {count} operations" for name, count in _operations(model.get_spec()).items())
    plan = Plan.of(target_path.name, model.user_defined_metadata)
    vector = f" (sentence_embedding by {plan.vector})" if plan.vector else ""
    note(
        f"Built {target_path} for {plan.task}{vector} in {seconds:.1f} s: {_size(target_path) / 1e6:,.1f} MB; {counted}"
    )


def _operations(spec: Any) -> dict[str, int]:
    """Those of each function that are not constants, the default one first."""
    names = [each.name for each in spec.description.functions] or list(spec.mlProgram.functions)
    blocks = {name: spec.mlProgram.functions[name].block_specializations for name in names}
    return {
        name: sum(each.type != "const" for block in blocks[name].values() for each in block.operations)
        for name in names
    }


def _size(package: Path) -> int:
    return sum(path.stat().st_size for path in package.rglob("*") if path.is_file())


# The options are between the arguments and what only the command line has.
_own = list(inspect.signature(build).parameters.values())[:-1]
build.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [*_own[:2], *(_parameter(name, *each) for name, each in OPTIONS.items()), *_own[2:]]
)


def _pairs(texts: list[str] | None, option: str) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts or []]
    for name, sign, _ in pairs:
        if not name or not sign:
            raise Error(f"{option} is {name!r}", f"Write the name and the new one: {option} logits=scores")
    return {name: new for name, _, new in pairs}


def _changed(text: str) -> Output | None:
    """What comes after `--outputs logits=`."""
    name, _, described = text.partition(":")
    return Output(name or None, described or None) if text else None
