"""The commands, their options and what they print. Whatever is heavy is imported by the command that needs it."""

import contextlib
import json
import os
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from milbuild import architectures, tasks
from milbuild.errors import Error
from milbuild.program import options

app = typer.Typer(
    name="milbuild",
    help="Hugging Face transformers to Core ML packages, without tracing, proved against PyTorch on any machine.",
    epilog="Start with: milbuild demo",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # its help is boxed, and takes 0.1 s longer to appear
    context_settings={"max_content_width": 100},
    pretty_exceptions_enable=False,
)

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE", help="A checkpoint: folder, .safetensors file, or hub id (openai-community/gpt2)."
    ),
]
Package = Annotated[Path, typer.Argument(metavar="PACKAGE", help="A .mlpackage folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, for machines.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.", show_default=False)]


def run() -> int:
    """Runs the command line and returns its exit code. typer's own way of running it ends with 1 where a pipe was closed."""
    # click's, or since typer 0.27 its own copy of it
    usage: Any = next(each for each in typer.BadParameter.__mro__ if each.__name__ == "ClickException")
    try:
        code = app(standalone_mode=False)
    except usage as error:
        error.show()
        return int(error.exit_code)
    except SystemExit:
        if type(sys.stdout).__name__ == "PacifyFlushWrapper":  # its answer to a closed pipe, with exit code 1
            raise BrokenPipeError from None
        raise
    return code if isinstance(code, int) else 0


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    if version:
        from milbuild import __version__

        print(f"milbuild {__version__}")
        raise typer.Exit


