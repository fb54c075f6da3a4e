"""`tune`: searches a recipe's best settings by Optuna, on validation users alone, for the model or its teachers."""
