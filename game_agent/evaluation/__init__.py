"""How well a model answers, in every mode: records of blocks, a question and right answers."""