@app.command()
def build(
    source: Source,
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Where the package goes: out.mlpackage.")],
    task: Annotated[
        str | None,
        typer.Option(help="See `milbuild list`. (default: what the checkpoint was saved for)", show_default=False),
    ] = None,
    sequence_length: Annotated[
        str | None,
        typer.Option(
            metavar="64|1:128|16,32,64",
            help="Tokens (or samples of sound) in a call: fixed, a range, or a list. (default: 128, with a cache 1; 10 seconds)",
            show_default=False,
        ),
    ] = None,
    image_size: Annotated[
        str | None,
        typer.Option(
            metavar="224|384x512",
            help="Side, or height x width, of pictures. (default: the processor's)",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Sequences in a call, without a cache.")] = options.BATCH_SIZE,
    attention_mask: Annotated[
        bool | None,
        typer.Option(
            help="An input that marks padding, without a cache. (default: for models that look both ways)",
            show_default=False,
        ),
    ] = None,
    token_type_ids: Annotated[
        bool | None,
        typer.Option(
            help="An input that tells the texts of a pair apart. (default: for tasks that take pairs)",
            show_default=False,
        ),
    ] = None,
    num_choices: Annotated[
        int | None,
        typer.Option(
            help="Texts of a question in multiple-choice. (default: config.json's labels)", show_default=False
        ),
    ] = None,
    cache: Annotated[
        str | None,
        typer.Option(
            metavar="none|io|state",
            help="Where keys and values live between calls; a state needs iOS18. (default: none)",
            show_default=False,
        ),
    ] = None,
    context_length: Annotated[
        str | None,
        typer.Option(
            metavar="512|1:512",
            help="Tokens a cache holds; a range lets the past of io grow. (default: all)",
            show_default=False,
        ),
    ] = None,
    prefill_length: Annotated[
        int | None,
        typer.Option(
            help="Add a function `prefill` for so many tokens at once, with main's weights; needs iOS18.",
            show_default=False,
        ),
    ] = None,
    function: Annotated[
        str | None,
        typer.Option(
            metavar="encode|decode|mel",
            help="One half of an encoder-decoder alone, for systems before iOS18; mel with whisperkit. "
            "(default: both in one package)",
            show_default=False,
        ),
    ] = None,
    logits: Annotated[
        str, typer.Option(metavar="all|last", help="Scores of every token, or of the last only.")
    ] = options.LOGITS,
    pooling: Annotated[
        str | None,
        typer.Option(
            metavar="|".join((*options.POOLINGS, options.NO_POOLING)),
            help="One vector for the whole text, in feature-extraction; several joined: cls,mean. (default: modules.json's)",
            show_default=False,
        ),
    ] = None,
    normalize: Annotated[
        bool | None,
        typer.Option(help="Divide that vector by its length. (default: modules.json's)", show_default=False),
    ] = None,
    raw: Annotated[
        bool,
        typer.Option("--raw", help="transformers' own outputs from plain tensors: no labels, softmax, image input."),
    ] = False,
    inputs: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=NEW", help="Rename an input; repeatable.", show_default=False),
    ] = None,
    outputs: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=NEW[:TEXT]",
            help="Rename (logits=scores), describe (logits=:Text) or leave out (logits=) an output; repeatable.",
            show_default=False,
        ),
    ] = None,
    interface: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(options.INTERFACES),
            help="Names and shapes of a consumer; whisperkit takes a package for each --function. "
            "(default: hf with io, else milbuild)",
            show_default=False,
        ),
    ] = None,
    precision: Annotated[
        str, typer.Option(metavar="|".join(options.PRECISIONS), help="Of weights and arithmetic.")
    ] = options.PRECISION,
    target: Annotated[
        str, typer.Option(metavar="|".join(options.TARGETS), help="The oldest system it runs on.")
    ] = options.TARGET,
    lint: Annotated[
        bool,
        typer.Option(help="Hold the program against the rules of `milbuild lint`; an error stops the build."),
    ] = True,
    revision: Revision = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what stands at OUTPUT.")] = False,
    as_json: Json = False,
) -> None:
    """Build a Core ML package from a checkpoint.

    A GPT-2 that decodes token by token with its cache in a state, and takes its prompt 64 tokens at a time:

    \b
      milbuild build openai-community/gpt2 gpt2.mlpackage --cache state --prefill-length 64
    """
    target_path = _output(output, force, source)
    from milbuild.cli import imports

    start = time.perf_counter()
    imports.prepare(configurations=True)
    import milbuild

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", milbuild.BuildWarning)
        warnings.simplefilter("ignore", milbuild.LintWarning)  # said below, with the package's name
        model = milbuild.build(
            source,
            task=task,
            sequence_length=None
            if sequence_length is None
            else options.parse_length(sequence_length, "sequence_length"),
            image_size=None if image_size is None else options.parse_size(image_size),
            batch_size=batch_size,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            num_choices=num_choices,
            cache=cache,
            context_length=None if context_length is None else options.parse_length(context_length, "context_length"),
            prefill_length=prefill_length,
            function=function,
            logits=logits,
            pooling=pooling,
            normalize=normalize,
            postprocess=not raw,
            inputs=_pairs(inputs, "--inputs"),
            outputs={name: _changed(text) for name, text in _pairs(outputs, "--outputs").items()},
            interface=interface,
            precision=precision,
            target=target,
            lint=lint,
            revision=revision,
        )
    for each in caught:
        _note(f"warning: {each.message}")
    _save(model, target_path, force)
    seconds = time.perf_counter() - start
    from milbuild.inspection import inspect as describe

    # What a call of flexible shapes costs takes PyTorch: only who asks for figures waits for it.
    found = describe(target_path, flexible=as_json)
    report = model.lint_report
    if as_json:
        warned = [] if report is None else [f.as_dict() for f in report.findings if f.rule.severity == "warning"]
        built = {"package": str(target_path), "seconds": round(seconds, 3), "warnings": warned}
        built["unread_fields"] = list(model.unread_fields)
        print(json.dumps({**built, **found.as_dict()}, indent=2))
        return
    if report is not None and (said := report.counted("warning")):
        _note(f"{said}; milbuild lint {target_path} says more")
        for line in report.said("warning"):
            _note(f"  {line}")
    if model.unread_fields:
        _note(f"config.json has fields that transformers' model does not read: {', '.join(model.unread_fields)}")
    counted = ", ".join(f"{name} {function.total} operations" for name, function in found.functions.items())
    plan = options.Plan.of(target_path.name, model.user_defined_metadata)
    vector = f" (sentence_embedding by {plan.vector})" if plan.vector else ""
    _note(f"Built {target_path} for {plan.task}{vector} in {seconds:.1f} s: {found.bytes / 1e6:,.1f} MB; {counted}")


