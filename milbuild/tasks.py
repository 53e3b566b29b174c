"""What a model is asked for: the tasks by transformers' pipeline names, their synonyms, and transformers' classes for them.

Imports nothing heavy: `milbuild list` and `--help` read it.
"""

from dataclasses import dataclass

from milbuild.errors import Error


@dataclass(frozen=True)
class Task:
    """`auto` is the transformers class of the reference, `suffix` what its checkpoints' `architectures` end with.

    `synonyms` are the names of huggingface/exporters.
    """

    name: str
    auto: str
    suffix: str
    synonyms: tuple[str, ...]
    caches: tuple[str, ...] = ("none",)
    what: str = ""


ALL_CACHES = ("none", "io", "state")

TASKS = {
    task.name: task
    for task in (
        Task(
            "feature-extraction", "AutoModel", "Model", ("default",), ALL_CACHES, "hidden states after the last layer"
        ),
        Task(
            "text-generation",
            "AutoModelForCausalLM",
            "LMHeadModel",
            ("causal-lm",),
            ALL_CACHES,
            "scores of the next token",
        ),
        Task(
            "text-classification",
            "AutoModelForSequenceClassification",
            "ForSequenceClassification",
            ("sequence-classification",),
            what="scores of each label for the whole text",
        ),
        Task(
            "token-classification",
            "AutoModelForTokenClassification",
            "ForTokenClassification",
            ("token-classification",),
            what="scores of each label for each token",
        ),
        Task(
            "question-answering",
            "AutoModelForQuestionAnswering",
            "ForQuestionAnswering",
            ("question-answering",),
            what="scores of each token for beginning and ending the answer",
        ),
    )
}
DEFAULT = "text-generation"
WITH_PAST = "-with-past"


def resolve(name: str, supported: tuple[str, ...], model_type: str) -> tuple[Task, bool]:
    """(the task, whether a cache was asked for) of a task's name, synonym, or either with `-with-past`. Raises `Error`."""
    plain = name.removesuffix(WITH_PAST)
    for task in TASKS.values():
        if plain in (task.name, *task.synonyms):
            if task.name not in supported:
                raise Error(f"{model_type} has no task {task.name}; it has {', '.join(supported)}")
            return task, name.endswith(WITH_PAST)
    raise Error(f"there is no task {name!r}; {model_type} has {', '.join(supported)}")


def guess(architectures: list[str] | None, supported: tuple[str, ...]) -> str:
    """The task a checkpoint was trained for, by the class it was saved from; text-generation where that says nothing."""
    for architecture in architectures or ():
        for task in TASKS.values():
            if task.suffix != "Model" and architecture.endswith(task.suffix) and task.name in supported:
                return task.name
    return DEFAULT if DEFAULT in supported else supported[0]
