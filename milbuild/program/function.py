"""One function of a package: plan + checkpoint + model class -> its MIL function, with every input and output named."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import coremltools as ct
import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Function, Var, types

from milbuild.caches import Cache, Cross, Returned, cross
from milbuild.errors import Error
from milbuild.heads import sentences
from milbuild.heads.head import Outputs
from milbuild.layers.linear import last_tokens, shift_right
from milbuild.lowering.writer import Description, Dimension, Feature
from milbuild.program.inputs import Inputs
from milbuild.program.options import Output
from milbuild.program.outputs import LABEL, SENTENCE, TEXTS, meanings, postprocessed, text
from milbuild.program.plan import PROMPT, Plan, parse_pooling
from milbuild.weights import Checkpoint, Cursor
from milbuild.weights.fields import Config

# Values of a function's outputs with their descriptions, by name
Produced = dict[str, tuple[Var, Feature]]


class Graph:
    """One function of the package: its inputs and states, the cache over them, the model, the head, its outputs."""

    declares: type[Inputs] = Inputs

    def __init__(self, plan: Plan, name: str, checkpoint: Checkpoint, config: Config, family: type[Any]) -> None:
        self.plan, self.config, self.family, self.checkpoint = plan, config, family, checkpoint
        self.inputs = self.declares(plan, config, family, checkpoint, name)
        self.weights = Cursor(checkpoint, np.dtype(plan.precision), family.prefix) / family.prefix
        self.produced: Produced = {}

    def function(self) -> tuple[Function, Description]:
        declared, new = self.inputs, self.inputs.renamed()
        placeholders = {new.get(name, name): each for name, each in declared.placeholders.items()}
        with Function(placeholders, opset_version=ct.target[self.plan.target]) as function:
            inputs = {name: function.inputs[new.get(name, name)] for name in declared.placeholders}
            given = declared.given(inputs)
            if declared.parts == ("encoder",) and self.plan.apart:
                self.produced = self._read(inputs, given)
            else:
                self.produced = self._answered(inputs, given)
            values, features = self._changed(self.produced)
            function.set_outputs(list(values.values()))
        described = [replace(feature, name=new.get(feature.name, feature.name)) for feature in declared.features]
        return function, Description(described, features, declared.states)

    def _read(self, inputs: dict[str, Var], given: dict[str, Any]) -> Produced:
        """`encode`: the encoder's states, and the keys and values that every layer of the decoder makes of them."""
        model = self.family(self.config, self.weights, self.inputs.encoder_cache(inputs, given))
        states = model.encode(**given)
        keys, values = model.cross(states)
        produced = self._named({"encoder_last_hidden_state": states})
        if self.plan.cross_in_state:
            cross.store(inputs, keys, values, [each.name for each in self.inputs.kept if each.state])
            return produced
        return produced | self._returned(cross.outputs(keys, values))

    def _answered(self, inputs: dict[str, Var], given: dict[str, Any]) -> Produced:
        """What the task's head makes of the hidden states, and with cache io what the cache gives back."""
        plan, declared = self.plan, self.inputs
        named = inputs
        if plan.num_choices is not None:
            named = {name: declared.as_batch(var) for name, var in inputs.items()}
            given = declared.given(named)
        head = self.family.heads[plan.task]
        if declared.parts == ("encoder",):
            model = self.family(self.config, self.weights, declared.encoder_cache(named, given))
            hidden = model.encode(**given)
        elif declared.parts:
            model, hidden = self._decoded(named, given)
        else:
            model = self.family(self.config, self.weights, declared.cache(named, given))
            hidden = model.hidden_states(**given)
        if plan.logits == "last":
            hidden = last_tokens(hidden, f"{model.weights.name}_last")
        given["num_choices"] = plan.num_choices
        results = head(model, hidden, given)
        if plan.pooling is not None:
            results = {SENTENCE: self._sentence(results["last_hidden_state"], model.cache, named)}
        if not plan.raw:
            mask = named.get(declared.names.attention_mask)
            results = postprocessed(plan.task, results, self.config, plan.image_size, mask)
        return self._named(results) | self._present(model)

    def _sentence(self, hidden: Var, cache: Cache, inputs: dict[str, Var]) -> Var:
        """One vector for each text of its states."""
        plan = self.plan
        assert plan.pooling is not None
        w = Cursor(self.checkpoint.modules if plan.modules else self.checkpoint, self.weights.dtype, "", "", "sentence")
        mask, prompt = inputs.get(self.inputs.names.attention_mask), inputs.get(PROMPT)
        x = sentences.pooled(hidden, cache.query_positions, mask, prompt, parse_pooling(plan.pooling), w)
        recipe = self.checkpoint.recipe
        if plan.modules and recipe is not None:
            x = sentences.after_pooling(x, recipe.steps, w)
            self.checkpoint.modules.check((), (), "")
        return sentences.normalized(x, w / "unit") if plan.normalize else x

    def _decoded(self, inputs: dict[str, Var], given: dict[str, Any]) -> tuple[Any, Var]:
        """The decoder and its hidden states, after the encoder in the same function or in one of its own."""
        declared = self.inputs
        if declared.parts == ("decoder",):
            seen = self._cross(inputs, given)
        else:
            reader = self.family(self.config, self.weights, declared.encoder_cache(inputs, given))
            decoder_input_ids = given.pop("decoder_input_ids", None)
            states = reader.encode(**given)
            keys, values = reader.cross(states)
            seen = Cross.of(keys, values, declared.geometry.layers, reader.cache.attention_mask)
            given["encoder_last_hidden_state"] = states
            if decoder_input_ids is None:
                # T5's configuration class has no such field, only the files that name it.
                decoder_input_ids = shift_right(
                    given["input_ids"], getattr(self.config, "decoder_start_token_id", None)
                )
            given["decoder_input_ids"] = decoder_input_ids
        model = self.family(self.config, self.weights, declared.cache(inputs, given))
        return model, model.hidden_states(given["decoder_input_ids"], seen)

    def _cross(self, inputs: dict[str, Var], given: dict[str, Any]) -> Cross:
        """Keys and values of the encoder's states, of a decoder in a function of its own."""
        return self.inputs.cross(inputs)

    # Outputs

    def _named(self, results: Outputs) -> Produced:
        """Outputs under their names, with their descriptions."""
        produced = {}
        for name, value in results.items():
            var = self._output(value, name)
            produced[name] = (var, self._feature(name, var))
        return produced

    def _changed(self, produced: Produced) -> tuple[dict[str, Var], list[Feature]]:
        """Outputs as `plan.outputs` has them: renamed, described, left out."""
        changes = {name: self.plan.outputs.get(name, Output()) for name in produced}
        variables, described = {}, []
        for before, (var, feature) in produced.items():
            change = changes[before]
            if change is None:
                continue
            name = change.name or before
            if name in variables or name in self.inputs.placeholders:
                raise Error(f"outputs gives the name {name} to what is not alone in having it")
            var.name = name
            variables[name] = var
            described.append(replace(feature, name=name, text=change.text or feature.text))
        if not variables:
            raise Error("outputs leaves nothing that the package would give")
        return variables, described

    def _output(self, var: Var, name: str) -> Var:
        """Gives a value its name at the interface and the type that the target has there."""
        if self.inputs.io_dtype != self.plan.precision and types.is_tensor(var.sym_type) and var.dtype == types.fp16:
            half = var
            var = mb.cast(x=half, dtype="fp32", name=f"{half.op.name}_float32")
            if half.name == name:
                half.name = f"{name}_float16"
        var.name = name
        return var

    def _feature(self, name: str, var: Var) -> Feature:
        spelled = meanings(self.plan.task, self.config, self.checkpoint)
        if name == LABEL:
            return Feature(name, "label", None, TEXTS[name])
        if not types.is_tensor(var.sym_type):
            return Feature(name, "probabilities", None, f"{TEXTS[name]}{spelled}")
        shape, dimensions = self._shape(var)
        dtype = "float32" if var.dtype == types.fp32 else "int32" if var.dtype == types.int32 else "float16"
        recipe = f" Made by {self.plan.vector}." if name == SENTENCE else ""
        said = text(name, self.plan.task, self.config)
        return Feature(name, dtype, shape, f"{said} Shape {dimensions}.{recipe}{spelled}")

    def _shape(self, var: Var) -> tuple[tuple[Dimension, ...] | None, str]:
        dimensions = [d if isinstance(d, int) else None for d in var.shape]
        # Of audio alone the open length is one of frames.
        length = "frames" if self.inputs.takes == ("input_values",) else "tokens"
        spelled = ", ".join(length if d is None else str(d) for d in dimensions)
        return (None if None in dimensions else tuple(d for d in dimensions if d is not None)), f"({spelled})"

    def _present(self, model: Any) -> Produced:
        """Keys and values for the caller to keep."""
        return self._returned(self.inputs.kind_of_cache.outputs(self.inputs.cache_spec, model.cache))

    def _returned(self, values: Sequence[Returned]) -> Produced:
        produced = {}
        for name, value, said in values:
            var = self._output(value, name)
            shape, spelled = self._shape(var)
            produced[name] = (var, Feature(name, self.inputs.io_dtype, shape, f"{said} Shape {spelled}."))
        return produced
