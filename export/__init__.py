"""From a training run to a bundle: merge the adapter, bake soft prompt and items, quantise, prove, write."""
