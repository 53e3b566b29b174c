from tests.tiny import _llama
from tests.tiny._row import Tiny

ROW = Tiny(
    "smollm3",
    _llama.CONFIG | {"no_rope_layer_interval": 2},
    operations=119,
    flags={
        **_llama.FLAGS,
        **_llama.WINDOWS,
        **_llama.ATTENTION_BIAS,
        "mlp bias": {"mlp_bias": True},
        "chosen layers": {"no_rope_layers": [0, 1, 1, 0]},
    },
    module_outputs=_llama.MODULE_OUTPUTS,
    in_files={"text-generation": _llama.IN_FILES},
)
