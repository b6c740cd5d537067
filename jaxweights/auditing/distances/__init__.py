"""Distances of networks as they are: of weights, of what is computed, of what is got wrong.

* `euclidean`: exact nearest neighbours, from `products` with proven errors, `candidates` and what `groups` leave out.
* `hull`, `affine`: residuals of mixtures of training networks.
* `function`: distances of outputs on a probe set.
* `similarity`: overlap of the sets of wrongly predicted examples.
"""
