"""Every kind of input and output that an ML Program can have, in packages of coremltools' own making."""

from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools import proto
from coremltools.converters.mil import Builder as mb
from PIL import Image

from milbuild import Error, runtime

TARGETS = [ct.target.iOS15, ct.target.iOS16, ct.target.iOS17, ct.target.iOS18, ct.target.iOS26]


def convert(path: Path, program: Any, inputs: Any = None, outputs: Any = None, **options: Any) -> Any:
    """The package that coremltools makes of a program with all its passes, and its spec."""
    options.setdefault("minimum_deployment_target", ct.target.iOS18)
    if outputs:
        for function in program.functions.values():
            function.set_output_types(outputs)
    model = ct.convert(program, source="milinternal", inputs=inputs, skip_model_load=True, **options)
    model.save(str(path / "x.mlpackage"))
    return path / "x.mlpackage"


def edit(path: Path, change: Any) -> Path:
    """Changes the saved protobuf, as another writer might have written it."""
    file = path / "Data/com.apple.CoreML/model.mlmodel"
    spec = proto.Model_pb2.Model.FromString(file.read_bytes())
    change(spec)
    file.write_bytes(spec.SerializeToString())
    return path


def picture(width: int, height: int, mode: str) -> Image.Image:
    random = np.random.default_rng(0)
    if mode == "F":
        return Image.fromarray(random.random((height, width), np.float32) * 3 - 1)
    shape = (height, width) if mode == "L" else (height, width, len(mode))
    return Image.fromarray(random.integers(0, 256, shape, np.uint8), mode)


@pytest.mark.parametrize("layout", [ct.colorlayout.RGB, ct.colorlayout.BGR, ct.colorlayout.GRAYSCALE])
@pytest.mark.filterwarnings("ignore:.*mode.*deprecated:DeprecationWarning")
def test_images(tmp_path: Path, layout: Any) -> None:
    """scale and bias are in the program; BGR turns the channels, coming and going."""
    gray = layout == ct.colorlayout.GRAYSCALE
    channels, mode = (1, "L") if gray else (3, "RGB")

    @mb.program(input_specs=[mb.TensorSpec((1, channels, 4, 6))], opset_version=ct.target.iOS18)
    def program(image: Any) -> Any:
        return mb.add(x=image, y=np.float32(2), name="brighter"), mb.mul(x=image, y=np.float32(1), name="plain")

    bias = 0.5 if gray else [0.5, 1.5, 2.5]
    path = convert(
        tmp_path,
        program,
        [ct.ImageType("image", (1, channels, 4, 6), scale=2.0, bias=bias, color_layout=layout)],
        [ct.ImageType("brighter", color_layout=layout), ct.TensorType("plain")],
        compute_precision=ct.precision.FLOAT32,
    )
    image = picture(6, 4, mode)
    pixels = np.asarray(image).reshape(4, 6, channels).transpose(2, 0, 1)[None].astype(np.float32)
    ordered = pixels[:, ::-1] if layout == ct.colorlayout.BGR else pixels
    expected = ordered * 2 + np.reshape(bias, (1, -1, 1, 1))
    result = runtime.load(path).predict({"image": image})
    np.testing.assert_allclose(result["plain"], expected, rtol=1e-6)
    assert result["brighter"].mode == ("L" if gray else "RGBA")
    bright = np.clip(np.round(expected + 2), 0, 255)[0]
    bright = bright[::-1] if layout == ct.colorlayout.BGR else bright
    got = np.asarray(result["brighter"]).reshape(4, 6, -1).transpose(2, 0, 1)
    assert np.array_equal(got[:channels], bright)
    assert gray or (got[3] == 255).all()

    for wrong, text in (
        (picture(4, 6, mode), "the input image is an image of 4 x 6; it takes 6 x 4"),
        (picture(6, 4, "RGBA"), f"takes an image of the mode {mode}, got RGBA"),
        (np.zeros((4, 6)), "takes a PIL.Image"),
    ):
        with pytest.raises(Error, match=text):
            runtime.load(path).predict({"image": wrong})


def test_float_images(tmp_path: Path) -> None:
    @mb.program(
        input_specs=[mb.TensorSpec((1, 1, 3, 5), dtype=ct.converters.mil.mil.types.fp16)],
        opset_version=ct.target.iOS18,
    )
    def program(image: Any) -> Any:
        return mb.mul(x=image, y=np.float16(2), name="twice")

    layout = ct.colorlayout.GRAYSCALE_FLOAT16
    inputs = [ct.ImageType("image", (1, 1, 3, 5), color_layout=layout)]
    path = convert(tmp_path, program, inputs, [ct.ImageType("twice", color_layout=layout)])
    image = picture(5, 3, "F")
    result = runtime.load(path).predict({"image": image})["twice"]
    assert result.mode == "F"
    assert np.array_equal(np.asarray(result), (np.asarray(image, np.float16) * 2).astype(np.float32))


