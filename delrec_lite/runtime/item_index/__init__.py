"""The item index: a few numbers for each item that find the best of a large catalogue, whose scores are then exact."""
