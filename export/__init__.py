"""From a training run to a bundle: merge the adapter, add soft prompt and items, quantise, compare, write."""
