"""New data on top of a finished run: its data set grows, training goes on, the old bundle stays until it is beaten."""
