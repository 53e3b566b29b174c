from tests.tiny import _llama
from tests.tiny._row import Tiny

ROW = Tiny(
    "qwen3",
    _llama.WITH_HEAD_DIM | {"max_window_layers": 2},
    operations=149,
    flags={**_llama.FLAGS, **_llama.WINDOWS, **_llama.ATTENTION_BIAS},
    module_outputs=_llama.MODULE_OUTPUTS,
    in_files={"text-generation": _llama.IN_FILES},
)
