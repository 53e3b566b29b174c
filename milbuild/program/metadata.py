"""What a package says of itself: where it comes from, what it was built by, what its consumers read."""

import json
from typing import TYPE_CHECKING, Any

import coremltools as ct

from milbuild.program.outputs import preview
from milbuild.program.plan import METADATA_KEY, Plan
from milbuild.tasks import TASKS
from milbuild.weights import Checkpoint
from milbuild.weights.checkpoint import tokenizer_digest
from milbuild.weights.fields import Config
from milbuild.weights.generation_config import METADATA_KEY as GENERATION_KEY
from milbuild.weights.generation_config import kept

if TYPE_CHECKING:
    pass

SENTENCE_KEY = "milbuild.sentence_transformers"
MODEL_TYPE_KEY = "milbuild.model_type"
# Says "off" in a package whose build lint was not asked about; it is not there in others.
LINT_KEY = "milbuild.lint"
SOURCE_KEY = "milbuild.source"  # the checkpoint: a hub id or a folder's name, never its path
COMMIT_KEY = "milbuild.commit"  # of a hub id
TOKENIZER_KEY = "milbuild.tokenizer"  # which tokenizer lay beside the weights (weights.checkpoint.tokenizer_digest)


def write_metadata(metadata: Any, checkpoint: Checkpoint, config: Config, plan: Plan, lint: bool) -> None:
    from importlib.metadata import version

    author, license_ = checkpoint.credits()
    metadata.shortDescription = f"{checkpoint.name} ({config.model_type}) for {plan.task}, built by milbuild."
    metadata.author, metadata.license = author, license_
    metadata.userDefined.update(
        {
            "milbuild.version": version("milbuild"),
            SOURCE_KEY: checkpoint.name,
            **({COMMIT_KEY: checkpoint.commit} if checkpoint.commit else {}),
            **({TOKENIZER_KEY: digest} if (digest := tokenizer_digest(checkpoint.folder)) else {}),
            MODEL_TYPE_KEY: config.model_type,
            METADATA_KEY: plan.as_json(),
            **({} if lint else {LINT_KEY: "off"}),
            **_sentence_facts(checkpoint, plan),
            **({} if plan.raw else preview(plan.task, config)),
            **({GENERATION_KEY: kept(checkpoint.generation)} if TASKS[plan.task].generates else {}),
            "com.github.apple.coremltools.version": ct.__version__,
            "transformers_version": version("transformers"),
            # What swift-transformers and exporters' tools read: the tokenizer's repository is the name.
            "co.huggingface.exporters.name": checkpoint.name,
            "co.huggingface.exporters.task": plan.task,
            "co.huggingface.exporters.architecture": (config.architectures or [config.model_type])[0],
            "co.huggingface.exporters.framework": "pytorch",
            "co.huggingface.exporters.precision": plan.precision,
        }
    )


def _sentence_facts(checkpoint: Checkpoint, plan: Plan) -> dict[str, str]:
    """What a repository of sentence-transformers says of the texts that a vector is made of: prompts, their longest."""
    facts = {} if checkpoint.recipe is None or plan.pooling is None else checkpoint.recipe.facts
    return {SENTENCE_KEY: json.dumps(facts, sort_keys=True)} if facts else {}
