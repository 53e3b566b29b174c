"""What families share, as plain functions over MIL's builder.

A function takes the tokens' values and `w`, the cursor of the module that it is: `w` reads the parameters and names
the operations, so an operation called `transformer_h_0_attn_c_attn` is the module `transformer.h.0.attn.c_attn`.
The layout is (B, T, D): batch, tokens, features; (B, H, T, E) inside attention: heads, width of a head.
"""
