"""The generator of the embedded corpus; the command is ``make_corpus.py`` beside this folder."""
