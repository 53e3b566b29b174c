from tests.tiny import _llama
from tests.tiny._row import Tiny

ROW = Tiny(
    "gemma3_text",
    _llama.WITH_HEAD_DIM
    | {
        "sliding_window": 5,
        "query_pre_attn_scalar": 7,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention"],
    },
    operations=186,
    flags={
        **{name: flag for name, flag in _llama.FLAGS.items() if name != "relu"},
        **_llama.ATTENTION_BIAS,
        "relu": {"hidden_activation": "relu"},
        "two ropes": {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
            }
        },
        "bounded scores": {"final_logit_softcapping": 4.0, "attn_logit_softcapping": 3.0},
        "all layers see everything": {"layer_types": ["full_attention"] * 4},
    },
    module_outputs=(
        *_llama.MODULE_OUTPUTS,
        "model.layers.*.pre_feedforward_layernorm",
        "model.layers.*.post_feedforward_layernorm",
    ),
    in_files={"text-generation": _llama.IN_FILES},
)
