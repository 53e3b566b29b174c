"""What the rows of encoder-decoders have in common."""

CONFIG = {"vocab_size": 61, "pad_token_id": 5, "eos_token_id": 2, "decoder_start_token_id": 5, "num_labels": 7}
