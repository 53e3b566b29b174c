from tests.tiny import _bert
from tests.tiny._row import Tiny

ROW = Tiny(
    "albert",
    # A layer that is called often makes all tokens alike: three calls of two groups, and no more.
    _bert.CONFIG | {"embedding_size": 20, "num_hidden_groups": 2, "inner_group_num": 1, "num_hidden_layers": 3},
    operations=53,
    flags={
        **_bert.FLAGS,
        "one group": {"num_hidden_groups": 1, "inner_group_num": 1},
        # Drawn together, the one that comes last leaves no group that nothing calls.
        "a group a layer": {"num_hidden_layers": 3, "num_hidden_groups": 3},
        "two layers a group": {"num_hidden_layers": 2, "num_hidden_groups": 2, "inner_group_num": 2},
    },
    # Its layers are called several times: no module's output is that of one of them.
    module_outputs=("albert.embeddings", "albert.encoder.embedding_hidden_mapping_in"),
    in_files={"fill-mask": (*_bert.IN_FILES[:2], "pooler.weight", "pooler.bias", "sop_classifier.classifier.weight")},
)
