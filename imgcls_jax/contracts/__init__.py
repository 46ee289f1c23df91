"""What an objective and an evaluator must be, and the few lines that each of them needs."""