@app.command()
def validate(
    package: Package,
    source: Source,
    task: Annotated[
        str | None,
        typer.Option(
            help="What a package is for that milbuild did not build. See `milbuild list`.", show_default=False
        ),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Words for its tokenizer, instead of random token ids.", show_default=False),
    ] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A picture, instead of random ones; repeatable.", show_default=False),
    ] = None,
    audio: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A sound, instead of random ones: speech.wav", show_default=False),
    ] = None,
    encoder: Annotated[
        Path | None,
        typer.Option(metavar="PACKAGE", help="That of encode, where PACKAGE has decode only.", show_default=False),
    ] = None,
    max_error: Annotated[
        float | None,
        typer.Option(
            help="Largest error of an output that passes, over its range. (default: 1e-5 for float32, more with a state)",
            show_default=False,
        ),
    ] = None,
    min_psnr: Annotated[
        float | None,
        typer.Option(
            help="Least PSNR of an output that passes, in dB. (default: 55 for float16, 40 on Core ML itself)",
            show_default=False,
        ),
    ] = None,
    compute_units: Annotated[
        str | None,
        typer.Option(
            metavar="all|cpu_only|cpu_and_gpu|cpu_and_ne",
            help="What Core ML may run on. (macOS; default: each but all)",
            show_default=False,
        ),
    ] = None,
    revision: Revision = None,
    seed: Annotated[int, typer.Option(help="Of random token ids, pictures and sounds.")] = 0,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Plot error and magnitude at each module output: drift.png, .svg.", show_default=False
        ),
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the result as Markdown.")] = False,
    as_json: Json = False,
) -> None:
    """Compare a package with its checkpoint in PyTorch.

    The reference is transformers' model, in eager float32. A package that milbuild did not build needs its task:

    \b
      milbuild validate traced.mlpackage bert-base-uncased --task fill-mask

    Exit code 0: passed. 1: compared and failed. 2: could not compare.
    """
    if as_json and markdown:
        raise Error("--json and --markdown are two ways to print one result", "Choose one of them.")
    words = None if text is None else _read(text)
    _units(compute_units)
    from milbuild.cli import imports

    imports.prepare()
    import milbuild

    if plot is not None:
        from milbuild.io.plots import check_plot

        check_plot(plot)
    with _stages() as tell:
        report = milbuild.validate(
            package,
            source,
            task=task,
            text=words,
            image=image,
            audio=audio,
            encoder=encoder,
            max_error=max_error,
            min_psnr=min_psnr,
            compute_units=compute_units,
            revision=revision,
            seed=seed,
            progress=tell,
        )
    if markdown:
        print(report.markdown())
    else:
        _print(report.as_dict() if as_json else report)
    if plot is not None:
        report.plot(plot)  # last: a disk that has no room for it does not take the result away
        _note(f"Wrote {plot}")
    if not report.passed:
        raise typer.Exit(1)


@app.command()
def generate(
    package: Package,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="The checkpoint whose tokenizer to use: folder or hub id. (default: what the package was built from)",
            show_default=False,
        ),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="The text to go on with or to answer.", show_default=False)
    ] = None,
    audio: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The sound to write down, instead of a prompt: speech.wav", show_default=False
        ),
    ] = None,
    encoder: Annotated[
        Path | None,
        typer.Option(
            metavar="PACKAGE", help="The package of `encode`, where PACKAGE has `decode` only.", show_default=False
        ),
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(metavar="en", help="Of the sound. (default: what the model hears)", show_default=False),
    ] = None,
    translate: Annotated[bool, typer.Option("--translate", help="Write the sound down in English.")] = False,
    timestamps: Annotated[
        bool, typer.Option("--timestamps", help="A line for each segment of the sound, with when it is said.")
    ] = False,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(help="(default: 100, of a sound's window all, or what the context leaves)", show_default=False),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Sample; without it the likeliest token is taken.", show_default=False)
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Sample from the k likeliest.", show_default=False)] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Sample from the likeliest that make up p.", show_default=False)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the sampling.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """Write text with a package.

    Token by token, until the token that ends a text: behind a prompt, as an answer to it, or what is said in a sound.

    \b
      milbuild generate gpt2.mlpackage --prompt "Once upon a time"
      milbuild generate whisper.mlpackage --audio speech.wav
    """
    sampling: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    spoken: dict[str, Any] = {"language": language, "translate": translate, "timestamps": timestamps}
    _check_generate(prompt, audio, sampling, spoken)
    from milbuild.cli import imports

    imports.prepare()
    if audio is not None:
        from milbuild.generation.speech import Transcript

        with _status("loading"):
            transcript = Transcript(package, tokenizer, audio, encoder=encoder, max_new_tokens=max_new_tokens, **spoken)
        _transcribe(transcript, str(audio), timestamps, as_json)
        return
    from milbuild.generation.text import TextStream

    assert prompt is not None
    with _status("loading"):
        stream = TextStream(package, tokenizer, prompt, encoder=encoder, max_new_tokens=max_new_tokens, **sampling)
    warned = _remarks(stream)
    if as_json:
        text = "".join(stream)
        _print({"prompt": prompt, "text": text, "tokens": stream.tokens, **stream.speed(), "warnings": warned})
        return
    _stream(prompt, stream)


