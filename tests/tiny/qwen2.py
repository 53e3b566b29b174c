from tests.tiny import _llama
from tests.tiny._row import Tiny

ROW = Tiny(
    "qwen2",
    _llama.CONFIG | {"max_window_layers": 2},
    operations=129,
    flags={**_llama.FLAGS, **_llama.WINDOWS},
    module_outputs=_llama.MODULE_OUTPUTS,
    in_files={"text-generation": _llama.IN_FILES},
)
