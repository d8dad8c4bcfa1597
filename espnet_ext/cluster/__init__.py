"""Clustering of embeddings and frames: k-means, residual k-means, agglomerative clustering; torch, CPU and GPU."""