@pytest.mark.parametrize("flexible", ["listed", "ranged"])
def test_image_sizes(tmp_path: Path, flexible: str) -> None:
    symbol = ct.converters.mil.mil.get_new_symbol

    @mb.program(input_specs=[mb.TensorSpec((1, 3, symbol(), symbol()))], opset_version=ct.target.iOS18)
    def program(image: Any) -> Any:
        return mb.reduce_mean(x=image, axes=[1, 2, 3], name="mean")

    shapes = [(1, 3, 4, 6), (1, 3, 8, 2)]
    shape: Any = (
        ct.EnumeratedShapes(shapes) if flexible == "listed" else ct.Shape((1, 3, ct.RangeDim(2, 8), ct.RangeDim(1, 6)))
    )
    path = convert(tmp_path, program, [ct.ImageType("image", shape)], compute_precision=ct.precision.FLOAT32)
    model = runtime.load(path)
    for height, width in ((4, 6), (8, 2)):
        image = picture(width, height, "RGB")
        np.testing.assert_allclose(model.predict({"image": image})["mean"], np.asarray(image).mean(), rtol=1e-6)
    text = "listed are 2 x 8, 6 x 4" if flexible == "listed" else "it takes 1 to 6 x 2 to 8"
    with pytest.raises(Error, match=f"an image of 7 x 4; {text}"):
        model.predict({"image": picture(7, 4, "RGB")})


@pytest.mark.parametrize("default", [None, 1.5])
def test_optional_inputs(tmp_path: Path, default: float | None) -> None:
    @mb.program(input_specs=[mb.TensorSpec((2,)), mb.TensorSpec((2,))], opset_version=ct.target.iOS18)
    def program(x: Any, y: Any) -> Any:
        return mb.add(x=x, y=y, name="sum")

    value = None if default is None else np.full((2,), default, np.float32)
    inputs = [ct.TensorType("x", (2,)), ct.TensorType("y", (2,), default_value=value)]
    path = convert(tmp_path, program, inputs, compute_precision=ct.precision.FLOAT32)
    model = runtime.load(path)
    assert np.array_equal(model.predict({"x": [1, 2], "y": [3, 4]})["sum"], [4, 6])
    if default is None:
        with pytest.raises(Error, match="needs the input y"):
            model.predict({"x": [1, 2]})
    else:
        assert np.array_equal(model.predict({"x": [1, 2]})["sum"], [2.5, 3.5])
        with pytest.raises(Error, match="needs the input x"):
            model.predict({"y": [1, 2]})


def test_optional_without_a_default(tmp_path: Path) -> None:
    """coremltools never writes one; a description that says no value means zeros."""

    @mb.program(input_specs=[mb.TensorSpec((2,)), mb.TensorSpec((2,))], opset_version=ct.target.iOS18)
    def program(x: Any, y: Any) -> Any:
        return mb.sub(x=x, y=y, name="difference")

    path = convert(tmp_path, program, [ct.TensorType("x", (2,)), ct.TensorType("y", (2,))])
    (file,) = path.rglob("*.mlmodel")
    spec = ct.utils.load_spec(str(file))
    for feature in spec.description.input:
        feature.type.isOptional = feature.name == "y"
    file.write_bytes(spec.SerializeToString())
    assert np.array_equal(runtime.load(path).predict({"x": [1, 2]})["difference"], [1, 2])


