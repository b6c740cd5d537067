"""Networks compared modulo what a WeightSpec says leaves them the same function: order, scale, signs of hidden units.

* `canonical`: balanced scales. `reordering`, `hidden_units`: units in another order.
* `hidden_layer`, with `lower_bounds`: exact nearest neighbours, for networks with one hidden layer.
* `matching`: weight matching of many pairs, for any spec; `climbing`, `assignment` on devices, `host_climbing`,
  `host_kernels` on the cores of a CPU, `few_climbing` for few pairs.
* `quotient`: nearest neighbours by matching; distances are upper bounds. `aligners` chooses among the two.
* `coordinates`: networks as vectors, every one matched to one reference.
* `twins`: networks that are one another.
"""
