"""What the rows of vision models have in common."""

ACTIVATIONS = {function: {"hidden_act": function} for function in ("relu", "gelu_new", "quick_gelu")}
