"""Layers that task networks and generators share, as Flax Linen modules.

| module | holds |
|---|---|
| `parameters` | how a parameter is declared, the initialisers, initialisation from one random draw |
| `activations` | activation functions by name, with the rescaling of units that each admits |
| `dense` | dense layers and chains of layers |
| `convolution` | convolutions of `[B, H, W, C]` maps, depthwise ones, patches |
| `strided` | convolutions that halve or double maps, with fast derivatives of any order |
| `conv_pool` | convolution and pooling of many small networks at once, batch-minor |
| `maps` | layers on batch-minor maps |
| `conv1d` | convolutions of one-dimensional signals |
| `normalization` | layer and batch normalisation, running statistics |
| `dropout` | masks from each example's own key |
| `mamba` | state-space layers |
| `timesteps` | embedded timesteps of a diffusion |
| `transformer` | tokens and transformer blocks over weight vectors |
| `leaves` | how a network declares its leaves and its symmetries |

Flax's own layers differ from these in the last bit or in their initial draws, which published vectors and checkpoints
depend on; activations and poolings are Flax's.
"""
