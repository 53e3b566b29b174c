"""For authors of model types: what transformers knows of one (knowledge), and the files that hold it (files)."""