@app.command()
def inspect(
    package: Package,
    other: Annotated[
        Path | None,
        typer.Argument(metavar="[OTHER]", help="Show how this package differs from PACKAGE.", show_default=False),
    ] = None,
    graph: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the functions: graph.svg, .png, .pdf.", show_default=False)
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar="INPUT=1,64",
            help="Of an input whose shape is flexible, for the figures of a call; repeatable. (default: the description's)",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what stands in a package, or how two differ.

    Functions with their inputs, outputs, states and operations, weights, metadata; multiply-accumulates and bytes moved of
    a call, and what the memory of some chips allows for. Any ML Program; docs/inspect.md says what counts.

    Exit code 0, whether or not two packages differ. 2: could not be read.
    """
    shapes = _shapes(shape or [])
    if other is not None and (graph is not None or shapes):
        option = "--shape" if graph is None else "--graph"
        raise Error(
            f"{option} is for one package, and there are two",
            f"Give each by itself: milbuild inspect {package} {option} ...",
        )
    from milbuild.cli import imports

    imports.prepare()
    from milbuild import inspection

    if graph is not None:
        from milbuild.io.plots import check_plot

        check_plot(graph, "a graph")
    found = inspection.inspect(package, shapes) if other is None else inspection.compare(package, other)
    _print(found.as_dict() if as_json else found)
    if graph is not None:
        from milbuild.inspection.drawing import draw

        draw(package, graph, shapes)
        _note(f"Wrote {graph}")


@app.command()
def lint(
    package: Package,
    unit: Annotated[
        str | None,
        typer.Option(
            metavar="cpu|gpu|ane|all",
            help="Ask the rules of this unit too, or of each (all); ane is the Neural Engine. "
            "(default: only rules that hold whatever unit runs it, those that a build asks)",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Hold a package against what is known of Core ML and its units.

    Any ML Program, whoever made it. What is said of one unit is likely, not certain: nobody publishes what the Neural
    Engine runs. docs/lint.md has the rules.

    Exit code 0: no errors. 1: errors. 2: could not be read.
    """
    from milbuild.cli import imports

    imports.prepare()
    from milbuild.linting import lint as check

    report = check(package, unit)
    _print(report.as_dict() if as_json else report)
    if not report.passed:
        raise typer.Exit(1)


@app.command()
def profile(
    package: Package,
    function: Annotated[
        str | None, typer.Option(help="(default: the package's default function)", show_default=False)
    ] = None,
    precision: Annotated[
        str, typer.Option(metavar="declared|float32", help="How the runtime rounds results.")
    ] = "declared",
    shape: Annotated[
        list[str] | None,
        typer.Option(metavar="INPUT=1,64", help="Of an input whose shape is flexible; repeatable.", show_default=False),
    ] = None,
    repeat: Annotated[int, typer.Option(help="Predictions that are timed.")] = 5,
    threads: Annotated[
        int | None,
        typer.Option(help="(default: all cores). A function of one token at a time takes one.", show_default=False),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a picture: profile.svg, .png, .pdf.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Show where the runtime spends its time on a package.

    Time, calls and memory by operation type and by module (operations of one name, all layers together). It is the
    time of milbuild's runtime on this machine, not of Core ML on a device.
    """
    shapes = _shapes(shape or [])
    cores = os.cpu_count() or 1
    if threads is not None and not 1 <= threads <= cores:
        raise Error(f"threads is {threads}; this machine takes from 1 to {cores}")
    from milbuild.cli import imports

    imports.prepare()
    from milbuild import runtime
    from milbuild.errors import missing_torch

    with _status("predicting"):
        model = runtime.load(package, function, precision)
        try:
            import torch
        except ModuleNotFoundError:
            raise missing_torch("milbuild profile") from None
        from milbuild.io.plots import check_plot
        from milbuild.runtime.profiling import examples
        from milbuild.runtime.profiling import profile as measure

        if plot is not None:
            check_plot(plot)
        if threads is not None:
            torch.set_num_threads(threads)
        found = measure(model, examples(model, shapes), repeat)
    _print(found.as_dict() if as_json else found)
    if plot is not None:
        found.plot(plot)
        _note(f"Wrote {plot}")


def _units(name: str | None) -> str:
    """The compute units that were asked for. Raises `Error` where nothing would run on them."""
    if name is not None and sys.platform != "darwin":
        hint = "Leave it out: milbuild's runtime predicts here, on the CPU."
        raise Error("--compute-units is for Core ML, which runs on macOS only", hint)
    return name or "all"


def _read(path: Path) -> str:
    """The words of a file. Raises `Error`."""
    try:
        return path.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise Error(f"{path} cannot be read: {reason}") from error


def _pairs(texts: list[str] | None, option: str) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts or []]
    for name, sign, _ in pairs:
        if not name or not sign:
            raise Error(f"{option} is {name!r}", f"Write the name and the new one: {option} logits=scores")
    return {name: new for name, _, new in pairs}


def _changed(text: str) -> options.Output | None:
    """What stands behind `--outputs logits=`."""
    name, _, described = text.partition(":")
    return options.Output(name or None, described or None) if text else None


def _shapes(texts: list[str]) -> dict[str, tuple[int, ...]]:
    found = {}
    for text in texts:
        name, _, sizes = text.partition("=")
        try:
            found[name] = tuple(int(size) for size in sizes.split(","))
        except ValueError:
            raise Error(f"--shape is {text!r}", "Write the input and its sizes: --shape input_ids=1,64") from None
        if min(found[name]) < 1:
            raise Error(f"--shape is {text!r}; a size is at least 1")
    return found


@app.command(name="list")
def list_(as_json: Json = False) -> None:
    """List the model types that can be built.

    With their tasks and caches.
    """
    rows = [
        {
            "model_type": model_type,
            "tasks": list(entry.tasks),
            "caches": sorted({c for t in entry.tasks for c in tasks.caches(t, entry.decoder)}),
        }
        for model_type, entry in sorted(architectures.SUPPORTED.items())
    ]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    width = max(len(str(row["model_type"])) for row in rows) + 2
    for row in rows:
        print(f"{row['model_type']:{width}}{', '.join(row['tasks'])}  (caches: {', '.join(row['caches'])})")


@app.command()
def demo(
    keep: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Keep the package there.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Build, prove and try milbuild's own GPT-2.

    A small one that writes stories and adds numbers in words; it comes with milbuild.
    """
    from milbuild.cli import imports

    target = None if keep is None else _output(keep, force=False)
    imports.prepare()
    from milbuild.cli.demo import run

    result = run(target, quiet=as_json)
    if as_json:
        _print(result)
    if result["validation"]["verdict"] != "passed":
        raise typer.Exit(1)


def _output(path: Path, force: bool, source: str | None = None) -> Path:
    """The package's path, checked before any work is done. Raises `Error`."""
    path = path.expanduser()
    if path.name in ("", ".."):
        raise Error("OUTPUT names no file", "Write where the package goes: out.mlpackage.")
    if path.suffix != ".mlpackage":
        if path.suffix:
            raise Error(
                f"{path.name} does not end with .mlpackage", f"An ML Program is a folder called {path.stem}.mlpackage."
            )
        path = path.with_name(f"{path.name}.mlpackage")
    from milbuild.lowering import temporary

    temporary.check(path, force)
    if os.path.lexists(path):
        checkpoint = None if source is None else Path(source).resolve()
        if checkpoint is not None and checkpoint.exists() and path.resolve() in [checkpoint, *checkpoint.parents]:
            raise Error(f"{path} is where the checkpoint is", "Choose another place for the package.")
    parent = path.parent
    if not parent.is_dir():
        raise Error(f"there is no folder {parent}", f"Make it first: mkdir -p {parent}")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise Error(f"{parent} is not writable", "Choose a folder that you may write to.")
    return path


def _save(model: Any, path: Path, force: bool) -> None:
    """Saves with a bar of the bytes written, on a terminal."""
    if not sys.stderr.isatty():
        model.save(path, replace=force)
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("converting"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_stderr(), transient=True) as progress:
        bar = progress.add_task("weights", total=None)
        model.save(path, lambda done, total: progress.update(bar, completed=done, total=total), replace=force)


def _check_generate(prompt: str | None, audio: Path | None, sampling: dict[str, Any], spoken: dict[str, Any]) -> None:
    """Whether the options of `generate` belong together. Raises `Error`."""
    if prompt is None and audio is None:
        raise Error("there is nothing to write about", "Give a text: --prompt TEXT, or a sound: --audio speech.wav")
    if prompt is not None and audio is not None:
        raise Error("there are both a prompt and a sound", "One of them is written about: --prompt or --audio.")
    strange = spoken if audio is None else sampling
    if given := [
        f"--{name.replace('_', '-')}" for name, value in strange.items() if value is not None and value is not False
    ]:
        if audio is None:
            raise Error(f"{', '.join(given)} belongs to a sound", "Give one: --audio speech.wav")
        raise Error(f"{', '.join(given)} belongs to text; of a sound the likeliest token is taken")


def _transcribe(transcript: Any, audio: str, timestamps: bool, as_json: bool) -> None:
    """Prints the segments of a sound as they come: a window's at once, since the next one may take back what it cut off."""
    warned = _remarks(transcript)
    if transcript.features is not None:
        _note("The package takes input_features: transformers' WhisperFeatureExtractor makes them")
    segments = []
    for segment in transcript:
        segments.append({"start": round(segment.start, 2), "end": round(segment.end, 2), "text": segment.text})
        if as_json:
            continue
        if timestamps:
            print(f"[{_clock(segment.start)} -> {_clock(segment.end)}] {segment.text.strip()}", flush=True)
        else:
            # The space in front of a segment parts it from the one before.
            sys.stdout.write(segment.text if len(segments) > 1 else segment.text.lstrip())
            sys.stdout.flush()
    speed = transcript.speed()
    if as_json:
        text = "".join(str(segment["text"]) for segment in segments).strip()
        found = {"audio": audio, "language": transcript.heard_language(), "text": text, "segments": segments}
        _print({**found, "tokens": transcript.tokens, **speed, "warnings": warned})
        return
    if not timestamps:
        sys.stdout.write("\n")
        sys.stdout.flush()
    _note(f"{speed['sound_seconds']:,.1f} s of sound at {speed['sound_seconds_per_second']:,.1f} a second, "
          f"{len(transcript.tokens)} tokens at {speed['tokens_per_second']:,.0f} a second")  # fmt: skip


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(100 * seconds), 6000)
    return f"{minutes:02}:{rest / 100:05.2f}"


def _remarks(written: Any) -> list[str]:
    """What has to be said beside the text of a stream or a transcript, which goes to stderr, a line each."""
    said = [each for each in (written.remark, written.undone) if each is not None]
    for each in said:
        _note(f"note: {each}")
    return said


def _stream(prompt: str, stream: Any) -> None:
    """Prints the prompt with what is written behind it, or the answer to it alone."""
    if not stream.session.plan.apart:
        sys.stdout.write(prompt)
    for piece in stream:
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
    sys.stdout.flush()
    speed = stream.speed()
    _note(f"{speed['prompt_tokens']} tokens of prompt at {speed['prompt_tokens_per_second']:,.0f} a second, "
          f"{len(stream.tokens)} new ones at {speed['tokens_per_second']:,.0f} a second")  # fmt: skip


def _print(value: Any) -> None:
    if isinstance(value, dict):
        print(json.dumps(value, indent=2), flush=True)
        return
    from rich.console import Console

    # A table is data: beside a terminal it keeps its full width.
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(value)


def _note(text: str) -> None:
    print(text, file=sys.stderr)


def _status(text: str) -> Any:
    return _stderr().status(f"{text} ...")


@contextlib.contextmanager
def _stages() -> Iterator[Any]:
    """Shows on a terminal what is being done, how much lies behind, and for how long it has been going on."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        BarColumn(20),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=_stderr(), transient=True) as progress:
        bar = progress.add_task("loading", total=1.0)
        yield lambda doing, share: progress.update(bar, description=doing, completed=share)


def _stderr() -> Any:
    from rich.console import Console

    return Console(stderr=True)
