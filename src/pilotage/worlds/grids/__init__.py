"""Grid worlds, each solved by one plan: states, generators, solvers, the answer grammar, the judge, pictures."""
