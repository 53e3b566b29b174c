from tests.tiny import _llama
from tests.tiny._row import Tiny

ROW = Tiny(
    "mistral",
    _llama.WITH_HEAD_DIM | {"sliding_window": 5},
    operations=129,
    flags={**_llama.FLAGS, "no window": {"sliding_window": None}, "window 1": {"sliding_window": 1}},
    module_outputs=_llama.MODULE_OUTPUTS,
    in_files={"text-generation": _llama.IN_FILES},
)