@pytest.mark.parametrize(
    ("dtype", "target"),
    [
        (dtype, target)
        for dtype, oldest in {"float16": "iOS16", "float32": "iOS15", "int32": "iOS15", "int8": "iOS26"}.items()
        for target in TARGETS
        if target >= ct.target[oldest]
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_types_of_arrays_by_target(tmp_path: Path, target: Any, dtype: str) -> None:
    types = ct.converters.mil.mil.types
    kind = {"float16": types.fp16, "float32": types.fp32, "int32": types.int32, "int8": types.int8}[dtype]

    @mb.program(input_specs=[mb.TensorSpec((3,), dtype=kind)], opset_version=target)
    def program(x: Any) -> Any:
        y = mb.cast(x=x, dtype="fp32") if dtype in ("int8", "int32") else x
        z = mb.mul(x=y, y=np.float16(0.1) if dtype == "float16" else np.float32(0.1))
        return mb.cast(x=z, dtype="int32", name="whole"), mb.identity(x=z, name="tenth")

    path = convert(tmp_path, program, minimum_deployment_target=target, compute_precision=ct.precision.FLOAT32)
    x = np.float32([70, -33, 12])
    result = runtime.load(path).predict({"x": x})
    assert result["tenth"].dtype == np.float32
    assert result["whole"].dtype == np.int32
    np.testing.assert_allclose(result["tenth"], x * 0.1, rtol=2e-3 if dtype == "float16" else 1e-6)
    assert np.array_equal(result["whole"], [7 if dtype != "float16" else int(result["tenth"][0]), -3, 1])
    if dtype == "int8":
        with pytest.raises(Error, match="whole numbers of 8 bits"):
            runtime.load(path).predict({"x": [200, 0, 0]})


def test_doubles_and_other_features(tmp_path: Path) -> None:
    @mb.program(input_specs=[mb.TensorSpec((2,))], opset_version=ct.target.iOS18)
    def program(x: Any) -> Any:
        return mb.add(x=x, y=np.float32(1), name="y")

    path = convert(tmp_path, program, compute_precision=ct.precision.FLOAT32)
    types = proto.FeatureTypes_pb2.ArrayFeatureType

    def doubles(spec: Any) -> None:
        spec.description.input[0].type.multiArrayType.dataType = types.DOUBLE
        spec.description.output[0].type.multiArrayType.dataType = types.DOUBLE

    assert np.array_equal(runtime.load(edit(path, doubles)).predict({"x": [1.0, 2.0]})["y"], [2, 3])
    edit(path, lambda spec: spec.description.input[0].type.stringType.SetInParent())
    with pytest.raises(Error, match="the input x is a stringType; an ML Program takes multi-arrays and images"):
        runtime.load(path)


def test_other_kinds_of_models_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "n.mlpackage"
    builder = ct.models.neural_network.NeuralNetworkBuilder(
        [("x", ct.models.datatypes.Array(3))], [("y", ct.models.datatypes.Array(3))], disable_rank5_shape_mapping=True
    )
    builder.add_activation("relu", "RELU", "x", "y")
    ct.models.MLModel(builder.spec, skip_model_load=True).save(str(path))
    with pytest.raises(Error, match=r"n.mlpackage is a neuralNetwork, not an ML Program"):
        runtime.load(path)

    def pipeline(spec: Any) -> None:
        spec.pipeline.SetInParent()

    with pytest.raises(Error, match="is a pipeline of 0 models"):
        runtime.load(edit(path, pipeline))


def test_custom_layers_are_refused_by_name(tmp_path: Path) -> None:
    @mb.program(input_specs=[mb.TensorSpec((2,))], opset_version=ct.target.iOS18)
    def program(x: Any) -> Any:
        return mb.relu(x=x, name="y")

    path = convert(tmp_path, program)

    def custom(spec: Any) -> None:
        function = spec.mlProgram.functions["main"]
        for operation in function.block_specializations[function.opset].operations:
            if operation.type == "relu":
                operation.type = "custom_layer"

    with pytest.raises(Error, match=r"operation y.* is a custom_layer, which the runtime does not know"):
        runtime.load(edit(path, custom))


def test_several_functions_share_one_state(tmp_path: Path) -> None:
    from coremltools.converters.mil.mil import Function, Program, types

    program = Program()
    for name, factor in (("double", 2), ("treble", 3)):
        inputs = {
            "x": mb.placeholder((2,), types.fp16),
            "s": mb.state_tensor_placeholder((2,), types.fp16),
        }
        with Function(inputs, opset_version=ct.target.iOS18) as function:
            before = mb.read_state(input=function.inputs["s"], name=f"{name}_before")
            product = mb.mul(x=function.inputs["x"], y=np.float16(factor), name=f"{name}_product")
            after = mb.add(x=before, y=product, name=f"{name}_after")
            mb.coreml_update_state(state=function.inputs["s"], value=after, name=f"{name}_update")
            function.set_outputs([after])
        program.add_function(name, function)
    program.default_function_name = "double"
    program.export_as_multifunction = True
    program.skip_all_passes = True
    model = ct.convert(program, source="milinternal", minimum_deployment_target=ct.target.iOS18, skip_model_load=True)
    model.save(str(tmp_path / "m.mlpackage"))
    double, treble = (runtime.load(tmp_path / "m.mlpackage", name) for name in (None, "treble"))
    state = double.make_state()
    assert np.array_equal(double.predict({"x": [1, 2]}, state)["double_after"], [2, 4])
    assert np.array_equal(treble.predict({"x": [1, 2]}, state)["treble_after"], [5, 10])
    assert np.array_equal(state.read_state("s"), [5, 10])
    with pytest.raises(Error, match="has no function main; it has double, treble"):
        runtime.load(tmp_path / "m.mlpackage", "main")


def test_scalars_leave_with_one_axis(tmp_path: Path) -> None:
    @mb.program(input_specs=[mb.TensorSpec((3,))], opset_version=ct.target.iOS18)
    def program(x: Any) -> Any:
        return mb.reduce_sum(x=x, name="total")

    path = convert(tmp_path, program, compute_precision=ct.precision.FLOAT32)
    result = runtime.load(path).predict({"x": torch.ones(3)})["total"]
    assert result.shape == (1,)
    assert result[0] == 3
