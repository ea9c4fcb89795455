"""Grid worlds, answered by one plan or move by move: states, generators, solvers, pictures, views, agents."""
