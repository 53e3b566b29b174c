from tests.tiny import _bert

# Positions of a RoBERTa begin after the padding's, 5.
ROW = _bert.encoder("roberta", "roberta", operations=58, max_position_embeddings=35)
