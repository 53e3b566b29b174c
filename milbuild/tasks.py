"""What a model is asked for: the tasks by transformers' pipeline names, their synonyms, and transformers' classes for them.

Imports nothing heavy: `milbuild list` and `--help` read it.
"""

from dataclasses import dataclass
from typing import Any

from milbuild.errors import Error


@dataclass(frozen=True)
class Task:
    """`auto` is the transformers class of the reference, `suffixes` what its checkpoints' `architectures` end with.

    `synonyms` are the names of huggingface/exporters, and of pipelines that several classes serve.

    What others ask of it: whether it `generates` tokens, and so goes on where the last call stopped; has `two_functions`, an
    encoder's and a decoder's; takes texts in `pairs`, or several `choices` of a question; has states that a pooling makes one
    vector of (`pooled`); has scores of config.id2label (`labelled`), of which there is one set for the whole input
    (`classifies`); gives one output for a `whole_text`; and whether its outputs can be `few` nearly equal numbers.
    """

    name: str
    auto: str
    suffixes: tuple[str, ...]
    synonyms: tuple[str, ...]
    what: str
    generates: bool = False
    two_functions: bool = False
    pairs: bool = False
    choices: bool = False
    pooled: bool = False
    labelled: bool = False
    classifies: bool = False
    whole_text: bool = False
    few: bool = False


_ALL = (
    Task("feature-extraction", "AutoModel", (), ("default",), "hidden states after the last layer", pooled=True),
    Task(
        "text-encoding",
        "AutoModelForTextEncoding",
        ("EncoderModel",),
        (),
        "hidden states of the encoder alone",
        pooled=True,
    ),
    Task(
        "text-generation",
        "AutoModelForCausalLM",
        ("LMHeadModel", "ForCausalLM"),
        ("causal-lm",),
        "scores of the next token",
        generates=True,
    ),
    Task(
        "text2text-generation",
        "AutoModelForSeq2SeqLM",
        ("ForConditionalGeneration", "MTModel"),
        ("seq2seq-lm",),
        "scores of the next token of an answer to a text",
        generates=True,
        two_functions=True,
    ),
    Task("fill-mask", "AutoModelForMaskedLM", ("ForMaskedLM",), ("masked-lm",), "scores of the token at each place"),
    Task(
        "text-classification",
        "AutoModelForSequenceClassification",
        ("ForSequenceClassification",),
        ("sequence-classification",),
        "scores of each label for the whole text",
        pairs=True,
        labelled=True,
        classifies=True,
        whole_text=True,
        few=True,
    ),
    Task(
        "token-classification",
        "AutoModelForTokenClassification",
        ("ForTokenClassification",),
        (),
        "scores of each label for each token",
        labelled=True,
        few=True,
    ),
    Task(
        "question-answering",
        "AutoModelForQuestionAnswering",
        ("ForQuestionAnswering",),
        (),
        "scores of each token for beginning and ending the answer",
        pairs=True,
        few=True,
    ),
    Task(
        "multiple-choice",
        "AutoModelForMultipleChoice",
        ("ForMultipleChoice",),
        (),
        "a score of each of several texts",
        pairs=True,
        choices=True,
        whole_text=True,
        few=True,
    ),
    Task(
        "next-sentence-prediction",
        "AutoModelForNextSentencePrediction",
        ("ForNextSentencePrediction",),
        (),
        "whether the second text follows the first",
        pairs=True,
        whole_text=True,
        few=True,
    ),
    Task(
        "image-classification",
        "AutoModelForImageClassification",
        ("ForImageClassification",),
        (),
        "scores of each label for an image",
        labelled=True,
        classifies=True,
        few=True,
    ),
    Task(
        "masked-im",
        "AutoModelForMaskedImageModeling",
        ("ForMaskedImageModeling",),
        ("masked-image-modeling",),
        "the image under masked patches",
    ),
    Task(
        "semantic-segmentation",
        "AutoModelForSemanticSegmentation",
        ("ForSemanticSegmentation",),
        ("image-segmentation",),
        "the label of each pixel",
        labelled=True,
        few=True,
    ),
    Task(
        "object-detection",
        "AutoModelForObjectDetection",
        ("ForObjectDetection",),
        (),
        "boxes with scores of each label",
        labelled=True,
        few=True,
    ),
    Task(
        "ctc",
        "AutoModelForCTC",
        ("ForCTC",),
        ("automatic-speech-recognition",),
        "scores of a letter at each frame of audio",
    ),
    Task(
        "speech-seq2seq",
        "AutoModelForSpeechSeq2Seq",
        ("ForConditionalGeneration",),
        ("automatic-speech-recognition", "speech2seq-lm"),
        "scores of the next token of a transcript",
        generates=True,
        two_functions=True,
    ),
    Task(
        "audio-classification",
        "AutoModelForAudioClassification",
        ("ForSequenceClassification", "ForAudioClassification"),
        (),
        "scores of each label for audio",
        labelled=True,
        classifies=True,
        few=True,
    ),
    Task(
        "audio-frame-classification",
        "AutoModelForAudioFrameClassification",
        ("ForAudioFrameClassification",),
        (),
        "scores of each label for each frame of audio",
        labelled=True,
        few=True,
    ),
    Task("audio-xvector", "AutoModelForAudioXVector", ("ForXVector",), ("x-vector",), "a vector of who speaks"),
)
TASKS = {task.name: task for task in _ALL}
ALL_CACHES = ("none", "io", "state")
WITH_PAST = "-with-past"


def caches(task: str, decoder: bool) -> tuple[str, ...]:
    """The caches of a task; `decoder`: the model looks backwards whatever its configuration says."""
    return ALL_CACHES if TASKS[task].generates or (decoder and task == "feature-extraction") else ("none",)


def resolve(name: str, supported: tuple[str, ...], model_type: str) -> tuple[Task, bool]:
    """(the task, whether a cache was asked for) of a task's name, synonym, or either with `-with-past`. Raises `Error`."""
    plain = name.removesuffix(WITH_PAST)
    named = [task for task in _ALL if plain in (task.name, *task.synonyms)]
    for task in named:
        if task.name in supported:
            return task, name.endswith(WITH_PAST)
    if named:
        raise Error(f"{model_type} has no task {named[0].name}; it has {', '.join(supported)}")
    raise Error(f"there is no task {name!r}; {model_type} has {', '.join(supported)}")


def named(config: Any, supported: tuple[str, ...]) -> str | None:
    """The task of the class that a checkpoint was saved from, the base class's too; None where that says nothing."""
    for architecture in config.architectures or ():
        if architecture == f"{config.class_name.removesuffix('Config')}Model":
            return "feature-extraction"
        for task in _ALL:
            if architecture.endswith(task.suffixes) and task.name in supported:
                return task.name
    return None


def guess(config: Any, supported: tuple[str, ...], decoder: bool) -> str:
    """The task a checkpoint was trained for (`named`); where nothing says so, text-generation for a decoder, the first that is
    supported for others."""
    return named(config, supported) or ("text-generation" if decoder else supported[0])
