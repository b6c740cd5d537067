"""Which transformed data betrays its source: dataset classification (Zeng, Yin and Liu, "Understanding Bias in
Large-Scale Visual Datasets", arXiv 2412.01876), for images and for weights.

A classifier learns to tell from which of K collections an example comes. Where it still can after a transformation,
what that transformation keeps differs between the collections.
"""
