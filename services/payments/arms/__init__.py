"""The consumer arms, one module each: the order of the steps is the arm's semantics."""
