from tests.tiny import _bert

ROW = _bert.encoder("xlm-roberta", "roberta", operations=58, max_position_embeddings=35)
