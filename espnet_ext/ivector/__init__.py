"""Speaker embeddings of a generative model: GMM-UBM, total variability, i-vectors; no label is needed."""
