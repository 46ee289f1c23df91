"""What an objective and an evaluator must be, and the code that they share."""
