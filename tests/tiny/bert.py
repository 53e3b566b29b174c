from tests.tiny import _bert

ROW = _bert.encoder("bert", "bert", operations=52)
